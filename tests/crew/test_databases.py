import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from flaxyolo.base.errors import InputError
from flaxyolo.crew import databases
from flaxyolo.crew.databases import close, open_journal, open_url
from flaxyolo.crew.leases import bury
from flaxyolo.crew.processes import Crew, Died, Started
from tests.crew import servers, sham_worker

quietly = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def silent():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def claims(folder: Path, url: str) -> None:
    """Claim what waits, four at a time; print what was got. Each trial is claimed three times."""
    from flaxyolo.crew.leases import at_work

    study = sham_worker.open_study(folder, url)
    with at_work(folder) as worker:
        (folder / f"{os.getpid()}.ready").touch()
        while len(list(folder.glob("*.ready"))) < 4:
            time.sleep(0.01)
        while True:
            lease = sham_worker.claim_any(study, worker)
            if lease is not None:
                times = lease.trial.user_attrs.get("times", 0) + 1
                with sham_worker.alone(folder, lease.trial.number):
                    lease.trial.set_user_attr("times", times)
                print(lease.trial.number, times, flush=True)
                with lease:
                    if times == 3:
                        study.tell(lease.trial, 1.0)
            elif all(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
                return


@pytest.fixture(params=["journal", "sqlite", "grpc", "postgresql"])
def url(request, tmp_path):
    """A database of each kind."""
    sqlite = f"sqlite:///{tmp_path}/study.db"
    made = {
        "journal": lambda: nullcontext("journal"),
        "sqlite": lambda: nullcontext(sqlite),
        "grpc": lambda: servers.grpc_server(sqlite),
        "postgresql": servers.postgresql,
    }
    with made[request.param]() as url:
        yield url


@quietly
@pytest.mark.slow
def test_each_trial_is_claimed_by_one_of_four_processes(url, tmp_path):
    study = sham_worker.open_study(tmp_path, url)
    sham_worker.enqueue(study, 40)
    close(study._storage)
    program = (
        "from pathlib import Path; from tests.crew.test_databases import claims; "
        f"claims(Path({str(tmp_path)!r}), {url!r})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=240)[0].split("\n") for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    got = sorted(line for lines in told for line in lines if line)
    assert got == sorted(f"{number} {times}" for number in range(40) for times in (1, 2, 3))
    # SQLite's locks are not fair, so one process may come away with nothing; one alone may not.
    assert sum(len(lines) > 1 for lines in told) > 1
    assert not (tmp_path / "overlaps").exists()


def run_with_kills(folder: Path, url: str, *, workers: int, trials: int, kills: int) -> None:
    """Run the trials with supervised workers, and kill some at random moments."""
    draw = random.Random(7)
    study = sham_worker.open_study(folder, url)
    sham_worker.enqueue(study, trials)
    program = [sys.executable, "-m", "tests.crew.sham_worker", str(folder), url, "0.15"]
    pids, deaths = {}, []
    due = time.monotonic() + 2
    # Less than a worker of another machine is waited for.
    end = time.monotonic() + 85
    with Crew(folder, lambda index: (program, os.environ), workers) as crew:
        while not crew.done:
            for event in crew.poll(wait=0.05):
                if isinstance(event, Started):
                    pids[event.index] = event.pid
                    continue
                pids.pop(event.index)
                if isinstance(event, Died):
                    deaths.append(event)
                    bury(study, folder, event.worker, crash=None)
            assert time.monotonic() < end
            if pids and len(deaths) < kills and time.monotonic() > due:
                os.kill(draw.choice(list(pids.values())), signal.SIGKILL)
                due = time.monotonic() + draw.uniform(0.2, 1.0)

    assert len(deaths) >= kills
    assert {(death.reason, death.crashed) for death in deaths} == {("SIGKILL (Killed)", False)}
    close(study._storage)
    # A process of its own knows nothing but what is stored.
    study = sham_worker.open_study(folder, url)
    found = study.get_trials()
    close(study._storage)
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert [trial.value for trial in found] == [
        sham_worker.value_of(number) for number in range(trials)
    ]
    for trial in found:
        assert set(trial.intermediate_values) == set(range(1, sham_worker.STEPS + 1))
        assert trial.params == {"x": trial.number / trials}
        assert trial.user_attrs["origin"] == f"number {trial.number}"
        assert trial.user_attrs["paused"] == sham_worker.REST
        assert "crashes" not in trial.user_attrs
    assert sum(trial.user_attrs.get("interruptions", 0) for trial in found) <= len(deaths)
    assert not (folder / "overlaps").exists()


@pytest.mark.slow
def test_nothing_is_lost_in_postgresql(tmp_path):
    with servers.postgresql() as url:
        run_with_kills(tmp_path, url, workers=4, trials=40, kills=4)


@pytest.mark.slow
def test_nothing_is_lost_in_a_file(tmp_path):
    run_with_kills(tmp_path, "journal", workers=4, trials=30, kills=4)


@quietly
@pytest.mark.slow
def test_nothing_is_lost_behind_a_grpc_server(tmp_path):
    with servers.grpc_server(f"sqlite:///{tmp_path}/study.db") as url:
        run_with_kills(tmp_path, url, workers=3, trials=15, kills=2)


def test_a_half_record_at_the_end_of_a_journal_is_cut_off(tmp_path):
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=open_journal(path), study_name="a")
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"op_code":4,"worker' + b"x" * 9000)
    study.set_user_attr("key", "value")
    assert path.read_bytes().startswith(whole)
    again = optuna.load_study(storage=open_journal(path), study_name="a")
    assert again.user_attrs == {"key": "value"}


def test_a_journal_goes_on_after_its_writer_was_killed(tmp_path):
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=open_journal(path), study_name="a")
    program = (
        "from pathlib import Path; import time; "
        "from flaxyolo.crew.databases import open_journal; "
        f"open_journal(Path({str(path)!r}))._backend._lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    began = time.monotonic()
    study.set_user_attr("key", "value")
    assert time.monotonic() - began < 5
    process.wait()
    process.stdout.close()


def test_sqlite_transactions_begin_as_writers(tmp_path):
    storage = open_url(f"sqlite:///{tmp_path}/study.db")
    engine = storage._backend.engine
    other = sqlite3.connect(tmp_path / "study.db", timeout=0)
    with engine.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()
    close(storage)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("studies.db", "expected a URL such as sqlite:///"),
        ("oracle://host/name", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:1/studies", "onnection refused"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("grpc://", "expected grpc://host:port"),
        ("grpc://host:port", "expected grpc://host:port"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told_in_one_line(url, told):
    pytest.importorskip("psycopg")
    pytest.importorskip("grpc")
    with pytest.raises(InputError, match=told) as raised:
        open_url(url)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_grpc_server_that_does_not_answer_is_given_up(monkeypatch):
    pytest.importorskip("grpc")
    monkeypatch.setattr(databases, "CONNECT_SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(InputError, match="no server answers there within 1 s"):
        open_url(f"grpc://127.0.0.1:{servers.free_port()}")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("kind", "extra"), [("postgresql", "postgresql"), ("grpc", "grpc")])
def test_a_missing_driver_is_named(kind, extra, monkeypatch):
    monkeypatch.setattr(databases.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf'pip install "flaxyolo\[{extra}\]"'):
        open_url(f"{kind}://me:secret@host/name")


def test_a_server_lets_only_this_machine_in_unless_told_otherwise(tmp_path, monkeypatch, caplog):
    began = []
    monkeypatch.setattr(
        optuna.storages, "run_grpc_proxy_server", lambda *_, **where: began.append(where)
    )
    url = f"sqlite:///{tmp_path}/study.db"
    databases.serve(url)
    assert not caplog.records
    databases.serve(url, host="0.0.0.0", port=1)
    assert began == [{"host": "127.0.0.1", "port": 13000}, {"host": "0.0.0.0", "port": 1}]
    assert "whoever reaches 0.0.0.0 port 1 may read and change every study" in caplog.text
