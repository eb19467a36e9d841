"""No form of a database's URL shows its password, wherever it is told."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import optuna
import pytest

from flaxyolo import dashboard, report, sweep
from flaxyolo.base.errors import InputError
from flaxyolo.base.urls import hidden, hide_in_argv, quoted, resolved, without_password
from flaxyolo.crew import databases
from flaxyolo.crew.databases import close, open_url
from flaxyolo.crew.storage import read_study
from flaxyolo.trials.swept import Swept
from tests.tiny_data import flags, write_coco

S = "hUnter2"
PARTS = (S, "hUn", "ter2")
"""No part of a password is shown either."""
H = "127.0.0.1:1"

FORMS = {
    f"postgresql://me:{S}@{H}/studies": f"postgresql://me:***@{H}/studies",
    f"postgresql+psycopg://me:{S}@{H}/studies": f"postgresql+psycopg://me:***@{H}/studies",
    f"postgres://me:{S}@{H}/studies": f"postgres://me:***@{H}/studies",
    f"postgresql://me:{S}@/studies": "postgresql://me:***@/studies",
    f"postgresql://me:hUn/ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn#ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn?ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn[ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn]ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn@ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn ter2@{H}/studies": "postgresql://***",
    f"postgresql://me:hUn:ter2@{H}/studies": f"postgresql://me:***@{H}/studies",
    f"postgresql://me:hUn%40ter2@{H}/studies": f"postgresql://me:***@{H}/studies",
    f"postgresql://me%3A{S}@{H}/studies": "postgresql://***",
    f"postgresql://{S}@{H}/studies": f"postgresql://***@{H}/studies",
    f"postgresql://me:{S}": "postgresql://***",
    f"postgresql://me:{S}/studies": "postgresql://***",
    f"postgresql://me:{S}@{H}:{S}/studies": "postgresql://***",
    f"postgresql://{H}/studies?user=me&password={S}": f"postgresql://{H}/studies?***",
    f"postgresql://{H}/studies?password=hUn%40ter2": f"postgresql://{H}/studies?***",
    f"postgresql://{H}/studies?password=hUn@ter2": "postgresql://***",
    f"postgresql://{H}/studies?sslmode={S}": f"postgresql://{H}/studies?***",
    f"postgresql:me:{S}@127.0.0.1/studies": "***",
    f"postgresql:/me:{S}@127.0.0.1/studies": "***",
    f"me:{S}@127.0.0.1/studies": "***",
    f"user=me password={S} host=127.0.0.1": "***",
    f" postgresql://me:{S}@{H}/studies": "***",
    f"oracle://me:{S}@127.0.0.1/studies": "oracle://me:***@127.0.0.1/studies",
    f"mysql+no://me:{S}@127.0.0.1/studies": "mysql+no://me:***@127.0.0.1/studies",
    f"sqlite:////nowhere/at/all.db?password={S}": "sqlite:////nowhere/at/all.db?***",
    f"sqlite://me:{S}@host/studies.db": "sqlite://me:***@host/studies.db",
    f"sqlite:///me:{S}@host/studies.db": "sqlite:///***",
    f"grpc://me:{S}@{H}": f"grpc://me:***@{H}",
    f"grpc://me:hUn/ter2@{H}": "grpc://***",
    f"grpc://me:hUn[ter2@{H}": "grpc://***",
    f"grpc://me:{S}@127.0.0.1:port": "grpc://***",
    f"grpc://{H}/?password={S}": f"grpc://{H}/?***",
    f"grpc://:{S}@{H}": f"grpc://:***@{H}",
}
"""What is given, and how it is shown."""

ODD_QUERY = pytest.mark.filterwarnings("ignore:Query string argument:sqlalchemy.exc.SAWarning")


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(databases, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(databases, "TRIES", 1)
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("url", ["sqlite:///a.db", "sqlite:////home/me@here/a#b.db", "studies.db",
                                 "postgresql://host:5432/studies", "grpc://[::1]:13000",
                                 "grpc://node1", "env:STUDIES"])  # fmt: skip
def test_what_has_no_password_is_shown_as_it_is(url):
    assert hidden(url) == url


@ODD_QUERY
@pytest.mark.parametrize("url", FORMS)
def test_a_url_that_cannot_be_opened_is_told_without_its_password(url, tmp_path):
    pytest.importorskip("psycopg")
    pytest.importorskip("grpc")
    assert hidden(url) == FORMS[url]
    told = []
    for opening in (open_url, lambda given: read_study(tmp_path / "s", given)):
        with pytest.raises(InputError) as raised:
            opening(url)
        told.append(str(raised.value))
        assert told[-1].startswith(f"--storage {FORMS[url]}: ")
        assert "\n" not in told[-1]
    assert not [part for part in PARTS for line in told if part in line]


def run(door, *words):
    """Exit code of a command, and all that it prints."""
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        try:
            code = door.main(list(words))
        except SystemExit as ended:
            code = ended.code
    return code, shown.getvalue()


@ODD_QUERY
@pytest.mark.parametrize("door", [report, dashboard])
def test_no_command_that_reads_a_study_prints_a_password(door, tmp_path):
    pytest.importorskip("psycopg")
    pytest.importorskip("grpc")
    pytest.importorskip("optuna_dashboard")
    for url, shown in FORMS.items():
        for given in (["--storage", url], [f"--storage={url}"]):
            code, told = run(door, str(tmp_path / "study"), *given)
            assert code == 2
            assert told.startswith(f"error: --storage {shown}: "), told
            assert not [part for part in PARTS if part in told]
        # A flag with a wrong name, or none.
        for given in (["--storge", url], [f"--storge={url}"]):
            code, told = run(door, str(tmp_path / "study"), *given)
            assert code == 2
            assert "Unrecognized options" in told
            assert not [part for part in PARTS if part in told]


@ODD_QUERY
@pytest.mark.slow
def test_a_sweep_prints_and_keeps_no_password(tmp_path):
    pytest.importorskip("psycopg")
    pytest.importorskip("grpc")
    write_coco(tmp_path / "data")
    for url, shown in FORMS.items():
        code, told = run(sweep, *flags(tmp_path, "--storage", url, "--trials", "1"))
        assert code == 2
        assert f"error: --storage {shown}: " in told
        assert not [part for part in PARTS if part in told]
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert kept
    assert not [p for p in kept for part in PARTS if part.encode() in p.read_bytes()]


def test_a_url_may_stand_in_a_variable(monkeypatch, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    monkeypatch.setenv("STUDIES", url)
    assert resolved("env:STUDIES") == url
    close(open_url("env:STUDIES"))
    assert (tmp_path / "studies.db").exists()
    monkeypatch.setenv("STUDIES", f"postgresql+no://me:{S}@host/x")
    with pytest.raises(InputError, match=r"^--storage env:STUDIES: cannot be opened") as raised:
        open_url("env:STUDIES")
    assert S not in str(raised.value)
    monkeypatch.delenv("STUDIES")
    with pytest.raises(InputError, match="expected a URL in the environment variable 'STUDIES'"):
        open_url("env:STUDIES")


def test_a_driver_is_quoted_without_what_is_hidden():
    url = "postgresql://me:hUn%2Fter2@host/x?options=abc"
    assert quoted(url, "no pg_hba entry for hUn/ter2\nmore") == "no pg_hba entry for ***"
    assert quoted(url, "abc and hUn%2Fter2") == "*** and ***"
    assert quoted("postgresql://me:a@b@host/x", "FATAL: b@host") == "it is not understood"
    assert quoted("sqlite:///a.db", "disk I/O error") == "disk I/O error"


def test_a_database_that_fails_while_it_is_read_is_told_in_a_line(tmp_path):
    path = tmp_path / "studies.db"
    storage = open_url(f"sqlite:///{path}")
    close(storage)
    path.write_bytes(b"damaged " * 2000)

    def reading():
        with databases.answering(f"sqlite:///{path}?timeout={S}"):
            storage.get_all_studies()

    with pytest.raises(InputError, match=r"\?\*\*\*: does not answer: .*not a database"):
        reading()
    close(storage)


def test_words_kept_or_shown_of_a_command_have_no_password(monkeypatch, tmp_path):
    url = f"postgresql://me:{S}@host/x"
    assert without_password(f"--storage={url}") == "--storage=postgresql://me:***@host/x"
    assert without_password("coco:/data/a@b") == "coco:/data/a@b"
    assert S not in repr(Swept(tmp_path, url))
    monkeypatch.setattr(sys, "argv", ["sweep", "--storage", url, "--seed", "1"])
    hide_in_argv(url)
    assert sys.argv == ["sweep", "--storage", "postgresql://me:***@host/x", "--seed", "1"]
