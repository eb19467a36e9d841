import os
import signal
import subprocess
import sys
import time

import pytest

from flaxyolo.machine.gate import Gate

PROGRAM = """
import os, sys, time
from pathlib import Path
from flaxyolo.machine.gate import Gate

role, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
gate = Gate("cpu", folder)
out = os.open(folder / "sections", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
end = time.monotonic() + seconds

def section(began):
    os.write(out, f"{role} {began} {time.monotonic()}\\n".encode())

if role == "train":
    while time.monotonic() < end:
        with gate.training():
            for _ in range(20):
                began = time.monotonic()
                time.sleep(0.004)
                section(began)
                gate.step_aside()
else:
    while time.monotonic() < end:
        with gate.quiet():
            began = time.monotonic()
            time.sleep(0.03)
            section(began)
        time.sleep(0.02)
"""


def size(path):
    return path.stat().st_size if path.exists() else 0


def start(role, folder, seconds):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, role, str(folder), str(seconds)])


def test_measurements_and_trainings_never_overlap_and_none_starves(tmp_path):
    roles = ["train", "train", "train", "measure", "measure"]
    running = [start(role, tmp_path, 2.5) for role in roles]
    assert [process.wait(timeout=60) for process in running] == [0] * 5
    rows = [line.split() for line in (tmp_path / "sections").read_text().splitlines()]
    spans = sorted((float(began), float(ended), role) for role, began, ended in rows)
    latest = {"train": 0.0, "measure": 0.0}
    for began, ended, role in spans:
        # Begun after every measurement, and a measurement after every training step too.
        assert began >= latest["measure"]
        if role == "measure":
            assert began >= latest["train"]
        latest[role] = max(latest[role], ended)
    counts = {role: sum(row[0] == role for row in rows) for role in latest}
    assert counts["measure"] > 15
    assert counts["train"] > 50


@pytest.mark.parametrize("role", ["train", "measure"])
def test_a_killed_process_leaves_the_gate_open(role, tmp_path):
    process = start(role, tmp_path, 60)
    while not size(tmp_path / "sections"):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gate = Gate("cpu", tmp_path)
    began = time.monotonic()
    with gate.quiet():
        pass
    with gate.training():
        gate.step_aside()
    assert time.monotonic() - began < 1


def test_stepping_aside_costs_little_where_no_one_waits(tmp_path):
    gate = Gate("cpu", tmp_path)
    assert not gate.step_aside()
    with gate.training():
        times = []
        for _ in range(2000):
            began = time.perf_counter()
            assert not gate.step_aside()
            times.append(time.perf_counter() - began)
    assert sorted(times)[1000] < 50e-6


def test_a_training_drains_the_device_before_it_steps_aside(tmp_path):
    gate, drained = Gate("cpu", tmp_path), []
    with gate.training():
        gate.step_aside(lambda: drained.append(1))
        assert not drained
        process = start("measure", tmp_path, 0.01)
        while not gate.step_aside(lambda: drained.append(size(tmp_path / "sections"))):
            time.sleep(0.005)
        assert drained == [0]
        assert size(tmp_path / "sections") > 0
        process.wait()


def test_a_training_process_may_measure_itself(tmp_path):
    gate = Gate("cuda-GPU 0/1", tmp_path)
    with gate.training(), gate.training(), gate.quiet():
        pass
    with gate.training():
        with gate.quiet():
            pass
        gate.step_aside()
    names = ["flaxyolo-cuda-GPU_0_1.busy", "flaxyolo-cuda-GPU_0_1.want"]
    assert sorted(os.listdir(tmp_path)) == names
