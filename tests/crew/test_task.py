"""What workers are told, and how."""

import os
import subprocess
import sys

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._base import BaseJournalSnapshot

from flaxyolo.crew.supervise import worker_command
from flaxyolo.crew.worker import STORAGE, at_desk
from tests.tiny_data import killable_environment


def test_a_worker_has_the_url_of_its_database_from_its_environment(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/studies.db"
    argv, environment = worker_command("flaxyolo.trials.work", tmp_path, 1, url)(0)
    # Everyone on a machine sees the words of a command.
    assert not [word for word in argv if "sqlite" in word]
    assert environment[STORAGE] == url
    monkeypatch.setenv(STORAGE, url)
    with at_desk(tmp_path, 0):
        # What it starts, such as a user's own program, does not have it.
        assert STORAGE not in os.environ
    assert (tmp_path / "studies.db").exists()
    assert not (tmp_path / "study.log").exists()


def test_a_worker_that_is_stopped_ends_without_a_teardown_that_may_crash(tmp_path):
    program = (
        "import atexit, sys\n"
        "from flaxyolo.crew.worker import main\n"
        "atexit.register(print, 'torn down')\n"
        "def run(folder, index):\n"
        "    print('begun')\n"
        "    if index:\n"
        "        raise KeyboardInterrupt\n"
        "sys.exit(main(sys.argv[1:], run))\n"
    )
    for index, code, told in (("1", 130, "begun\n"), ("0", 0, "begun\ntorn down\n")):
        command = [sys.executable, "-c", program, str(tmp_path), index]
        done = subprocess.run(command, capture_output=True, text=True, env=killable_environment())
        assert (done.returncode, done.stdout) == (code, told)
        assert ("interrupted" in done.stderr) == (code == 130)


def test_the_file_of_a_study_holds_no_pickle():
    # Optuna unpickles the snapshots of a storage that keeps some.
    assert not issubclass(JournalFileBackend, BaseJournalSnapshot)
