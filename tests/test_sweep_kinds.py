"""Sweeps with a teacher, on other engines, and at random."""

import re
from dataclasses import replace

import pytest

from flaxyolo import sweep
from flaxyolo.crew.record import CHEAP, FINAL
from flaxyolo.crew.storage import read_runs, read_study
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.search.results import results
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import read_source
from tests.small import tiny_spec
from tests.tiny_data import SPACE, flags, write_coco


@pytest.mark.slow
def test_full_runs_learn_from_the_teacher_and_candidates_do_not(tmp_path, capsys):
    write_coco(tmp_path / "data")
    spec = tiny_spec()
    detector = TrainedDetector(spec, initial_weights(spec, 7), ("red", "green", "blue"))
    save_detector(tmp_path / "big", detector, {})
    command = [*flags(tmp_path, "--trials", "2"), "--from-scratch"]
    taught = [*command, "--teacher", str(tmp_path / "big")]
    assert sweep.main(taught) == 0
    shown = capsys.readouterr()
    assert "plan: full runs, the controls' like the finalists', learn from" in shown.err
    found = results(read_runs(tmp_path / "runs" / "tiny"))
    assert {each.stage for each in found if each.history} == {CHEAP, FINAL}
    for each in found:
        for point in each.history:
            assert ("taught_cls" in point.loss) == (each.stage == FINAL)
    (run,) = (each.run for each in found if each.stage == FINAL)
    assert run not in {each.run for each in found if each.stage == CHEAP}
    told = read_runs(tmp_path / "runs" / "tiny").user_attrs["facts"]["teacher"]
    assert told == read_source(tmp_path / "big").fingerprint
    assert sweep.main(command) == 2
    assert "--teacher: this study was begun with one" in capsys.readouterr().err
    save_detector(tmp_path / "cat", replace(detector, class_names=("cat", "cow", "dog")), {})
    other = ["--study", "other", "--teacher", str(tmp_path / "cat")]
    assert sweep.main([*command, *other]) == 2
    assert "some of the classes blue, red, got one of cat, cow, dog" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_on_another_engine_says_so_and_is_no_other_study(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    write_coco(tmp_path / "data")
    command = [*flags(tmp_path, "--trials", "2"), "--from-scratch"]
    assert sweep.main([*command, "--engine", "onnxruntime"]) == 0
    shown = capsys.readouterr()
    assert "plan: latencies are those of onnxruntime, NMS included" in shown.err
    assert re.search(r"Budget: at most 10000 ms \(p95\); .*, onnxruntime, float32", shown.out)
    folder = tmp_path / "runs" / "tiny"
    found = results(read_runs(folder))
    assert {each.cost.engine for each in found if each.cost} == {"onnxruntime"}
    confirmed = read_runs(folder).user_attrs["confirmed"]
    assert {again["cost"]["engine"] for again in confirmed.values()} == {"onnxruntime"}
    assert read_study(folder).user_attrs["engine"] == "onnxruntime"
    assert (
        "onnxruntime, one image in, boxes out, NMS included" in (folder / "report.html").read_text()
    )
    assert sweep.main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == (
        "error: --engine: the latencies of this study are those of onnxruntime, now jax, and not "
        "to be compared; name another study with --study"
    )


@pytest.mark.slow
def test_a_command_that_fails_fails_its_trials_and_then_the_sweep(tmp_path, capsys):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    write_coco(tmp_path / "data")
    phone, unplugged = tmp_path / "phone.sh", tmp_path / "unplugged"
    phone.write_text(
        f"#!/bin/sh\nif [ -e {unplugged} ]; then echo 'no phone' >&2; exit 1; fi\necho 3 4\n"
    )
    phone.chmod(0o755)
    told = ["--engine", "command", "--engine-command", str(phone)]
    command = [*flags(tmp_path, "--trials", "1"), "--from-scratch", *told]
    assert sweep.main(command) == 0
    shown = capsys.readouterr()
    assert f"; the device of {phone}, command, float32" in shown.out
    unplugged.touch()
    more = [*flags(tmp_path, "--trials", "6"), "--from-scratch", *told]
    assert sweep.main(more) == 2
    shown = capsys.readouterr()
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith(f"error: --engine-command {phone}: exit status 1: no phone; expected")
    assert last.endswith("(3 trials in a row ended so)")
    assert "Traceback" not in shown.err
    failed = [each for each in results(read_runs(tmp_path / "runs" / "tiny"))
              if each.state == "fail"]  # fmt: skip
    assert len(failed) == 3
    for each in failed:
        assert each.reason.startswith(f"not measured: --engine-command {phone}: exit status 1")
    unplugged.unlink()
    assert sweep.main(more) == 0


@pytest.mark.slow
def test_a_search_at_random_is_a_study_of_its_own(tmp_path, capsys):
    write_coco(tmp_path / "data")
    command = [
        *("--budget-ms", "10000", "--data", f"coco:{tmp_path / 'data'}", "--from-scratch"),
        *("--space", str(SPACE), "--trials", "2", "--epochs", "1", "--finalists", "1"),
        *("--seeds", "1", "--no-controls", "--no-preflight", "--out", str(tmp_path / "runs")),
    ]
    assert sweep.main([*command, "--search", "random"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-10000ms-random")
    found = results(read_runs(folder))
    cheap = [each for each in found if each.stage == CHEAP]
    assert [each.origin for each in cheap] == ["random"] * 2
    assert all(each.epochs == 1 for each in cheap)
    assert "2 candidates, drawn at random" in capsys.readouterr().err
    assert sweep.main([*command, "--study", folder.name]) == 2
    said = capsys.readouterr().err
    assert "--search: this study was begun with random, now funnel" in said
