"""The same command with the same measurements is the same sweep."""

import pytest

from flaxyolo import sweep
from flaxyolo.cost import recorded
from flaxyolo.cost.recorded import MEASUREMENTS
from flaxyolo.crew.storage import read_runs
from flaxyolo.search.results import results
from tests.tiny_data import flags, write_coco

TRIALS = 2


def told(record):
    """All of a trial that hangs on no clock."""
    return {
        "state": record.state,
        "params": dict(record.params),
        "origin": record.origin,
        "stage": record.stage,
        "finalist": record.finalist,
        "spec": record.spec,
        "predicted_ms": record.predicted_ms,
        "predicted_score": record.predicted_score,
        "features": dict(record.features),
        "scores": record.scores,
        "history": [(point.epoch, point.objective, point.loss) for point in record.history],
        "run": record.run,
    }


@pytest.mark.slow
def test_a_sweep_with_the_measurements_of_another_is_the_same(tmp_path, monkeypatch):
    write_coco(tmp_path / "data")
    file = tmp_path / "measurements.jsonl"
    monkeypatch.setenv(MEASUREMENTS, str(file))
    found, files = [], []
    for name in ("first", "second"):
        # What a device is known by lies in the cache.
        monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / name / "cache"))
        monkeypatch.setattr(recorded, "_OPEN", {})
        command = flags(
            tmp_path, "--trials", str(TRIALS), "--out", str(tmp_path / name), "--workers", "1"
        )
        assert sweep.main([*command, "--from-scratch"]) == 0
        found.append([told(each) for each in results(read_runs(tmp_path / name / "tiny"))])
        files.append(file.read_text())
    first, second = found
    assert len(first) > TRIALS
    for one, other in zip(first, second, strict=True):
        assert one == other
    assert files[0] == files[1], "nothing was measured the second time"
