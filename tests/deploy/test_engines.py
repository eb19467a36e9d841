"""Engines that a latency is measured on: what is timed, what a command tells, how it may fail."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.cost import measure as cost
from flaxyolo.cost.again import measure_for
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Engine, EngineError, Timed, Told, where
from flaxyolo.cost.measure import measure
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.deploy import engines
from flaxyolo.deploy.engines import (
    last_line,
    measured_again,
    milliseconds,
    program,
    read_engine,
    run_command,
)
from flaxyolo.nn.detector import TrainedDetector, detect, initial_weights
from flaxyolo.weights.checkpoint import save_detector
from tests.deploy.learnt import IMAGES as LEARNT
from tests.deploy.learnt import learnt
from tests.small import tiny_spec

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
MODEL = Path("detector.onnx")


def needs(name):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    pytest.importorskip(name, reason="the extra `export` is not installed")


def script(tmp_path, body, name="phone.sh"):
    """A command that runs these lines of sh; the model is its last argument."""
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Engine("command", str(path), 60.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("one_to_one", [False, True])
def test_what_is_timed_is_the_detector_from_uint8_to_rows(name, one_to_one):
    needs(name)
    detector = learnt(one_to_one)
    on_engine = program(Engine(name), detector.spec, detector.weights)
    assert isinstance(on_engine, Timed)
    seen = 0
    for image in LEARNT:
        (rows,) = on_engine.detect(image[None])
        assert rows.shape == (300, 6)
        ours = detect(detector.spec, detector.fused, image[None])
        boxes, scores, labels, _ = (np.asarray(part)[0] for part in ours)
        sure = int((scores > 0.25).sum())
        np.testing.assert_allclose(rows[:sure, 4], scores[:sure], atol=1e-4)
        np.testing.assert_allclose(rows[:sure, :4], boxes[:sure], atol=0.05)
        np.testing.assert_array_equal(rows[:sure, 5], labels[:sure])
        assert not (rows[sure:, 4] > 0.2501).any()
        seen += sure
    assert seen >= len(LEARNT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_another_engine_is_timed_in_turn_with_the_reference(name):
    needs(name)
    spec, engine = tiny_spec(), Engine(name)
    calls, on_engine = [], program(engine, spec)

    def called(image):
        assert (image.shape, image.dtype) == ((1, 64, 64, 3), np.uint8)
        calls.append(1)
        return on_engine.detect(image)

    found = measure(
        spec, images=IMAGES, program=Timed(engine, called), min_calls=5, min_seconds=0.0
    )
    assert len(calls) >= 3
    assert found.engine == name
    assert found.versions[name]
    assert found.network_ms_p50 is None
    assert found.memory_device is None
    assert found.reference_ms > 0
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p95
    assert found.floor_ms > 0
    plain = measure(spec, images=IMAGES, min_calls=3, min_seconds=0.0)
    same = ("params", "gflops", "vram_mib", "device", "dtype")
    assert [getattr(found, key) for key in same] == [getattr(plain, key) for key in same]
    assert plain.engine == "jax"
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.slow
def test_onnxruntime_does_not_spin_after_a_call():
    needs("onnxruntime")
    detect_on = program(Engine("onnxruntime"), tiny_spec()).detect
    spent = []
    for _ in range(12):
        detect_on(IMAGES[:1])
        began = time.process_time()
        time.sleep(0.02)
        spent.append(time.process_time() - began)
    # Of 20 ms, on at least one thread beside this one.
    assert np.median(spent) < 0.005


def test_beside_an_accelerator_the_processor_is_timed_without_the_reference(monkeypatch):
    monkeypatch.setattr(cost.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cost, "reference_call", None)
    monkeypatch.setattr(cost, "share_of_others", lambda before, after: 0.1)
    runs = cost.Programs(lambda image: image.sum())
    limits = cost.Limits(7, 0.0, 5.0)
    figures = cost.timed_figures(runs, IMAGES, limits, cost.time_in_turn, paced=False)
    assert figures["latency_ms_p50"] == figures["measured_ms_p50"] > 0
    assert figures["load"] == 0.1
    assert "reference_ms" not in figures


def test_what_a_command_tells_is_the_latency(tmp_path):
    needs("onnx")
    engine = script(tmp_path, 'head -c 40 "$1" | wc -c >&2\necho "$#" models\necho " 4.5  5.25 "')
    found = measure(tiny_spec(), program=program(engine, tiny_spec()))
    assert (found.latency_ms_p50, found.latency_ms_p95, found.fps) == (4.5, 5.25, 1000 / 4.5)
    assert found.engine == "command"
    assert found.device == f"the device of {engine.command}"
    assert found.memory_device == where(JAX_ENGINE).device
    assert (found.reference_ms, found.load, found.slowdown, found.busy) == (None, None, None, False)


def test_what_is_told_is_asked_once():
    told = []
    engine = Engine("command", "./phone.sh")
    on_engine = Told(engine, lambda: told.append(1) or (9.0, 9.0))
    for trained in (False, True):
        found = measure_for(
            Budget(8.0), tiny_spec(), IMAGES, None, trained=trained, program=on_engine
        )
        assert found.latency_ms_p95 == 9.0
    assert len(told) == 2


@pytest.mark.parametrize(
    ("printed", "numbers"),
    [("4.5\n", (4.5, 4.5)), ("loading\n 4 5e0 \n\n", (4.0, 5.0)), ("1\n2", (2.0, 2.0))],
)
def test_milliseconds_are_read_from_the_last_line(printed, numbers):
    assert milliseconds(Engine("command", "x"), printed) == numbers


@pytest.mark.parametrize(
    "printed", ["", "4.5\nms", "4.5 ms", "nan", "inf", "-1", "0", "5 4", "1 2 3"]
)
def test_what_is_no_latency_is_refused(printed):
    with pytest.raises(EngineError, match=r"a number or two \(p50 p95\), got ") as caught:
        milliseconds(Engine("command", "./phone.sh"), printed)
    assert str(caught.value).startswith("--engine-command ./phone.sh: expected milliseconds")
    assert "\n" not in str(caught.value)


def test_a_long_line_of_somebody_elses_is_cut():
    assert len(last_line("x" * 10_000)) == engines.TOLD


def test_a_command_that_fails_is_told_in_a_line(tmp_path):
    failing = script(tmp_path, "echo 4\necho first >&2\necho 'no phone found' >&2\nexit 3")
    with pytest.raises(EngineError) as caught:
        run_command(failing, MODEL)
    line = str(caught.value)
    assert line.startswith(f"--engine-command {failing.command}: exit status 3: no phone found; ")
    assert "expected milliseconds on the last line" in line
    with pytest.raises(EngineError, match="exit status 1: it said nothing"):
        run_command(script(tmp_path, "exit 1"), MODEL)
    with pytest.raises(EngineError, match="ended by SIGTERM"):
        run_command(script(tmp_path, "kill -TERM $$"), MODEL)
    path = tmp_path / "text.sh"
    path.write_bytes(b"\x7fELF nothing")
    path.chmod(0o755)
    with pytest.raises(EngineError, match="cannot be run: "):
        run_command(Engine("command", str(path)), MODEL)


def test_no_shell_reads_the_command(tmp_path):
    engine = script(tmp_path, 'printf "%s|" "$@"')
    engine = replace(engine, command=f"{engine.command} 'a b' $HOME ; echo *")
    assert run_command(engine, MODEL) == f"a b|$HOME|;|echo|*|{MODEL.resolve()}|"


def alive(path):
    """Whether the process whose number a file holds is running."""
    try:
        stat = Path(f"/proc/{path.read_text().strip()}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(path):
    end = time.monotonic() + 10
    while alive(path) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path):
    child = tmp_path / "child"
    engine = script(tmp_path, f"sleep 300 &\necho $! > {child}\nwait")
    with pytest.raises(EngineError, match=r"took more than 0\.5 s, which --engine-timeout allows"):
        run_command(replace(engine, timeout_s=0.5), MODEL)
    assert gone(child)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_ends_the_command_which_may_tidy_up(tmp_path):
    child, tidied = tmp_path / "child", tmp_path / "tidied"
    body = f"trap 'touch {tidied}; exit 1' TERM\nsleep 300 &\necho $! > {child}\nwait"
    engine = script(tmp_path, body)

    def press():
        while not (child.exists() and child.read_text().strip()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        run_command(engine, MODEL)
    assert gone(child)
    assert tidied.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("command",), 'expected --engine-command "./phone.sh" beside it'),
        (("command", "./no/such.sh"), "expected a program that can be run, found none of the name"),
        (("command", "sh 'a"), "not the words of a command: No closing quotation"),
        (("command", " "), "expected a program that can be run"),
        (("command", "sh", 0.0), "--engine-timeout: expected a number above 0, got 0"),
        (("command", "sh", float("inf")), "--engine-timeout: expected a number above 0, got inf"),
        (("jax", "sh"), "--engine-command is for --engine command, got --engine jax"),
        (("onnxruntime", None, 9.0), "--engine-timeout is for --engine command"),
    ],
)
def test_flags_that_do_not_agree_are_refused(given, words, monkeypatch):
    monkeypatch.setattr(engines, "needs", lambda *names: None)
    with pytest.raises(InputError, match=words) as caught:
        read_engine(*given)
    assert "\n" not in str(caught.value)


def test_the_flags_give_an_engine(monkeypatch):
    monkeypatch.setattr(engines, "needs", lambda *names: None)
    assert read_engine("jax") == JAX_ENGINE
    assert read_engine("openvino") == Engine("openvino")
    assert read_engine("command", "sh -e", 9.0) == Engine("command", "sh -e", 9.0)
    assert read_engine("command", "sh -e").timeout_s == 300
    assert Engine("command", "sh -e").describe() == "command sh -e"
    assert program(JAX_ENGINE, tiny_spec()) is None


def test_a_library_that_is_not_here_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnx, openvino, found none: pip install"):
        read_engine("openvino")


def test_a_model_that_the_engine_does_not_take_is_an_engines_error(monkeypatch):
    needs("onnxruntime")

    def refuses(path):
        raise InputError(f"{path.name}: onnxruntime does not take the model: no such operator")

    monkeypatch.setitem(engines.RUNNERS, "onnxruntime", refuses)
    with pytest.raises(EngineError, match=r"^--engine onnxruntime: detector\.onnx: onnxruntime"):
        program(Engine("onnxruntime"), tiny_spec())


@pytest.mark.slow
def test_networks_of_an_engine_correct_its_own_table_alone(tmp_path):
    spec, engine = tiny_spec(), Engine("command", "./phone.sh")
    table = LatencyTable.open(tmp_path, engine)
    jax_table = LatencyTable.open(tmp_path)
    assert table.path == jax_table.path
    other = replace(spec, neck=replace(spec.neck, kind="pan"))
    table.measure([spec])
    (before,) = table.predict([spec])
    assert before.upper("p50") > 2 * before.expected("p50"), "nothing is known of the phone yet"
    told = measure(spec, program=Told(engine, lambda: (50.0, 60.0)))
    assert not jax_table.add_network(spec, told)
    assert not LatencyTable.open(tmp_path, Engine("command", "./other.sh")).add_network(spec, told)
    for each in (spec, other):
        assert table.add_network(each, told)
    table.save()
    (expected,) = LatencyTable.open(tmp_path, engine).predict([spec])
    assert 35 < expected.p50_ms < 70
    jax_table = LatencyTable.open(tmp_path)
    assert not jax_table.networks
    assert jax_table.contents.pieces == table.contents.pieces
    assert jax_table.predict([spec])[0].p50_ms < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jax", "onnxruntime", "command"])
def test_a_trained_detector_is_measured_again_on_its_engine(name, tmp_path):
    needs("onnxruntime")
    spec = tiny_spec()
    folder = tmp_path / "best"
    save_detector(folder, TrainedDetector(spec, initial_weights(spec, 7), ("a", "b", "c")), {})
    engine = script(tmp_path, "echo 3 4") if name == "command" else Engine(name)
    found = measured_again(engine, folder, IMAGES, Budget(1000.0))
    assert found.engine == name
    assert (found.latency_ms_p95 == 4.0) == (name == "command")
