import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import flaxyolo
from flaxyolo.base.errors import InputError
from flaxyolo.crew.alive import is_free
from flaxyolo.machine import locks
from flaxyolo.machine.locks import held, holders, lock, open_lock, unlock

HOLDER = """
import sys, time
from pathlib import Path
from flaxyolo.machine.locks import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_holds_a_file_or_several_that_share_it(tmp_path):
    path = tmp_path / "a.lock"
    with held(path) as first:
        assert first
        with held(path, wait=False) as second, held(path, shared=True, wait=False) as third:
            assert not second
            assert not third
    with held(path, shared=True, wait=False) as first:
        assert first
        with held(path, shared=True, wait=False) as second, held(path, wait=False) as third:
            assert second
            assert not third


def test_a_file_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), held(tmp_path / "a.lock"):
        raise KeyError
    with held(tmp_path / "a.lock", wait=False) as is_ours:
        assert is_ours


def test_a_killed_process_lets_go(tmp_path):
    path = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with held(path, wait=False) as is_ours:
            assert not is_ours
        process.send_signal(signal.SIGKILL)
        with held(path) as is_ours:
            assert is_ours


def test_a_lock_is_exchanged_and_let_go_of_while_its_file_stays_open(tmp_path):
    first, second = (open_lock(tmp_path / "a.lock") for _ in range(2))
    assert lock(first)
    assert not lock(second, shared=True, wait=False)
    assert lock(first, shared=True)
    assert lock(second, shared=True, wait=False)
    assert not lock(second, wait=False)
    unlock(first)
    assert lock(second, wait=False)
    os.close(first)
    os.close(second)


def test_a_file_of_another_user_is_held_too(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    opened = os.open

    def refuse_writers(path, flags, *mode):
        if flags & (os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse_writers)
    with pytest.raises(PermissionError), held(path):
        pass
    monkeypatch.undo()
    path.write_text("of another")
    monkeypatch.setattr(os, "open", refuse_writers)
    with held(path, wait=False) as first, held(path, wait=False) as second:
        assert first
        assert not second
    assert path.read_text() == "of another"


def listen(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("kind", ["link", "link to nothing", "FIFO", "folder", "socket"])
def test_only_a_regular_file_is_taken_for_a_lock(tmp_path, kind):
    path, other = tmp_path / "a.lock", tmp_path / "other"
    make = {
        "link": lambda: (other.write_text("precious"), path.symlink_to(other)),
        "link to nothing": lambda: path.symlink_to(other),
        "FIFO": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "socket": lambda: listen(path),
    }
    make[kind]()
    found = kind if kind in ("link", "folder") else "link" if "link" in kind else "FIFO, socket or"
    told = rf"a\.lock: expected the regular file of a lock, found a {found}"
    with pytest.raises(InputError, match=told), held(path):
        pass
    assert is_free(path) is None
    assert other.exists() == (kind == "link")


def test_a_strict_umask_keeps_no_other_user_out_of_the_shared_folder(tmp_path):
    before = os.umask(0o077)
    try:
        os.close(open_lock(tmp_path / "own.lock"))
        tmp_path.chmod(0o1777)
        os.close(open_lock(tmp_path / "shared.lock"))
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("own.lock", "shared.lock")]
    assert modes == [0o600, 0o644]


def test_who_waits_says_so(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.lock"
    monkeypatch.setattr(locks, "TELL_S", 0.1)
    caplog.set_level("INFO")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        threading.Timer(1.0, process.kill).start()
        with held(path, what="its end") as is_ours:
            assert is_ours
            file = open_lock(path)
            # Not every system tells.
            assert holders(file) in ([os.getpid()], [])
            os.close(file)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1
        who = (f"process {process.pid}", "another process")
        assert told[0] in [f"waiting for its end ({path}, held by {one})" for one in who]
    caplog.clear()
    with held(path), held(tmp_path / "b.lock"):
        pass
    assert not caplog.records


def test_no_other_file_of_the_package_locks_by_itself():
    package = Path(flaxyolo.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    lockers = [path for path, text in sources.items() if re.search(r"\bfcntl\b|\blockf\b", text)]
    assert lockers == [package / "machine" / "locks.py"]
