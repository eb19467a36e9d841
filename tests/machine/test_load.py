"""The share of the processor that others use."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from flaxyolo.machine import load
from flaxyolo.machine.load import Usage, share_of_others, usage

SPIN = """
import time
while time.process_time() < 0.5:
    pass
print("done", flush=True)
input()
"""


@pytest.mark.parametrize(
    ("idle", "own", "share"),
    [(2.0, 8.0, 0.0), (0.0, 8.0, 0.2), (0.0, 0.0, 1.0), (5.0, 5.5, 0.0), (4.0, 2.0, 0.4)],
)
def test_others_use_what_is_neither_idle_nor_our_own(idle, own, share):
    before = Usage(100.0, 50.0, 3.0)
    after = Usage(110.0, 50.0 + idle, 3.0 + own)
    assert share_of_others(before, after) == pytest.approx(share)


def test_what_is_not_known_is_none():
    now = Usage(100.0, 50.0, 3.0)
    assert share_of_others(None, now) is None
    assert share_of_others(now, None) is None
    # The system counts in ticks of 10 ms.
    assert share_of_others(now, Usage(100.1, 50.0, 3.0)) is None


def test_a_system_that_does_not_tell_is_not_guessed(monkeypatch):
    def refused(**_):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "cpu_times", refused)
    assert usage() is None


def core(**seconds):
    return SimpleNamespace(_asdict=lambda: seconds)


def test_stolen_time_is_used_by_others_and_a_guests_is_counted_once(monkeypatch):
    cores = [
        core(user=6.0, guest=2.0, idle=1.0, iowait=1.0, steal=4.0),
        core(user=50.0, idle=0.0),
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: cores)
    monkeypatch.setattr(load, "_own_seconds", lambda: 5.0)
    # Bound to the first core, the process does not mind the second.
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert usage() == Usage(12.0, 2.0, 5.0)
    assert share_of_others(Usage(0.0, 0.0, 0.0), usage()) == pytest.approx(5 / 12)


def test_a_child_is_our_own_while_it_lives_and_after():
    before = usage()
    assert before is not None
    child = subprocess.Popen(
        [sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        during = usage()
        child.communicate("\n")
    after = usage()
    assert during is not None
    assert after is not None
    assert during.own - before.own >= 0.45
    assert after.own >= during.own - 0.02  # ticks
    assert after.total > before.total
