"""Databases and files that hold studies, opened so that many processes may write at once."""

import contextlib
import importlib.util
import random
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage

from flaxyolo.base.errors import InputError
from flaxyolo.crew.journal import opened
from flaxyolo.crew.optuna_inside import uncached

CONNECT_SECONDS = 10
SQLITE_SECONDS = 60
"""How long a writer of an SQLite file waits for the others."""
GRPC_PORT = 13000
TRIES = 5
DRIVERS = {"postgresql": ("psycopg", "postgresql"), "grpc": ("grpc", "grpc")}
"""Of a kind of URL: the module that it needs, and the extra of this package that has it."""
EXAMPLES = "sqlite:///studies.db, postgresql://user:password@host/name or grpc://host:13000"


def open_url(url: str) -> BaseStorage:
    """Open the storage of a URL; InputError in one line where that cannot be done.

    A server that does not answer is given up after ten seconds.
    """
    kind = url.partition("://")[0].partition("+")[0]
    kind = "postgresql" if kind == "postgres" else kind
    if "://" not in url:
        raise InputError(f"--storage {url}: expected a URL such as {EXAMPLES}")
    module, extra = DRIVERS.get(kind, ("", ""))
    if module and "+" not in url.partition("://")[0] and importlib.util.find_spec(module) is None:
        raise InputError(
            f'--storage {hidden(url)}: needs the package {module}: pip install "flaxyolo[{extra}]"'
        )
    return _open_grpc(url) if kind == "grpc" else _open_database(url, kind)


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


def serve(url: str, *, host: str = "0.0.0.0", port: int = GRPC_PORT) -> None:
    """Let workers reach a database as `grpc://<this machine>:<port>`, until interrupted.

    It asks for no password: for a network of one's own.
    """
    storage = open_url(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.run_grpc_proxy_server(storage, host=host, port=port)


def hidden(url: str) -> str:
    """A URL as it may be shown: without its password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.password is not None:
            return url.replace(f":{parts.password}@", ":***@", 1)
    return url


def _open_grpc(url: str) -> BaseStorage:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or GRPC_PORT
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise InputError(f"--storage {url}: expected grpc://host:port, such as grpc://node1:13000")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = GrpcStorageProxy(host=host, port=port)
    try:
        storage.wait_server_ready(timeout=CONNECT_SECONDS)
    except ConnectionError:
        storage.close()
        raise InputError(
            f"--storage {url}: no server answers there within {CONNECT_SECONDS} s; start one with "
            "flaxyolo.crew.databases.serve, or mend the address"
        ) from None
    return storage


def _open_database(url: str, kind: str) -> BaseStorage:
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "postgresql":
        scheme, _, rest = url.partition("://")
        url = f"{scheme if '+' in scheme else 'postgresql+psycopg'}://{rest}"
        settings["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    elif kind == "sqlite":
        settings["connect_args"] = {"timeout": SQLITE_SECONDS}
    database = _connect(url, settings)
    if kind == "sqlite":
        _one_writer(database)
    return optuna.storages.get_storage(database)


def _connect(url: str, settings: Mapping[str, Any]) -> RDBStorage:
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
                f"--storage {hidden(url)}: cannot be opened: {_root_cause(error)}; "
                f"expected a database that answers, such as {EXAMPLES}"
            ) from None


def _made_by_another(error: Exception) -> bool:
    """Whether two processes made the tables of a new database at the same moment."""
    text = str(error).lower()
    marks = ("already exists", "duplicate key", "unique constraint", "concurrent", "is locked")
    return any(mark in text for mark in marks)


def _root_cause(error: BaseException) -> str:
    """The first line of the driver's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
