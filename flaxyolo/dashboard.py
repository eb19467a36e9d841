"""The command `dashboard`: the study of a sweep in a browser, by optuna-dashboard."""

import logging
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.trials.feed import Feed

log = logging.getLogger("flaxyolo.dashboard")

REFRESH_S = 5.0
"""Between two looks at the study, for a sweep that goes on meanwhile."""


@dataclass(frozen=True)
class Flags:
    """Flags of `dashboard`."""

    study: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """Folder of the study, such as runs/digits-8ms."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in, and whoever is let in may change what
    the page shows."""
    port: int = 8080
    """Port to listen on; 0 takes a free one."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Database of the study, where its sweep was given one: a URL, or env:NAME of a variable with
    it."""


class Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own: a browser opens connections ahead of use."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Does not log requests."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(flags: Flags) -> Iterator[tuple[Server, Feed]]:
    """A server that is ready to answer, and what it shows."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise InputError(
            'needs the package optuna-dashboard: pip install "flaxyolo[dashboard]"'
        ) from None
    if not 0 <= flags.port < 2**16:
        raise InputError(f"--port: expected 0 to {2**16 - 1}, got {flags.port}")
    with tempfile.TemporaryDirectory(prefix="flaxyolo-dashboard-") as pictures:
        feed = Feed(flags.study, Path(pictures), flags.storage)
        feed.refresh()
        app = wsgi(feed.storage, artifact_store=feed.store)
        kind = _sixth if ":" in flags.host else Server
        try:
            server = make_server(flags.host, flags.port, app, kind, Quiet)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(
                f"cannot listen on {flags.host} port {flags.port}: {reason}; "
                "choose another --host or --port"
            ) from None
        with server:
            yield server, feed


class _sixth(Server):
    address_family = socket.AF_INET6


def keep_fresh(feed: Feed, stop: threading.Event, seconds: float = REFRESH_S) -> None:
    """Follow the study until `stop`; one that cannot be read for a while is told once."""
    told = False
    while not stop.wait(seconds):
        try:
            feed.refresh()
            told = False
        except Exception as error:
            # A page that shows what was known is better than none.
            if not told:
                log.warning("%s cannot be read now, the page stays as it is: %s",
                            feed.folder, error)  # fmt: skip
            told = True


def run_dashboard(flags: Flags) -> None:
    """Serve until Ctrl-C, which is how it is meant to end."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with serving(flags) as (server, feed):
        host = f"[{flags.host}]" if ":" in flags.host else flags.host
        print(f"{feed.name}: http://{host}:{server.server_port}/dashboard/studies/0", flush=True)
        print("Ctrl-C ends it; notes and tags that you add in the page are not kept", flush=True)
        stop = threading.Event()
        follower = threading.Thread(target=keep_fresh, args=(feed, stop), daemon=True)
        follower.start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            stop.set()
            follower.join()


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.dashboard",
        description="Look at the study of a sweep in a browser, while it runs or afterwards.",
    )
    return cli.run(partial(run_dashboard, flags))


if __name__ == "__main__":
    sys.exit(main())
