import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import optuna
import pytest

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.crew import journal
from flaxyolo.crew.databases import close, open_journal
from flaxyolo.crew.storage import claim, known_as, locked, open_study, read_study
from flaxyolo.search.finalists import merit
from flaxyolo.search.results import results
from flaxyolo.search.space import REFERENCE, suggest_detector
from flaxyolo.spec import to_dict
from tests.search.made import COST


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path / "s")


def run(study, objective, trials):
    while len(study.trials) < trials:
        trial = study.ask()
        study.tell(trial, objective(trial))


def test_a_study_goes_on_under_the_fingerprint_by_which_it_knows_its_data(study):
    assert known_as(study, "new", ("old",)) == "new"
    claim(study, {"fingerprint": "old"}, "here")
    assert known_as(study, "new", ("older", "old")) == "old"
    assert known_as(study, "new", ()) == "new"
    claim(study, {"fingerprint": known_as(study, "new", ("old",))}, "here")
    with pytest.raises(InputError, match=r"fingerprint was \"old\", now \"new\""):
        claim(study, {"fingerprint": known_as(study, "new", ())}, "here")


def test_a_file_of_other_text_is_no_study(tmp_path):
    (tmp_path / "study.log").write_text("garbage\nmore\n")
    for opening in (open_study, read_study):
        with pytest.raises(InputError, match=r"study.log: expected the file of a study, found"):
            opening(tmp_path)


def test_a_folder_that_was_renamed_keeps_its_study(tmp_path):
    before = open_study(tmp_path / "s")
    before.tell(before.ask(), 1.0)
    (tmp_path / "s").rename(tmp_path / "mine")
    for opened in (open_study(tmp_path / "mine"), read_study(tmp_path / "mine")):
        assert [trial.value for trial in opened.trials] == [1.0]
    # Two studies in the file, neither of the folder's name.
    optuna.create_study(study_name="t", storage=open_journal(tmp_path / "mine" / "study.log"))
    for opening in (open_study, read_study):
        with pytest.raises(InputError, match=r"expected the study 'mine', found 's', 't': rename"):
            opening(tmp_path / "mine")


def test_a_sampler_that_goes_on_does_not_repeat_its_first_draws(tmp_path):
    drawn = []
    for _ in range(4):
        study = open_study(tmp_path / "s")
        run(
            study,
            lambda trial: float(trial.suggest_int("x", 0, 10**6)),
            len(study.trials) + 1,
        )
        drawn.append(study.trials[-1].params["x"])
    assert len(set(drawn)) == 4


def test_a_final_that_two_workers_copied_counts_once(study):
    for seed in (0, 0, 1):
        attrs = {"stage": "final", "finalist": 7, "seed": seed}
        study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs=attrs))
    assert [each.duplicate_of for each in results(study)] == [None, 0, None]


def test_results_come_from_the_storage_alone(study, tmp_path):
    spec = suggest_detector(optuna.trial.FixedTrial(REFERENCE))

    def objective(trial):
        trial.set_user_attr("spec", to_dict(spec))
        trial.set_user_attr("cost", COST.to_dict())
        history = [{"epoch": 10, "objective": 0.5 + trial.number, "map": 0.2}]
        trial.set_user_attr("history", history)
        trial.set_constraint("latency_ms", -0.1)
        return 0.5 + trial.number

    run(study, objective, 2)
    found = results(read_study(tmp_path / "s"))
    by_merit = partial(merit, budget=Budget(10.0))
    best = min(found, key=by_merit)
    assert (best.number, best.objective, best.epochs, best.cost) == (1, 1.5, 10, COST)
    assert best.spec == spec
    assert not best.over_budget
    quicker = replace(COST, latency_ms_p95=COST.latency_ms_p95 / 2)
    equal_but_faster = replace(best, number=7, cost=quicker)
    assert min([best, equal_but_faster], key=by_merit) is equal_but_faster


def test_a_study_is_about_one_thing(study):
    claim(study, {"budget": 8, "sizes": (1, 2)}, "runs/s")
    claim(study, {"budget": 8, "sizes": (1, 2)}, "runs/s")
    with pytest.raises(InputError, match=r"^runs/s: .*budget was 8, now 9; name another with --s"):
        claim(study, {"budget": 9, "sizes": (1, 2)}, "runs/s")


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', bytes(5000), b"\xff"])
def test_a_torn_line_is_kept_beside_and_the_study_goes_on(study, tmp_path, caplog, torn):
    run(study, lambda trial: 1.0, 2)
    path = tmp_path / "s" / "study.log"
    whole = path.read_bytes()
    for time in ("", "-2"):
        path.write_bytes(whole + torn)
        read_study(tmp_path / "s")
        kept = path.with_name(f"study.log.cut-{len(whole)}{time}")
        assert kept.read_bytes() == torn
        assert f"of {len(torn)} bytes" in caplog.text
        assert f"kept in {kept.name}" in caplog.text
        assert path.read_bytes() == whole
    again = open_study(tmp_path / "s")
    run(again, lambda trial: 1.0, 3)
    assert len(read_study(tmp_path / "s").trials) == 3


def test_a_first_record_that_was_torn_is_kept_beside_too(tmp_path):
    (tmp_path / "study.log").write_bytes(b'{"op_code":0,"work')
    assert open_study(tmp_path).trials == []
    assert (tmp_path / "study.log.cut-0").read_bytes() == b'{"op_code":0,"work'


@pytest.mark.parametrize("content", [bytes(5000), b"\x89PNG\r\n"[:4] * 9, b"{}"])
def test_a_file_without_any_record_is_refused_and_not_emptied(tmp_path, content):
    path = tmp_path / "study.log"
    path.write_bytes(content)
    for opening in (open_study, read_study):
        with pytest.raises(InputError, match=r"study.log: expected the file of a study, found .*"
                           r"in line 1 \(byte 0\); put back a copy"):  # fmt: skip
            opening(tmp_path)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["study.log"]


def test_a_folder_or_pipe_in_the_place_of_the_file_is_refused(tmp_path):
    path = tmp_path / "study.log"
    for make in (os.mkdir, os.mkfifo):
        make(path)
        with pytest.raises(InputError, match=r"study.log: expected the file of a study, found no"):
            open_study(tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()


def test_an_empty_file_beside_runs_is_refused(tmp_path, caplog):
    (tmp_path / "trials" / "abc" / "state").mkdir(parents=True)
    (tmp_path / "study.log").write_bytes(b"")
    for opening in (open_study, read_study):
        with pytest.raises(InputError, match="study of the runs in this folder, found an empty"):
            opening(tmp_path)
    (tmp_path / "study.log").unlink()
    open_study(tmp_path)
    assert "study.log is not there, though its folder holds runs" in caplog.text


@pytest.mark.parametrize(
    "broken",
    [
        b"\0" * 40 + b"\n",
        b"[" * 100_000 + b"\n",
        b"[1]\n",
        b'{"op_code":99}\n',
        b'{"op_code":0,"worker_id":"x"}\n',
        b'{"op_code":null,"worker_id":"x"}\n',
    ],
)
def test_a_broken_line_in_the_middle_is_refused_with_its_place(study, tmp_path, broken):
    run(study, lambda trial: 1.0, 2)
    path = tmp_path / "s" / "study.log"
    lines = path.read_bytes().splitlines(keepends=True)
    content = b"".join([*lines[:3], broken, *lines[3:]])
    path.write_bytes(content)
    place = len(b"".join(lines[:3]))
    for opening in (open_study, read_study):
        with pytest.raises(InputError, match=rf"in line 4 \(byte {place}\)") as caught:
            opening(tmp_path / "s")
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_changed_figure_in_a_record_is_refused_with_its_place(study, tmp_path):
    run(study, lambda trial: 0.25, 2)
    path = tmp_path / "s" / "study.log"
    content = path.read_bytes()
    number = content[: content.index(b"0.25")].count(b"\n") + 1
    path.write_bytes(content.replace(b"0.25", b"0.75", 1))
    with pytest.raises(InputError, match=f"another checksum than that of .* in line {number} "):
        read_study(tmp_path / "s")


def test_a_study_of_before_there_were_checksums_goes_on(study, tmp_path):
    run(study, lambda trial: 1.0, 2)
    path = tmp_path / "s" / "study.log"
    old = re.sub(rb',"crc":"[0-9a-f]{8}"', b"", path.read_bytes())
    assert b"crc" not in old
    path.write_bytes(old)
    again = open_study(tmp_path / "s")
    run(again, lambda trial: 1.0, 3)
    assert len(read_study(tmp_path / "s").trials) == 3
    assert b'"crc"' in path.read_bytes()


def test_a_full_disk_is_blamed_on_the_study(study, tmp_path, monkeypatch):
    monkeypatch.setattr(journal.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        run(study, lambda trial: 1.0, 1)
    path = tmp_path / "s" / "study.log"
    assert str(cli.storage_failure(caught.value)).startswith(f"{path}: the disk is full")


def full_disk(file: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path):
    code = (
        "import sys, os, signal\nfrom pathlib import Path\n"
        "from flaxyolo.crew.storage import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match=f"another command .*process {process.pid}"),
            locked(tmp_path),
        ):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass


def test_a_missing_study_and_a_bad_database_are_named(tmp_path):
    with pytest.raises(InputError, match="expected the study of a sweep, found no such file"):
        read_study(tmp_path / "nothing")
    with pytest.raises(InputError, match="--storage no-url: expected a URL"):
        open_study(tmp_path / "s", storage="no-url")


def test_a_study_lives_in_a_database_as_well(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = open_study(tmp_path / "s", storage=url)
    run(study, lambda trial: 1.0, 1)
    again = read_study(tmp_path / "s", url)
    assert json.dumps(again.best_value) == "1.0"
    assert not (tmp_path / "s" / "study.log").exists()
    for opened in (study, again):
        close(opened._storage)
