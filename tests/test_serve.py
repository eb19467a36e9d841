"""The command `serve`, from its flags to its end."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import httpx
import pytest

from flaxyolo import serve
from flaxyolo.deploy import listening
from flaxyolo.weights.checkpoint import save_detector
from tests.deploy.serving import picture, png, untrained
from tests.tiny_data import ROOT

LONG = 120.0
ENDING = "finishing what has come; Ctrl-C again stops at once\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "study" / "best"
    save_detector(folder, untrained(), {})
    return folder


@pytest.fixture
def heard(monkeypatch):
    """The sockets on which would be served, without waiting for Ctrl-C."""
    bound = []
    monkeypatch.setattr(
        listening, "serve", lambda app, one, ready: bound.append((one.getsockname(), ready))
    )
    return bound


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--port", "70000"], "--port: expected a number from 0 to 65535, got 70000"),
        (["--max-mb", "0"], "--max-mb: expected a number above 0, got 0"),
        (["--max-megapixels", "nan"], "--max-megapixels: expected a number above 0, got nan"),
        (["--batch", "0"], "--batch: expected at least 1, got 0"),
        (["--wait-ms", "-1"], "--wait-ms: expected 0 or more, got -1"),
        (["--min-score", "2"], "--min-score: expected a number from 0 to 1, got 2"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: expected an address"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 0: cannot listen there: "),
    ],
)
def test_flags_that_do_not_fit_are_told_in_one_line(checkpoint, heard, capsys, more, says):
    assert serve.main([str(checkpoint), "--port", "0", *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {says}")
    assert err.count("\n") == 1
    assert heard == []


def test_a_port_in_use_is_told_before_anything_is_compiled(checkpoint, heard, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert serve.main([str(checkpoint), "--port", port]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --host 127.0.0.1 --port {port}: cannot listen there: Address")
    assert err.count("\n") == 1


def test_a_folder_without_a_checkpoint_is_told_in_a_line(tmp_path, heard, capsys):
    assert serve.main([str(tmp_path), "--port", "0"]) == 2
    assert "expected a flaxyolo checkpoint folder" in capsys.readouterr().err


def test_the_extra_that_is_missing_is_named(checkpoint, heard, monkeypatch, capsys):
    monkeypatch.setattr(serve, "LIBRARIES", ("uvicorn", "no_such_library"))
    assert serve.main([str(checkpoint), "--port", "0"]) == 2
    assert capsys.readouterr().err == (
        'error: serving needs no_such_library, which is not here: pip install "flaxyolo[serve]"\n'
    )


def test_only_this_machine_hears_it_unless_it_is_asked_for(checkpoint, heard, capsys):
    base = [str(checkpoint.parent), "--port", "0", "--batch", "1"]
    assert serve.main(base) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    assert "compiling for batches of 1\n" in err
    assert out == "ended; no image came\n"
    assert serve.main([*base, "--host", "0.0.0.0"]) == 0
    assert "warning: --host 0.0.0.0: everyone who reaches this machine can" in (
        capsys.readouterr().err
    )
    (first, told), (second, also) = heard
    assert first[0] == "127.0.0.1"
    assert second[0] == "0.0.0.0"
    assert told.startswith(f"http://127.0.0.1:{first[1]} is ready; ")
    assert also.startswith(f"http://127.0.0.1:{second[1]} is ready; ")


def test_an_address_of_version_6_can_be_opened(heard):
    try:
        bound = listening.bind("::1", 0)
    except serve.InputError:
        pytest.skip("no IPv6 on this machine")
    with bound:
        assert listening.is_loopback(bound)
        assert listening.url_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"


def test_clients_are_told_the_name_and_not_the_whole_path(checkpoint):
    assert serve.model_name(checkpoint) == "study/best"


@pytest.fixture
def started(checkpoint):
    """The command in a process of its own, where an image waits long for one on its way."""
    command = [sys.executable, "-m", "flaxyolo.serve", str(checkpoint), "--port", "0"]
    more = ["--batch", "2", "--wait-ms", "600000", "--min-score", "0"]
    process = subprocess.Popen(
        [*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_ctrl_c_ends_it_quietly_after_what_has_come(started):
    ready = started.stdout.readline()
    url = re.match(r"(http://\S+) is ready; ", ready)[1]
    begun, ending, content = threading.Event(), threading.Event(), png(picture(1))

    def slowly():
        yield content[:100]
        begun.set()
        assert ending.wait(LONG)
        yield content[100:]

    def ask(given):
        return httpx.post(f"{url}/predict", content=given, timeout=LONG)

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, slowly())]
        assert begun.wait(LONG)
        # Without another on its way it would be detected in at once.
        asked.append(pool.submit(ask, png(picture(0))))
        while (health := httpx.get(f"{url}/health").json())["waiting"] != 1:
            assert not health["answered"]
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        told = list(takewhile(lambda line: line != ENDING, started.stderr))
        ending.set()
        answers = [one.result(LONG) for one in asked]
    out, err = started.communicate(timeout=LONG)
    assert [one.status_code for one in answers] == [200, 200]
    assert all(one.json()["detections"] for one in answers)
    assert started.returncode == 0
    assert out == "ended; 2 answered\n"
    assert "Traceback" not in "".join(told) + err


@pytest.mark.slow
def test_ctrl_c_without_clients_is_quiet(started):
    started.stdout.readline()
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=LONG)
    assert (started.returncode, out) == (0, "ended; no image came\n")
    assert [line.partition(" in ")[0] for line in err.splitlines()] == [
        "compiling for batches of 1, 2",
        "compiled",
    ]
