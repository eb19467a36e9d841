"""A server on a socket, from its first request to Ctrl-C."""

import ipaddress
import logging
import socket
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from flaxyolo.base.errors import InputError

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket of this address, on which nothing is heard yet; InputError where it is not free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host}: expected an address of this machine ({reason})") from None
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror}; name another, "
            "or --port 0 for any that is free"
        ) from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """For a browser on this machine."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """One that says when it is ready, and what it is waiting for at the end."""

    def __init__(self, app: FastAPI, ready: str):
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        self._ready, self._state = ready, app.state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        requests = getattr(self._state, "requests", None)  # none before the start
        if requests is not None and requests.open and not self.should_exit:
            log.info("finishing what has come; Ctrl-C again stops at once")
        super().handle_exit(sig, frame)


def serve(app: FastAPI, bound: socket.socket, ready: str) -> None:
    """Answer until Ctrl-C, then finish what has come; `ready` is printed at the start."""
    # uvicorn raises Ctrl-C again when all is finished: for a server it is the usual end.
    with suppress(KeyboardInterrupt):
        Server(app, ready).run([bound])
