"""An ablation by two workers that are killed at any moment ends as one that nobody disturbed."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from flaxyolo.config import Config, TrainConfig, write_config
from flaxyolo.crew.storage import read_study
from flaxyolo.training.state import has_state
from tests.ablation.runs import stored_rows
from tests.small import tiny_spec
from tests.tiny_data import kill_something, killable_environment, write_coco

EPOCHS = 4
KILLS = 5


def finished(folder):
    """Values of the complete runs, by arm and seed."""
    if not (folder / "study.log").exists():
        return {}
    return {
        (trial.user_attrs["arm"], trial.user_attrs["seed"]): trial.value
        for trial in read_study(folder).get_trials(deepcopy=False)
        if trial.state.name == "COMPLETE"
    }


@pytest.mark.long
def test_kills_change_no_result(tmp_path):
    write_coco(tmp_path / "data")
    write_config(tmp_path / "base.yaml", Config(tiny_spec(), TrainConfig(EPOCHS, batch_size=4)))
    arms = {"se": {"backbone.stages.0.attention": "se"}, "lr": {"learning_rate": 0.003}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"baseline": "base.yaml", "arms": arms}))
    command = [sys.executable, "-m", "flaxyolo.ablate", "p.yaml", "--data", "coco:data"]
    command += ["--seeds", "2", "--no-preflight"]
    environment = killable_environment()

    def run(name, workers):
        return [*command, "--name", name, "--workers", workers]

    subprocess.run(run("calm", "1"), cwd=tmp_path, env=environment, check=True, timeout=600)
    folder = tmp_path / "runs" / "ablations" / "killed"
    drawn, known, process = random.Random(1), {}, None
    killed = {"parent": 0, "worker": 0}
    try:
        while sum(killed.values()) < KILLS:
            if process is None or process.poll() is not None:
                assert process is None or process.returncode != 0, "done before it was killed"
                process = subprocess.Popen(run("killed", "2"), cwd=tmp_path, env=environment)
            time.sleep(drawn.uniform(4, 12))
            killed["parent" if kill_something(process, drawn, 0.4) else "worker"] += 1
            now = finished(folder)
            assert {key: now.get(key) for key in known} == known, "a run was lost"
            known = now
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    subprocess.run(run("killed", "2"), cwd=tmp_path, env=environment, check=True, timeout=600)
    calm = finished(folder.with_name("calm"))
    assert len(calm) == 6
    assert finished(folder) == calm
    for arm, seed in calm:
        one, other = (
            tmp_path / "runs" / "ablations" / name / "runs" / arm / f"seed-{seed}"
            for name in ("calm", "killed")
        )
        np.testing.assert_array_equal(stored_rows(one), stored_rows(other))
    assert min(killed.values()) > 0
    assert (folder / "ablation.md").is_file()
    assert not any(has_state(path) for path in folder.glob("runs/*/*/state"))
