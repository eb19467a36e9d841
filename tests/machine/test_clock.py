"""The clock, and the lock that keeps one measurement from another."""

import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from flaxyolo.machine import clock as timing


def test_calls_are_timed_after_a_warm_up_until_there_are_enough():
    calls = []
    times = timing.time_calls(calls.append, min_calls=5, max_seconds=60.0)
    assert len(times) == 5
    assert calls == [0, 1, 2, 3, 4] * 2


def test_the_quietest_hundred_calls_in_a_row_count():
    rng = np.random.default_rng(0)
    quiet, busy = rng.uniform(5, 6, 300), rng.uniform(8, 20, 130)
    found = timing.quietest(np.concatenate([busy, quiet, busy]))
    assert len(found) >= 100
    assert np.percentile(found, 95) < 6
    np.testing.assert_array_equal(timing.quietest(np.array([3.0, 1.0])), [3, 1])


def test_calls_are_timed_until_the_time_is_over():
    times = timing.time_calls(lambda _: time.sleep(0.02), min_calls=1000, max_seconds=0.1)
    assert 1 <= len(times) <= 6
    assert times.min() >= 20


def test_a_gap_lies_before_every_call_and_is_not_timed():
    began = time.perf_counter()
    times = timing.time_calls(lambda _: None, min_calls=3, max_seconds=60.0, gap=0.05)
    assert time.perf_counter() - began >= 0.15
    assert times.max() < 40


def test_a_call_and_a_block_of_the_reference_take_turns():
    seen = []
    turns = timing.time_in_turn(
        lambda _: seen.append("call") or time.sleep(0.02),
        lambda _: seen.append("reference") or time.sleep(0.01),
        min_calls=3,
        max_seconds=60.0,
    )
    assert len(turns.calls) == 3
    rows, size = turns.reference.shape
    assert rows == 3
    # One call of the reference before each block is not counted.
    assert seen[6:] == ["call", *["reference"] * (size + 1)] * 3
    assert turns.calls.min() >= 20
    assert turns.reference.min() >= 10


def test_a_turn_is_taken_though_the_time_is_over():
    turns = timing.time_in_turn(int, int, min_calls=50, max_seconds=0.0)
    assert turns.calls.shape == (1,)
    assert len(turns.reference) == 1


@pytest.mark.parametrize(
    ("times", "size"), [([1.0, 9.0, 1.2], 1), ([8.0], 8), ([0.1], 1), ([2.6, 2.4, 30.0], 3)]
)
def test_a_block_is_about_as_long_as_a_call(times, size):
    assert timing.block_size(times, [1.0, 0.9, 1.1]) == size


def test_a_slow_call_is_warm_after_fewer(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP_SECONDS", 0.05)
    calls = []
    times = timing.warm_up(lambda n: calls.append(n) or time.sleep(0.06), 10)
    assert calls == [0, 1]
    assert len(times) == 1
    assert len(timing.warm_up(int, 10)) == 9
    assert len(timing.warm_up(int, 1)) == 1


LOCK_IN_ANOTHER_PROCESS = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY | os.O_CREAT)
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit("taken")
print("held", flush=True)
time.sleep(0.5)
"""


def test_two_measurements_never_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with timing.device_lock():
        (path,) = tmp_path.iterdir()
        command = [sys.executable, "-c", LOCK_IN_ANOTHER_PROCESS, str(path)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.stderr.strip() == "taken"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        began = time.perf_counter()
        with timing.device_lock():
            assert time.perf_counter() - began > 0.2
    assert other.returncode == 0


def test_the_lock_is_free_again_after_an_error():
    def fail():
        with timing.device_lock():
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
