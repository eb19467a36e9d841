"""Databases and files that hold studies, opened so that many processes may write at once."""

import contextlib
import importlib.util
import logging
import random
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage

from flaxyolo.base.errors import InputError
from flaxyolo.base.urls import EXAMPLES, hidden, hint, quoted, resolved
from flaxyolo.crew.journal import opened
from flaxyolo.crew.optuna_inside import uncached

CONNECT_SECONDS = 10
SQLITE_SECONDS = 60
"""How long a writer of an SQLite file waits for the others."""
GRPC_PORT = 13000
TRIES = 5
DRIVERS = {"postgresql": ("psycopg", "postgresql"), "grpc": ("grpc", "grpc")}
"""Of a kind of URL: the module that it needs, and the extra of this package that has it."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DATABASES = ("grpc", "sqlalchemy", "psycopg", "sqlite3")
"""Modules whose exceptions are a database's."""

log = logging.getLogger(__name__)


def open_url(given: str) -> BaseStorage:
    """Open the storage of a URL, or of the variable that has it (`env:NAME`); InputError in one
    line where that cannot be done.

    A server that does not answer is given up after ten seconds.
    """
    url = resolved(given)
    # Its password is shown nowhere, whatever goes wrong.
    shown = hidden(given)
    kind = url.partition("://")[0].partition("+")[0]
    kind = "postgresql" if kind == "postgres" else kind
    if "://" not in url:
        raise InputError(f"--storage {shown}: expected a URL such as {EXAMPLES}")
    module, extra = DRIVERS.get(kind, ("", ""))
    if module and "+" not in url.partition("://")[0] and importlib.util.find_spec(module) is None:
        raise InputError(
            f'--storage {shown}: needs the package {module}: pip install "flaxyolo[{extra}]"'
        )
    return _open_grpc(url, shown) if kind == "grpc" else _open_database(url, kind, shown)


@contextlib.contextmanager
def answering(given: str | None) -> Iterator[None]:
    """InputError in a line where the database of a URL fails meanwhile; None is no database."""
    try:
        yield
    except (InputError, KeyError):
        raise
    except Exception as error:  # any driver's own
        if given is None or not _is_of_a_database(error):
            raise
        raise InputError(
            f"--storage {hidden(given)}: does not answer: {_told(resolved(given), error)}"
        ) from None


def open_journal(path: Path) -> JournalStorage:
    """Open the file of a study; a record that a crash left half written is cut off and kept.

    InputError with its place where a record is damaged.
    """
    return opened(path)


def close(storage: BaseStorage) -> None:
    """Let go of a database's connections; a storage without any is left as it is."""
    database = uncached(storage)
    if isinstance(database, RDBStorage):
        database.remove_session()
        database.engine.dispose()
    elif isinstance(storage, GrpcStorageProxy):
        storage.close()


def serve(url: str, *, host: str = "127.0.0.1", port: int = GRPC_PORT) -> None:
    """Let workers reach a database as `grpc://<host>:<port>`, until interrupted.

    It asks for no password and encrypts nothing, so by default it listens to this machine alone.
    `host="0.0.0.0"` lets every machine in that reaches this one: for a network of one's own.
    """
    storage = open_url(url)
    if host not in LOOPBACK:
        log.warning("whoever reaches %s port %d may read and change every study: it asks for no "
                    "password and encrypts nothing", host, port)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.run_grpc_proxy_server(storage, host=host, port=port)


def _open_grpc(url: str, shown: str) -> BaseStorage:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or GRPC_PORT
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise InputError(
            f"--storage {shown}: expected grpc://host:port, such as grpc://node1:13000"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = GrpcStorageProxy(host=host, port=port)
    try:
        storage.wait_server_ready(timeout=CONNECT_SECONDS)
    except ConnectionError:
        storage.close()
        raise InputError(
            f"--storage {shown}: no server answers there within {CONNECT_SECONDS} s; start one "
            "with flaxyolo.crew.databases.serve, or mend the address"
        ) from None
    return storage


def _open_database(url: str, kind: str, shown: str) -> BaseStorage:
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "postgresql":
        scheme, _, rest = url.partition("://")
        url = f"{scheme if '+' in scheme else 'postgresql+psycopg'}://{rest}"
        settings["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    elif kind == "sqlite":
        settings["connect_args"] = {"timeout": SQLITE_SECONDS}
    database = _connect(url, settings, shown)
    if kind == "sqlite":
        _one_writer(database)
    return optuna.storages.get_storage(database)


def _connect(url: str, settings: Mapping[str, Any], shown: str) -> RDBStorage:
    """Open a database, and make its tables where there are none yet."""
    left = TRIES
    while True:
        try:
            return RDBStorage(url, engine_kwargs=dict(settings))
        except Exception as error:  # any driver's own
            left -= 1
            if left and _made_by_another(error):
                time.sleep(random.uniform(0.1, 1.0))
                continue
            raise InputError(
                f"--storage {shown}: cannot be opened: {_told(url, error)}; "
                f"expected a database that answers, such as {EXAMPLES}{hint(url)}"
            ) from None


def _made_by_another(error: Exception) -> bool:
    """Whether two processes made the tables of a new database at the same moment."""
    text = str(error).lower()
    marks = ("already exists", "duplicate key", "unique constraint", "concurrent", "is locked")
    return any(mark in text for mark in marks)


def _told(url: str, error: BaseException) -> str:
    """The first line of the driver's own words, without what is hidden of the URL."""
    while error.__cause__ is not None:
        error = error.__cause__
    return quoted(url, str(error)) or type(error).__name__


def _is_of_a_database(error: BaseException) -> bool:
    if isinstance(error, StorageInternalError | ConnectionError):
        return True
    return type(error).__module__.split(".")[0] in DATABASES


def _one_writer(database: RDBStorage) -> None:
    """Begin every transaction of an SQLite file as a writer.

    Optuna reads a trial's state and writes it in one transaction, and asks for the row's lock in
    between, which SQLite does not have: two workers could both find a trial waiting.
    """
    from sqlalchemy import event

    @event.listens_for(database.engine, "connect")
    def on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(database.engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # Connections of before do not know of it.
    database.engine.dispose()
