"""The runs of an ablation that an earlier version wrote are read."""

import shutil
from pathlib import Path

from flaxyolo.ablation.study import records_of
from flaxyolo.crew.storage import read_study

WRITTEN = Path(__file__).resolve().parents[1] / "studies" / "ablation"


def test_its_runs_are_read(tmp_path):
    shutil.copytree(WRITTEN, tmp_path / "ab")
    known = records_of(read_study(tmp_path / "ab"))
    assert set(known) == {(arm, seed) for arm in ("baseline", "se", "drop") for seed in (0, 1)}
    for record in known.values():
        assert record.state == "complete"
        assert None not in (record.scores, record.train_scores, record.cost)
        assert [point.epoch for point in record.history] == [1, 2]
        assert all(point.objective is None for point in record.history)
        assert record.seconds["train"] > 0
