import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.crew.processes import Crew, Died, Finished, Started, attach, cause_of_death, oom_kills

ATTACH = "from flaxyolo.crew.processes import attach; attach(grace=1)\n"


def worker(program):
    """The command of workers that run a program, with their index as argument."""
    return lambda index: ([sys.executable, "-c", program, str(index)], os.environ)


def events_until(crew, kind, mark=None, seconds=20.0):
    """Events up to the first of a kind."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        found += crew.poll(mark, wait=0.1)
        if any(isinstance(event, kind) for event in found):
            return found
    raise AssertionError(f"no {kind.__name__} among {found}")


def is_alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_workers_run_and_print_to_their_logs(tmp_path):
    program = "import sys; print('here is', sys.argv[1]); print('and its errors', file=sys.stderr)"
    events = []
    with Crew(tmp_path, worker(program), 2) as crew:
        while not crew.done:
            events += crew.poll(wait=0.1)
    assert [event.index for event in events if isinstance(event, Started)] == [0, 1]
    assert sorted(event.index for event in events if isinstance(event, Finished)) == [0, 1]
    logs = sorted((tmp_path / "workers").glob("*.log"))
    assert [path.read_text() for path in logs] == [
        f"here is {index}\nand its errors\n" for index in range(2)
    ]
    assert not list((tmp_path / "workers").glob("*.lock"))


def test_a_worker_that_was_killed_is_started_again(tmp_path):
    with Crew(tmp_path, worker(f"{ATTACH}import time; time.sleep(60)"), 1) as crew:
        pids = []
        # More often than crashes would be borne: these are no fault of its own.
        for _ in range(7):
            pids += [event.pid for event in events_until(crew, Started) if hasattr(event, "pid")]
            os.kill(pids[-1], signal.SIGKILL)
            (died,) = [event for event in events_until(crew, Died) if isinstance(event, Died)]
            assert (died.reason, died.crashed) == ("SIGKILL (Killed)", False)
    assert len(set(pids)) == 7


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV (Segmentation fault)"),
        ("import os; os.abort()", "SIGABRT (Aborted)"),
        ("raise RuntimeError('no such thing')", "exit code 1: RuntimeError: no such thing"),
        ("import os; os._exit(9)", "exit code 9"),
    ],
)
def test_a_crash_is_told_with_its_reason(program, reason, tmp_path):
    with Crew(tmp_path, worker(program), 1) as crew:
        (died,) = [event for event in events_until(crew, Died) if isinstance(event, Died)]
    assert (died.reason, died.crashed, died.index) == (reason, True, 0)
    assert died.log == next((tmp_path / "workers").glob("*.log"))


def test_crashes_without_any_gain_end_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("flaxyolo.crew.processes.FIRST_PAUSE_SECONDS", 0.01)
    with Crew(tmp_path, worker("raise SystemExit('cannot begin')"), 1) as crew:
        # As long as the study gains something, it goes on.
        for gain in range(6):
            events_until(crew, Died, mark=gain)
        for _ in range(4):
            events_until(crew, Died, mark=6)
        with pytest.raises(InputError, match=r"died 5 times in a row .* cannot begin; its log is"):
            events_until(crew, Died, mark=6)


def test_bad_input_of_a_worker_ends_the_sweep_with_its_line(tmp_path):
    program = "import sys; print('error: no such data', file=sys.stderr); sys.exit(2)"
    with Crew(tmp_path, worker(program), 1) as crew, pytest.raises(InputError, match=r"^no such"):
        events_until(crew, Died)


def test_workers_let_go_when_the_crew_ends(tmp_path):
    program = f"""{ATTACH}
import time
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("let go")
"""
    with Crew(tmp_path, worker(program), 2) as crew:
        crew.poll()
        logs = list((tmp_path / "workers").glob("*.log"))
        wait_until(lambda: all("at work" in path.read_text() for path in logs))
    assert [path.read_text() for path in logs] == ["at work\nlet go\n"] * 2


def test_a_worker_that_does_not_let_go_is_killed_with_its_children(tmp_path):
    program = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
    with Crew(tmp_path, worker(program), 1, grace=0.5) as crew:
        crew.poll()
        log = next((tmp_path / "workers").glob("*.log"))
        wait_until(lambda: log.read_text())
        child = int(log.read_text())
        assert is_alive(child)
    wait_until(lambda: not is_alive(child), 2)


PARENT = """
import signal, sys
from pathlib import Path
from flaxyolo.crew import processes
from flaxyolo.crew.processes import Crew, Started

# A shell lets a job in its background hear no Ctrl-C, and this one would have that from it.
signal.signal(signal.SIGINT, signal.default_int_handler)
program = sys.argv[2]
with Crew(Path(sys.argv[1]), lambda index: ([sys.executable, "-c", program], {}), 2) as crew:
    while True:
        for event in crew.poll(wait=0.1):
            print(event.pid if isinstance(event, Started) else event, flush=True)
"""


def run_parent(folder, program):
    """A parent of two workers, and the workers, once they are at work."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), program],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    logs = list((folder / "workers").glob("*.log"))
    wait_until(lambda: all("at work" in path.read_text() for path in logs))
    return parent, pids, logs


SLEEPER = f"""{ATTACH}
import time
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("let go")
    raise
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_end_with_their_parent(number, tmp_path):
    parent, pids, logs = run_parent(tmp_path, SLEEPER)
    parent.send_signal(number)
    parent.wait(timeout=120)
    wait_until(lambda: not any(map(is_alive, pids)))
    for path in logs:
        assert path.read_text().startswith("at work\nlet go\n")
    parent.stdout.close()


def test_a_worker_that_hears_no_signal_ends_with_its_parent_too(tmp_path):
    # As in a long compilation: the main thread does not return to Python.
    deaf = f"""{ATTACH}
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("at work", flush=True)
time.sleep(60)
"""
    parent, pids, _ = run_parent(tmp_path, deaf)
    parent.kill()
    parent.wait()
    began = time.monotonic()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert time.monotonic() - began > 0.5
    parent.stdout.close()


def test_a_worker_whose_parent_is_gone_does_not_begin(monkeypatch):
    pipe, alive = os.pipe()
    os.close(alive)
    program = f"{ATTACH}print('at work')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FLAXYOLO_PARENT_PIPE": str(pipe)},
        pass_fds=(pipe,),
        capture_output=True,
    )
    os.close(pipe)
    assert (done.returncode, done.stdout) == (143, b"")


def test_causes_of_death():
    assert cause_of_death(-9, "", out_of_memory=False) == ("SIGKILL (Killed)", False)
    assert cause_of_death(-9, "", out_of_memory=True)[1]
    assert cause_of_death(-15, "", out_of_memory=False) == ("SIGTERM (Terminated)", False)
    assert cause_of_death(130, "", out_of_memory=False) == ("stopped", False)
    assert cause_of_death(-11, "", out_of_memory=False)[1]


@pytest.mark.parametrize(
    ("cgroup", "file", "content"),
    [
        ("0::/job\n", "sys/fs/cgroup/job/memory.events", "low 0\noom 5\noom_kill 3\n"),
        (
            "4:cpu,memory:/job\n0::/\n",
            "sys/fs/cgroup/memory/job/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        ),
        ("0::/job\n", "proc/vmstat", "pgfault 8\noom_kill 3\n"),
        ("4:memory:/job\n", "proc/vmstat", "oom_kill 3\n"),
    ],
)
def test_kills_for_want_of_memory_are_counted(cgroup, file, content, tmp_path):
    for path, text in (("proc/self/cgroup", cgroup), (file, content)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert oom_kills(tmp_path) == 3
    assert oom_kills() >= 0


def test_attach_without_a_supervisor_only_sets_the_signal(monkeypatch):
    monkeypatch.delenv("FLAXYOLO_PARENT_PIPE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        attach()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
