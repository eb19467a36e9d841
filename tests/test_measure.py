"""The command: its JSON, its table, and what it says about bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flaxyolo import measure
from flaxyolo.config import Augmentation, Config, TrainConfig, read_config, write_config
from flaxyolo.cost import gpu
from flaxyolo.cost import measure as cost
from flaxyolo.cost.measurement import Measurement, Reference
from flaxyolo.cost.target import TargetMemory, read_target
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.weights.checkpoint import save_detector
from tests.search.made import COST
from tests.small import tiny_spec

KEYS = (
    "latency_ms_p50",
    "latency_ms_p95",
    "network_ms_p50",
    "fps",
    "vram_mib",
    "train_vram_mib",
    "params",
    "gflops",
    "device",
    "dtype",
    "image_size",
    "batch_size",
    "versions",
)


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "tiny.yaml"
    write_config(path, Config(tiny_spec(), TrainConfig(batch_size=2)))
    return path


@pytest.fixture
def few_calls(monkeypatch):
    """The same measurement from fewer calls."""
    monkeypatch.setattr(
        measure,
        "measure",
        lambda *args, **kwargs: cost.measure(*args, min_calls=3, min_seconds=0.0, **kwargs),
    )


def refused(capsys, *argv):
    assert measure.main([str(part) for part in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.usefixtures("few_calls")
def test_a_config_is_measured_as_json(config_path, capsys):
    assert measure.main([str(config_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(KEYS) <= set(found)
    assert found["image_size"] == 64
    assert found["train_batch_size"] == 2
    assert found["params"] == cost.count_params(tiny_spec())
    assert found["train_vram_mib"] > found["vram_mib"] > 0


@pytest.mark.usefixtures("few_calls")
def test_a_config_is_measured_as_a_table_at_another_size(config_path, capsys):
    assert measure.main([str(config_path), "--image-size", "96"]) == 0
    out = capsys.readouterr().out
    for part in ("latency p95", "network p50", "training, batch 2", "GFLOPs", "96x96", "batch 1"):
        assert part in out


REFERENCE = Reference(1.0, 1.04, 1.2)
BUSY = replace(
    COST,
    measured_ms_p50=12.0,
    measured_ms_p95=20.0,
    reference_ms=2.1,
    reference_calls=2,
    reference_best=REFERENCE,
    slowdown=2.1,
    load=0.55,
    floor_ms=4.0,
)


def test_the_reference_and_the_load_are_told_and_a_busy_machine_is_marked(
    config_path, capsys, monkeypatch
):
    told = (
        "The machine was busy (others use 55 % of it, the reference takes 2.1 times its best): "
        "the latencies may be too high; measure again when it is calm\n"
    )
    monkeypatch.setattr(measure, "measure", lambda *_, **__: BUSY)
    assert measure.main([str(config_path), "--no-training"]) == 0
    out = capsys.readouterr().out
    assert told in out
    for part in ("9.30 ms", "20.00 ms", "4.00 ms", "2.10 ms", "1.00 ms", "2.10 times", "55 %"):
        assert part in out
    assert measure.main([str(config_path), "--no-training", "--json"]) == 0
    assert Measurement.from_dict(json.loads(capsys.readouterr().out)) == BUSY
    calm = replace(BUSY, load=None, slowdown=1.0)
    monkeypatch.setattr(measure, "measure", lambda *_, **__: calm)
    assert measure.main([str(config_path), "--no-training"]) == 0
    out = capsys.readouterr().out
    assert "busy" not in out.replace("however busy the machine was", "")
    assert "load" not in out


@pytest.mark.usefixtures("few_calls")
def test_a_checkpoint_is_measured_with_its_weights(tmp_path, capsys, monkeypatch):
    spec = tiny_spec()
    weights = initial_weights(spec, 7)
    save_detector(tmp_path / "best", TrainedDetector(spec, weights, ("a", "b", "c")), {})
    monkeypatch.setattr(measure, "TrainConfig", lambda: TrainConfig(batch_size=2))
    seen = []
    inner = measure.measure
    monkeypatch.setattr(
        measure,
        "measure",
        lambda spec, **kwargs: seen.append(kwargs["weights"]) or inner(spec, **kwargs),
    )
    assert measure.main([str(tmp_path / "best"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == cost.count_params(spec)
    stem = seen[0].params["backbone"]["stem"]["conv"]["conv"]["kernel"]
    assert (stem == weights.params["backbone"]["stem"]["conv"]["conv"]["kernel"]).all()


def test_the_memory_of_training_grows_with_the_batch_and_leaves_out_the_data():
    def training_mib(batch_size):
        augmentation = Augmentation(mosaic=0)
        config = TrainConfig(batch_size=batch_size, augmentation=augmentation)
        step, data_bytes = measure.compile_nominal_step(tiny_spec(), config)
        assert data_bytes > batch_size * 64 * 64 * 3
        return cost.memory_mib(step) - data_bytes / 2**20

    state = cost.tree_bytes(initial_weights(tiny_spec(), 0)) / 2**20
    assert training_mib(4) > 1.5 * training_mib(2) > 1.5 * state


def test_a_missing_file_and_a_folder_without_a_checkpoint_are_refused(tmp_path, capsys):
    err = refused(capsys, tmp_path / "none.yaml")
    assert "none.yaml: expected a config file or a checkpoint folder, found nothing there" in err
    assert "expected a flaxyolo checkpoint folder" in refused(capsys, tmp_path)


def test_a_config_with_a_wrong_entry_is_refused(config_path, capsys):
    config_path.write_text(config_path.read_text().replace("norm:", "nrom:"))
    assert f"{config_path}: detector.nrom: unknown key" in refused(capsys, config_path)


def test_a_block_that_no_table_has_is_refused(config_path, capsys):
    config_path.write_text(config_path.read_text().replace("block: plain", "block: plane"))
    err = refused(capsys, config_path)
    assert str(config_path) in err
    assert "got 'plane' (did you mean 'plain'?)" in err


@pytest.mark.parametrize(("size", "message"), [("100", "multiple of"), ("-16", "got -16")])
def test_an_image_size_that_does_not_fit_the_network_is_refused(config_path, capsys, size, message):
    err = refused(capsys, config_path, "--image-size", size)
    assert "--image-size" in err
    assert message in err


def test_a_config_keeps_its_training_settings(config_path):
    spec, config, weights = measure.read_detector(config_path)
    assert (spec, config, weights) == (*vars(read_config(config_path)).values(), None)


@pytest.mark.usefixtures("few_calls")
def test_images_of_a_file_are_shown_and_training_may_be_left_out(
    config_path, tmp_path, capsys, monkeypatch
):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "shown.npy", images)
    seen, inner = [], measure.measure
    monkeypatch.setattr(
        measure,
        "measure",
        lambda spec, **kwargs: seen.append(kwargs["images"]) or inner(spec, **kwargs),
    )
    flags = ["--json", "--no-training", "--images", str(tmp_path / "shown.npy")]
    assert measure.main([str(config_path), *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train_vram_mib"], found["train_batch_size"]) == (None, None)
    np.testing.assert_array_equal(seen[0], images)
    assert measure.main([str(config_path), *flags[1:]]) == 0
    assert "training" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.array([{}], dtype=object),
    ],
)
def test_a_file_of_other_images_is_refused(config_path, tmp_path, capsys, images):
    path = tmp_path / "wrong.npy"
    np.save(path, images, allow_pickle=True)
    err = refused(capsys, config_path, "--images", path)
    assert f"--images {path}: expected uint8 images (n, 64, 64, 3)" in err


def test_a_file_without_images_is_refused(config_path, tmp_path, capsys):
    assert "--images" in refused(capsys, config_path, "--images", tmp_path / "none.npy")
    assert "expected uint8 images" in refused(capsys, config_path, "--images", config_path)
    np.savez(tmp_path / "two.npz", np.zeros(1), np.zeros(2))
    assert "got an archive" in refused(capsys, config_path, "--images", tmp_path / "two.npz")


def on_h100(monkeypatch, train_mib):
    asked = []

    def memory(spec, config, target):
        asked.append((spec, config, target))
        return TargetMemory(19.5, train_mib)

    monkeypatch.setattr(measure, "target_memory", memory)
    monkeypatch.setattr(gpu.GpuTarget, "require_packages", lambda self: None)
    return asked


def test_the_memory_on_another_gpu_is_told_as_json_without_a_measurement(
    config_path, capsys, monkeypatch
):
    asked = on_h100(monkeypatch, 1155.25)
    monkeypatch.setattr(measure, "measure", None)
    assert measure.main([str(config_path), "--target", "h100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["vram_mib"], found["train_vram_mib"]) == (19.5, 1155.25)
    assert found["target"] == "NVIDIA H100 80GB HBM3"
    assert (found["dtype"], found["image_size"], found["train_batch_size"]) == ("bfloat16", 64, 2)
    assert found["params"] == cost.count_params(tiny_spec())
    assert asked == [(tiny_spec(), TrainConfig(batch_size=2), read_target("h100"))]


def test_the_memory_on_another_gpu_is_told_as_a_table(config_path, capsys, monkeypatch):
    on_h100(monkeypatch, 30_000.0)
    assert measure.main([str(config_path), "--target", "l4", "--image-size", "96"]) == 0
    out = capsys.readouterr().out
    for part in ("19.5 MiB", "30000.0 MiB", "training, batch 2", "GFLOPs", "NVIDIA L4 (22888 MiB)",
                 "not in this machine", "bfloat16, 96x96", "come on top",
                 "training does not fit"):  # fmt: skip
        assert part in out
    assert "latency" not in out


def test_a_target_that_cannot_be_compiled_for_is_one_line(config_path, capsys, monkeypatch):
    err = refused(capsys, config_path, "--target", "h1000")
    assert "--target h1000: expected one of h100, " in err
    assert "expected no --paced beside it" in refused(
        capsys, config_path, "--target", "h100", "--paced"
    )
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    err = refused(capsys, config_path, "--target", "h100")
    assert "pip install jax-cuda13-plugin==" in err


@pytest.mark.usefixtures("few_calls")
def test_a_command_tells_the_latency_and_the_figures_say_so(config_path, capsys):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    flags = ["--no-training", "--engine", "command", "--engine-command", "sh -c 'echo 4.5 5.25'"]
    assert measure.main([str(config_path), *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["engine"], found["latency_ms_p95"], found["load"]) == ("command", 5.25, None)
    assert measure.main([str(config_path), *flags]) == 0
    out = capsys.readouterr().out
    for part in ("5.25 ms", "the device of sh -c 'echo 4.5 5.25', command", "of JAX's program"):
        assert part in out
    assert "without NMS" not in out


@pytest.mark.slow
@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_another_engine_is_measured_and_told(engine, config_path, capsys):
    pytest.importorskip(engine, reason="the extra `export` is not installed")
    assert measure.main([str(config_path), "--no-training", "--engine", engine]) == 0
    out = capsys.readouterr().out
    assert f", {engine}, float32, 64x64" in out
    assert "reference" in out


def test_a_command_that_fails_is_one_line(config_path, capsys):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    flags = ["--no-training", "--engine", "command", "--engine-command"]
    assert measure.main([str(config_path), *flags, "sh -c 'echo lost >&2; exit 3'"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("error: --engine-command sh -c 'echo lost >&2; exit 3': exit status 3: ")
    assert "lost; expected milliseconds on the last line of its output" in last
    assert "Traceback" not in shown.err


def test_flags_that_an_engine_does_not_take_are_refused(config_path, capsys, monkeypatch):
    monkeypatch.setattr("flaxyolo.deploy.engines.needs", lambda *names: None)
    told = ("--engine", "command", "--engine-command", "sh")
    assert "expected no --paced beside it" in refused(capsys, config_path, *told, "--paced")
    assert "expected no --images" in refused(capsys, config_path, *told, "--images", "x.npy")
    assert "expected no --engine beside it" in refused(
        capsys, config_path, "--target", "h100", "--engine", "onnxruntime"
    )
    assert "--engine-timeout is for --engine command" in refused(
        capsys, config_path, "--engine-timeout", "3"
    )
