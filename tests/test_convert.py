"""Weights from elsewhere land where they belong, or nothing is written at all."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxyolo
from flaxyolo.base.errors import InputError
from flaxyolo.convert import main
from flaxyolo.nn.detector import abstract_weights, graph
from flaxyolo.weights.checkpoint import read_metadata
from flaxyolo.weights.conversion import convert
from flaxyolo.weights.families import FAMILIES, their_names
from tests.foreign import CONFIGS, FAMILY_OF, NORM, random_arrays, spec_of, state_dict_of


def layer(name, out, inputs, kernel):
    """Names and shapes of a convolution with batch norm, as PyTorch has them."""
    shapes = {f"{name}.conv.weight": (out, inputs, kernel, kernel)}
    shapes |= {f"{name}.bn.{array}": (out,) for array in NORM}
    return shapes | {f"{name}.bn.num_batches_tracked": ()}


def c2f(name, inputs, out, depth):
    half, shapes = out // 2, {}
    shapes |= layer(f"{name}.cv1", out, inputs, 1)
    shapes |= layer(f"{name}.cv2", out, (2 + depth) * half, 1)
    for i in range(depth):
        shapes |= layer(f"{name}.m.{i}.cv1", half, half, 3)
        shapes |= layer(f"{name}.m.{i}.cv2", half, half, 3)
    return shapes


@cache
def yolov8n_shapes():
    """The 355 names of Ultralytics' YOLOv8n."""
    shapes = layer("model.0", 16, 3, 3)
    for i, (inputs, out, depth) in enumerate(
        ((16, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 1))
    ):
        shapes |= layer(f"model.{2 * i + 1}", out, inputs, 3)
        shapes |= c2f(f"model.{2 * i + 2}", out, out, depth)
    shapes |= layer("model.9.cv1", 128, 256, 1) | layer("model.9.cv2", 256, 512, 1)
    shapes |= c2f("model.12", 256 + 128, 128, 1) | c2f("model.15", 128 + 64, 64, 1)
    shapes |= layer("model.16", 64, 64, 3) | c2f("model.18", 64 + 128, 128, 1)
    shapes |= layer("model.19", 128, 128, 3) | c2f("model.21", 128 + 256, 256, 1)
    for i, width in enumerate((64, 128, 256)):
        for branch, inner, out in (("cv2", 64, 64), ("cv3", 80, 80)):
            name = f"model.22.{branch}.{i}"
            shapes |= layer(f"{name}.0", inner, width, 3) | layer(f"{name}.1", inner, inner, 3)
            shapes |= {f"{name}.2.weight": (out, inner, 1, 1), f"{name}.2.bias": (out,)}
    return shapes | {"model.22.dfl.conv.weight": (1, 16, 1, 1)}


def array_at(weights, path):
    tree = weights.stats if path[-1] in ("mean", "var") else weights.params
    for key in path:
        tree = tree[key]
    return np.asarray(tree)


def network_of(spec, weights):
    return nnx.merge(graph(spec, train=False, dtype=jnp.float32), *weights)


def numpy_layer(x, arrays, name, epsilon):
    """A 3x3 convolution at stride 2, batch norm and SiLU of one image (c, h, w), the slow way."""
    kernel = arrays[f"{name}.conv.weight"].astype(np.float64)
    padded = np.pad(x.astype(np.float64), [(0, 0), (1, 1), (1, 1)])
    size = x.shape[1] // 2
    y = np.zeros((len(kernel), size, size))
    for i in range(size):
        for j in range(size):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            y[:, i, j] = (kernel * window[None]).sum((1, 2, 3))
    weight, bias, mean, var = (
        arrays[f"{name}.bn.{array}"].astype(np.float64)[:, None, None] for array in NORM
    )
    y = (y - mean) / np.sqrt(var + epsilon) * weight + bias
    return y / (1 + np.exp(-y))


def first_layer(spec, weights, part, image):
    """What the first convolution of ours makes of an image (h, w, 3), channels first."""
    layer = getattr(network_of(spec, weights).backbone.stem, part)
    return np.asarray(layer(jnp.asarray(image[None])))[0].transpose(2, 0, 1)


def write(path, arrays):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(arrays, path)
    return path


def test_the_names_of_yolov8n_are_those_of_its_state_dict():
    names = their_names(spec_of("yolov8n"), FAMILIES["yolov8"])
    read = set(yolov8n_shapes()) - {
        name
        for name in yolov8n_shapes()
        if name.endswith(("num_batches_tracked", "dfl.conv.weight"))
    }
    assert len(yolov8n_shapes()) == 355
    assert set(names.values()) == read
    assert len(names) == len(set(names.values()))


def test_every_value_lands_in_its_place():
    arrays = random_arrays(yolov8n_shapes())
    done = convert(arrays, spec_of("yolov8n"))
    assert done.family == "yolov8/yolo11/yolov5"
    assert (done.read, done.unused) == (355 - 57 - 1, 57 + 1)
    for path, name in (
        ("backbone.stem.conv.conv.kernel", "model.0.conv.weight"),
        ("backbone.stages.3.downsample.conv.conv.kernel", "model.7.conv.weight"),
        ("backbone.stages.1.block.layers.1.second.conv.kernel", "model.4.m.1.cv2.conv.weight"),
        ("backbone.stages.3.after.merge.norm.var", "model.9.cv2.bn.running_var"),
        ("neck.fpn.down.0.block.split.conv.kernel", "model.12.cv1.conv.weight"),
        ("neck.up.1.block.merge.norm.mean", "model.21.cv2.bn.running_mean"),
        ("head.box.0.predict.bias", "model.22.cv2.0.2.bias"),
        ("head.cls.2.layers.1.norm.scale", "model.22.cv3.2.1.bn.weight"),
    ):
        keys = tuple(int(key) if key.isdigit() else key for key in path.split("."))
        wanted = arrays[name]
        wanted = wanted.transpose(2, 3, 1, 0) if wanted.ndim == 4 else wanted
        np.testing.assert_array_equal(array_at(done.weights, keys), wanted)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_the_first_layer_computes_what_it_did(epsilon):
    name = {1e-3: "yolov8n", 1e-5: "rtmdet-tiny"}[epsilon]
    spec, family = spec_of(name), FAMILIES[FAMILY_OF[name]]
    arrays = state_dict_of(spec, FAMILY_OF[name])
    theirs, part = ("model.0", "conv") if name == "yolov8n" else ("backbone.stem.0", "first")
    # A variance so small that the epsilon decides.
    arrays[f"{theirs}.bn.running_var"][:4] = 1e-4
    image = np.random.default_rng(1).random((8, 8, 3), np.float32)
    done = convert(arrays, spec, FAMILY_OF[name], fold_images=False)
    assert family.epsilon == epsilon
    wanted = numpy_layer(image.transpose(2, 0, 1), arrays, theirs, epsilon)
    np.testing.assert_allclose(first_layer(spec, done.weights, part, image), wanted, atol=1e-4)


def test_a_mean_and_bgr_are_folded_into_the_first_layer_but_for_the_border():
    spec, form = spec_of("rtmdet-tiny"), FAMILIES["rtmdet"].images
    arrays = state_dict_of(spec, "rtmdet")
    image = np.random.default_rng(1).random((8, 8, 3), np.float32)
    own = (image[..., ::-1] * 255 - np.array(form.mean)) / np.array(form.std)
    wanted = numpy_layer(own.transpose(2, 0, 1), arrays, "backbone.stem.0", 1e-5)
    done = convert(arrays, spec, "rtmdet")
    found = first_layer(spec, done.weights, "first", image)
    np.testing.assert_allclose(found[:, 1:, 1:], wanted[:, 1:, 1:], atol=1e-4)
    # With stride 2 only the top row and the left column see beyond the image.
    assert np.abs(found - wanted).max() > 0.01


def test_bgr_in_0_to_255_is_folded_exactly_into_a_focus_stem():
    spec = spec_of("yolox-nano")
    arrays = state_dict_of(spec, "yolox")
    image = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    plain, folded = (
        network_of(spec, convert(arrays, spec, "yolox", fold_images=fold).weights).backbone.stem
        for fold in (False, True)
    )
    wanted = np.asarray(plain(jnp.asarray(image[..., ::-1] * 255)))
    np.testing.assert_allclose(folded(jnp.asarray(image)), wanted, rtol=1e-5, atol=1e-3)
    assert wanted.std() > 1
    assert np.abs(np.asarray(plain(jnp.asarray(image * 255))) - wanted).max() > 1


def test_boxes_counted_from_a_corner_end_where_they_did():
    spec = spec_of("rtmdet-tiny")
    arrays = state_dict_of(spec, "rtmdet")
    for level in range(3):
        arrays[f"bbox_head.rtm_reg.{level}.weight"][:] = 0
        arrays[f"bbox_head.rtm_reg.{level}.bias"][:] = [1, 2, 3, 4]
    head = network_of(spec, convert(arrays, spec, "rtmdet").weights).head
    boxes = head([jnp.ones((1, side, side, 96)) for side in (8, 4, 2)]).boxes
    # The cell in row 1 and column 2 of P3: its corner is at (16, 8).
    wanted = [16 - 8, 8 - 16, 16 + 24, 8 + 32]
    np.testing.assert_allclose(boxes[0, 8 + 2], wanted, atol=1e-3)


@pytest.mark.parametrize("name", FAMILY_OF)
def test_every_family_is_known_by_its_names(name):
    spec = spec_of(name)
    arrays = state_dict_of(spec, FAMILY_OF[name])
    done = convert(arrays, spec)
    assert FAMILY_OF[name] in done.family.split("/")
    assert done.read == len(arrays)
    shapes = [leaf.shape for leaf in jax.tree.leaves(done.weights)]
    expected = jax.tree.leaves(abstract_weights(spec))
    assert shapes == [leaf.shape for leaf in expected]


def test_names_in_a_wrapper_are_found():
    arrays = random_arrays(yolov8n_shapes())
    wrapped = {f"module.model.{name}": array for name, array in arrays.items()}
    one, other = (convert(each, spec_of("yolov8n")).weights for each in (arrays, wrapped))
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def refused(change, name="yolov8n", **options):
    arrays = random_arrays(yolov8n_shapes()) if name == "yolov8n" else options.pop("arrays")
    change(arrays)
    with pytest.raises(InputError) as caught:
        convert(arrays, spec_of(name), **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_missing_or_too_much_or_misshapen_is_listed():
    def change(arrays):
        for i in range(7):
            del arrays[
                f"model.{i}.conv.weight" if i in (0, 1, 3, 5) else f"model.{i}.cv1.conv.weight"
            ]
        arrays["model.23.extra"] = np.zeros(3, np.float32)
        arrays["model.7.conv.weight"] = np.zeros((256, 128, 1, 1), np.float32)
        arrays["model.9.cv1.bn.weight"][3] = np.nan

    text = refused(change)
    assert "7 missing: model.0.conv.weight, model.1.conv.weight, " in text
    assert " and 4 more" in text
    assert "1 too many: model.23.extra" in text
    wrong = "model.7.conv.weight (256, 128, 1, 1) instead of (256, 128, 3, 3)"
    assert f"1 of another shape: {wrong}" in text
    assert "1 not finite: model.9.cv1.bn.weight" in text


def test_another_family_than_the_weights_is_refused():
    text = refused(lambda arrays: None, family="yolox")
    assert "has nothing like backbone.stages.0.block" in text


def test_shared_kernels_that_differ_are_refused():
    arrays = state_dict_of(spec_of("rtmdet-tiny"), "rtmdet")

    def change(arrays):
        name = "bbox_head.cls_convs.2.1.conv.weight"
        arrays[name] = arrays[name] + 1

    text = refused(change, "rtmdet-tiny", arrays=arrays)
    assert "cls_convs.2.1.conv.weight differs from bbox_head.cls_convs.0.1.conv.weight" in text


def test_strange_names_are_refused():
    with pytest.raises(InputError, match=r"expected the names of yolov8.*got foo, bar"):
        convert({"foo": np.zeros(1), "bar": np.zeros(1)}, spec_of("yolov8n"))


def test_the_command_writes_a_checkpoint_that_detects(tmp_path, capsys):
    weights = write(tmp_path / "w.safetensors", random_arrays(yolov8n_shapes()))
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {i}\n" for i in range(80)))
    command = [str(weights), "--config", str(CONFIGS / "yolov8n.yaml")]
    command += ["--out", str(tmp_path / "out"), "--class-names", str(names)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "297 arrays with 3,157,184 parameters, 58 that hold no weights left out" in out
    detector = flaxyolo.load(tmp_path / "out")
    assert detector.spec == spec_of("yolov8n")
    assert detector.class_names[79] == "class 79"
    assert read_metadata(tmp_path / "out")["facts"]["converted_from"] == "w.safetensors"
    assert main(command) == 0, "an older checkpoint is replaced"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("wrong", "1 of another shape: model.0.conv.weight"),
        ("classes", "of another shape: model.22.cv3"),
        ("missing", "expected a file of weights, found none"),
        ("suffix", "expected a file of .safetensors, .pt, .pth, got '.bin'"),
        ("text", "not a readable safetensors file"),
        ("folder", "expected a flaxyolo checkpoint folder"),
        ("names", "cannot read the class names"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, argument, told):
    arrays = random_arrays(yolov8n_shapes())
    if argument == "wrong":
        arrays["model.0.conv.weight"] = arrays["model.0.conv.weight"][:8]
    weights = write(tmp_path / "w.safetensors", arrays)
    out, more = tmp_path / "out", []
    if argument == "missing":
        weights = tmp_path / "none.safetensors"
    elif argument == "suffix":
        weights = weights.rename(tmp_path / "w.bin")
    elif argument == "text":
        weights.write_text("not weights at all, only a long line of text")
    elif argument == "folder":
        out.mkdir()
        (out / "precious").touch()
    elif argument == "classes":
        (tmp_path / "names.txt").write_text("a\nb\n")
        more = ["--class-names", str(tmp_path / "names.txt")]
    elif argument == "names":
        more = ["--class-names", str(tmp_path / "none.txt")]
    config = str(CONFIGS / "yolov8n.yaml")
    assert main([str(weights), "--config", config, "--out", str(out), *more]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert [path.name for path in out.glob("*")] == (["precious"] if argument == "folder" else [])
