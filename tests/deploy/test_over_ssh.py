"""A detector is timed on another host over ssh: an sshd of the test's own on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flaxyolo.cost.engine import EngineError
from flaxyolo.cost.measure import measure
from flaxyolo.deploy.engines import program, read_engine
from tests.small import tiny_spec
from tests.tiny_data import ROOT


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def host(tmp_path):
    """An sshd of the test's own on loopback; gives HOST and options as words of a command."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    clients = [shutil.which(name) for name in ("ssh", "scp", "ssh-keygen")]
    if sshd is None or None in clients:
        pytest.skip("no sshd, ssh, scp and ssh-keygen here (Debian: openssh-server)")
    separated = Path("/run/sshd")
    if os.getuid() == 0 and not separated.is_dir():
        separated.mkdir(mode=0o755)
    for name in ("host_key", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    shutil.copy(tmp_path / "key.pub", tmp_path / "authorized")
    port = free_port()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host_key.pub').read_text()}")
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host_key'}\n"
        f"AuthorizedKeysFile {tmp_path / 'authorized'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\n"
    )
    with open(tmp_path / "sshd.log", "wb") as log:
        server = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=log
        )
    try:
        options = [f"Port={port}", f"UserKnownHostsFile={known}", "IdentitiesOnly=yes"]
        words = ["127.0.0.1", "-F", "/dev/null", "-i", str(tmp_path / "key")]
        words += [word for option in options for word in ("-o", option)]
        end = time.monotonic() + 10
        while b"Server listening" not in (tmp_path / "sshd.log").read_bytes():
            assert server.poll() is None, (tmp_path / "sshd.log").read_text()
            assert time.monotonic() < end, "sshd did not begin to listen"
            time.sleep(0.05)
        yield words
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_detector_is_timed_on_another_host_over_ssh(host, tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason="the extra `export` is not installed")
    monkeypatch.setenv("PYTHON", sys.executable)
    engine = read_engine("command", " ".join([str(ROOT / "sweeps/over_ssh.sh"), *host]), 60.0)
    before = set(Path("/tmp").glob("tmp.*"))
    found = measure(tiny_spec(), program=program(engine, tiny_spec()))
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p95
    assert found.device == f"the device of {engine.command}"
    assert set(Path("/tmp").glob("tmp.*")) <= before, "nothing is left on the host"
    (tmp_path / "authorized").write_text("")
    with pytest.raises(EngineError, match=r"exit status 255: .*Permission denied"):
        program(engine, tiny_spec()).tell()
