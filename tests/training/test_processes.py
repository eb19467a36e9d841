"""Several processes on loopback that train one detector, by the command as a user starts it."""

import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from flaxyolo.config import Augmentation, Config, TrainConfig, write_config
from flaxyolo.training.history import Record
from flaxyolo.weights.checkpoint import load_detector
from tests.small import tiny_spec
from tests.tiny_data import ROOT, write_coco

pytestmark = pytest.mark.slow

MOST_S = 400
"""No training here takes so long on a busy core."""
CONFIG = TrainConfig(
    epochs=4,
    batch_size=4,
    warmup_epochs=0,
    optimizer="sgd",
    augmentation=Augmentation(close_mosaic_epochs=1),
)
DYING = """
import os, signal, sys
from flaxyolo import train
from flaxyolo.training import loop

real = loop.run_epoch

def run_epoch(*given):
    if given[4] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)

loop.run_epoch = run_epoch
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with data and a config whose norm is synchronised."""
    base = tmp_path_factory.mktemp("processes")
    write_coco(base / "data")
    write_config(base / "tiny.yaml", Config(tiny_spec(norm="sync_batch"), CONFIG))
    return base


def begun(base, name, *flags, devices=1, program=("-m", "flaxyolo.train")):
    """A training that has been started."""
    settings = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "FLAXYOLO_CACHE": str(base / "cache"),
    }
    words = [base / "tiny.yaml", "--data", f"coco:{base / 'data'}", "--out", base / name]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words), "--no-preflight", *flags],
        env=os.environ | settings,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes):
    """Exit codes and logs; where it takes too long all are killed, and the test fails."""
    try:
        logs = [process.communicate(timeout=MOST_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], logs


def pair(base, name, *flags, each=((), ()), dying=None):
    """Two processes that train together; one of them may be killed as the third epoch begins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{free.getsockname()[1]}"
    found = ("--coordinator", there, "--processes", "2", "--lost-after", "60", "--process")
    return ended(
        [
            begun(
                base, name, *flags, *each[number], *found, str(number),
                program=("-c", DYING) if dying == number else ("-m", "flaxyolo.train"),
            )
            for number in range(2)
        ]
    )  # fmt: skip


def losses(folder):
    rows = Record(folder / "metrics.jsonl").rows()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    return np.array([[row["box"], row["cls"], row["dfl"]] for row in rows])


def weights(folder):
    leaves = jax.tree.leaves(load_detector(folder / "last").weights)
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def assert_same(folder, other):
    np.testing.assert_allclose(losses(folder), losses(other), rtol=1e-4)
    np.testing.assert_allclose(weights(folder), weights(other), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def alone(base):
    """The run of one device."""
    codes, logs = ended([begun(base, "alone", "--devices", "1", devices=4)])
    assert codes == [0], logs
    assert "training on" not in logs[0]
    return base / "alone"


@pytest.fixture(scope="module")
def two(base):
    """The run of two processes, with their logs."""
    codes, logs = pair(base, "two")
    assert codes == [0, 0], logs
    return base / "two", logs


@pytest.fixture(scope="module")
def killed(base):
    """What two processes leave, the second killed in the third epoch, and their ends."""
    return base / "killed", *pair(base, "killed", dying=1)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.long), 4])
def test_several_devices_train_as_one(base, alone, devices):
    name = f"devices{devices}"
    codes, logs = ended([begun(base, name, "--devices", str(devices), devices=4)])
    assert codes == [0], logs
    assert f"training on {devices} devices, {4 // devices} images of each batch" in logs[0]
    assert_same(base / name, alone)


def test_two_processes_train_as_one(alone, two):
    folder, logs = two
    assert_same(folder, alone)
    for number, log in enumerate(logs):
        assert f"process {number} of 2" in log
        assert "training on 2 devices of 2 processes, 2 images of each batch on each" in log


def test_process_0_alone_writes_and_validates(two):
    folder, (first, second) = two
    assert "evaluation_seconds" in first
    assert "evaluation_seconds" not in second
    assert "epoch 1" not in second
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert not [path for path in folder.iterdir() if path.name.startswith(".state")]


def test_a_killed_process_ends_the_other_with_one_line(killed):
    _, codes, logs = killed
    assert codes == [75, -9], logs
    lines = logs[0].splitlines()
    assert lines[-1].startswith("error: ")
    assert "process" in lines[-1]
    assert "start the same command again on all, with fewer processes if need be" in lines[-1]
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in logs[0]
    assert "stack trace" not in logs[0]


@pytest.mark.long
def test_process_0_is_missed_too(base):
    codes, logs = pair(base, "headless", dying=0)
    assert codes == [-9, 75], logs
    lines = logs[1].splitlines()
    assert lines[-1].startswith("error: ")
    assert "was lost" in lines[-1]
    assert "stack trace" not in logs[1]


@pytest.mark.parametrize(
    "how",
    [
        "one device",
        pytest.param("four devices", marks=pytest.mark.long),
        pytest.param("two processes", marks=pytest.mark.long),
    ],
)
def test_the_same_command_goes_on_with_other_numbers(base, alone, killed, how):
    folder = base / how
    shutil.copytree(killed[0], folder)
    if how == "two processes":
        codes, logs = pair(base, how)
    else:
        count = {"one device": "1", "four devices": "4"}[how]
        codes, logs = ended([begun(base, how, "--devices", count, devices=4)])
    assert set(codes) == {0}, logs
    assert "going on after epoch 2 of 4" in logs[0]
    assert_same(folder, alone)


@pytest.mark.long
def test_processes_of_different_commands_say_what_differs(base):
    codes, logs = pair(base, "odd", each=(("--seed", "1"), ("--seed", "2")))
    assert codes == [2, 2], logs
    for log in logs:
        assert "error: training.seed: expected the same in all processes, got 1 in process 0" in log
    assert not (base / "odd").exists()


def test_bad_input_is_said_by_all(base):
    codes, logs = pair(base, "three", "--batch-size", "3")
    assert codes == [2, 2], logs
    for log in logs:
        assert "a batch of 3 images does not divide by 2 devices" in log


@pytest.mark.long
def test_one_that_lacks_the_data_ends_all(base):
    codes, logs = pair(base, "less", each=((), ("--data", "coco:nowhere")))
    assert codes == [75, 2], logs
    assert "process 1 has ended (" in logs[0].splitlines()[-1]
    assert "nowhere" in logs[0].splitlines()[-1]
