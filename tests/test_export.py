"""The command `export`: where it writes, what it says, what it refuses."""

import sys
from types import SimpleNamespace

import pytest

import flaxyolo
from flaxyolo import export
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.weights.checkpoint import save_detector
from tests.small import tiny_spec
from tests.tiny_data import write_coco

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's folder with a checkpoint, and the data set that it was trained on."""
    base = tmp_path_factory.mktemp("export")
    spec = tiny_spec(num_classes=2)
    detector = TrainedDetector(spec, initial_weights(spec, 7), ("blue", "red"))
    data = write_coco(base / "data")
    save_detector(base / "run" / "best", detector, {"source": f"coco:{data}"})
    return SimpleNamespace(run=base / "run", data=data)


def shape(path):
    (output,) = onnx.load(path).graph.output
    return [each.dim_value or each.dim_param for each in output.type.tensor_type.shape.dim]


def test_the_model_lies_beside_the_checkpoint_of_a_run(made, capsys):
    assert export.main([str(made.run)]) == 0
    path = made.run / "best.onnx"
    assert capsys.readouterr().out.startswith(f"{path}  0.")
    assert shape(path) == [1, 6, 80]


def test_any_number_of_images_and_another_size(made, tmp_path, unchecked):
    path = tmp_path / "new" / "any.onnx"
    more = ["--dynamic", "--nms", "--image-size", "96", "--out", str(path)]
    assert export.main([str(made.run / "best"), *more]) == 0
    assert shape(path) == ["batch", 300, 6]
    size = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_value for each in size[1:]] == [3, 96, 96]


def test_as_a_function_it_returns_the_files(made, tmp_path):
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    files = flaxyolo.run_export(made.run, format="openvino", out=tmp_path / "a.xml")
    assert files == [tmp_path / "a.xml", tmp_path / "a.bin"]
    assert all(path.stat().st_size for path in files)
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.slow
def test_eight_bits_say_what_they_cost(made, tmp_path, capsys):
    out = tmp_path / "a.onnx"
    assert export.main([str(made.run), "--precision", "int8", "--out", str(out)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("int8 has mAP 0.")
    assert f"validation images of coco:{made.data}" in first
    assert second.startswith(str(out))
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(out).graph.node}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--batch", "2", "--dynamic"], "give one"),
        (["--precision", "int8", "--format", "openvino"], "is for --format onnx"),
        (["--precision", "int8", "--batch", "2"], "takes one image at once"),
        (["--format", "stablehlo", "--nms"], "leave out --precision, --nms"),
        (["--bundle", "frigate", "--format", "openvino"], "leave out --format"),
        (["--data", "digits"], "--data is for --precision int8"),
        (["--out", "model.pb"], "expected a name that ends in .onnx"),
        (["--image-size", "70"], "--image-size: image_size must be a multiple"),
    ],
)
def test_flags_that_contradict_each_other_are_told(made, words, told, capsys):
    before = sorted(made.run.rglob("*"))
    assert export.main([str(made.run / "best"), *words]) == 2
    assert told in capsys.readouterr().err
    assert sorted(made.run.rglob("*")) == before


def test_a_missing_library_is_told_with_its_extra(made, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export.main([str(made.run / "best")]) == 2
    assert 'found none: pip install "flaxyolo[export]"' in capsys.readouterr().err


def test_telemetry_of_openvino_is_not_asked_for(monkeypatch):
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    from flaxyolo.deploy.openvino import openvino_library

    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    assert openvino_library().Core().available_devices
    assert sys.modules.get("openvino_telemetry", "absent") is not None
