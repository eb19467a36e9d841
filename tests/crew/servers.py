"""Databases of one test: PostgreSQL from the system's packages, and a gRPC server before SQLite."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a new server with an empty database; the test is skipped where there is none."""
    # As in Debian's package, where they are not on the path.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("no PostgreSQL here; on Debian: bash .ci/packages")
    programs = (found[-1] if found else Path(on_path or "")).resolve().parent
    # The server refuses to run as root; the package comes with its own user.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="flaxyolo-postgresql-"))
    if user:
        shutil.chown(folder, user)
    port = free_port()

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(programs / program), *arguments],
            user=user, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    run("initdb", "-D", f"{folder}/data", "-U", "searcher", "-A", "trust", "--no-sync")
    options = f"-F -p {port} -k {folder} -c listen_addresses=127.0.0.1"
    server = ("-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options)
    run("pg_ctl", "start", *server)
    try:
        yield f"postgresql://searcher:secret@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "stop", "-D", f"{folder}/data", "-m", "immediate")
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def grpc_server(url: str) -> Iterator[str]:
    """The URL of a gRPC server in front of a database."""
    pytest.importorskip("grpc")
    port = free_port()
    program = f"from flaxyolo.crew.databases import serve; serve({url!r}, port={port})"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
