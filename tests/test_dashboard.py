"""The command `dashboard`, by the interface that its page asks."""

import json
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest

from flaxyolo import dashboard
from tests.tiny_data import ROOT
from tests.trials.test_feed import folder  # noqa: F401


def asked(address, path):
    with urllib.request.urlopen(f"{address}{path}", timeout=10) as answer:
        return answer.read()


def test_the_study_is_served_with_its_notes_and_pictures(folder):  # noqa: F811
    pytest.importorskip("optuna_dashboard")
    with dashboard.serving(dashboard.Flags(folder, port=0)) as (server, _):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            (study,) = json.loads(asked(address, "/api/studies"))["study_summaries"]
            assert (study["study_id"], study["study_name"]) == (0, "s")
            detail = json.loads(asked(address, "/api/studies/0?after=0"))
            assert [trial["state"] for trial in detail["trials"]] == [
                "Complete",
                "Pruned",
                "Complete",
                "Pruned",
            ]
            best = detail["best_trials"][0]
            assert best["number"] == 0
            assert best["note"]["body"].startswith("## Trial 0: the best")
            assert best["constraints"][0] < 0
            assert detail["note"]["body"].startswith("## Trial 0 is the best of 4 networks")
            (picture,) = best["artifacts"]
            assert asked(address, f"/artifacts/0/0/{picture['artifact_id']}").startswith(b"\x89PNG")
            assert b"<html" in asked(address, "/dashboard/studies/0").lower()
        finally:
            server.shutdown()


@pytest.mark.slow
def test_ctrl_c_ends_it_quietly(folder):  # noqa: F811
    pytest.importorskip("optuna_dashboard")
    command = [sys.executable, "-m", "flaxyolo.dashboard", str(folder), "--port", "0"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    assert line.startswith("s: http://127.0.0.1:")
    address = line.split()[1].removesuffix("/dashboard/studies/0")
    assert json.loads(asked(address, "/api/studies"))["study_summaries"]
    assert "not kept" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err == ""


def test_bad_input_is_said_in_one_line(tmp_path, folder, capsys, monkeypatch):  # noqa: F811
    def line(*arguments):
        assert dashboard.main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    assert "expected the study of a sweep, found no such file" in line(tmp_path)
    assert "--port: expected 0 to 65535, got 70000" in line(folder, "--port", "70000")
    told = line(folder, "--host", "192.0.2.1")
    assert told.startswith("error: cannot listen on 192.0.2.1 port 8080: ")
    assert told.count("\n") == 1
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    told = line(folder)
    assert told == (
        'error: needs the package optuna-dashboard: pip install "flaxyolo[dashboard]"\n'
    )
