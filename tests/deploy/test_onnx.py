"""ONNX models say what our own detectors say, for every entry of every table of the space."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.onnx import OnnxForm, onnx_model
from flaxyolo.nn.detector import TrainedDetector, detect, predict
from tests.deploy.pictures import photographs
from tests.entries import ENTRIES, lively, small, trained

pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

BOXES, SCORES = 0.05, 1e-4
"""Largest differences: of corners in pixels, of scores."""
OTHERS = {
    "windows that do not fit": {"attention": "window", "network": {"image_size": 144}},
    "areas": {"attention": "area", "network": {"image_size": 128}},
    "partial attention of four heads": {"width": 64, "backbone": {"context": "sppf_psa"}},
    "pyramid run through twice": {
        "neck": {"kind": "bifpn", "widths": 16, "block": "c2f_plain", "repeats": 2}
    },
}


pytestmark = pytest.mark.usefixtures("unchecked")


def images(size):
    """Two photographs, letterboxed, in 0..1."""
    return photographs(size)[1] / np.float32(255)


def detector(**changes):
    size = changes.get("network", {}).pop("image_size", 64)
    spec = replace(small(**changes), image_size=size)
    return TrainedDetector(spec, trained(spec), ("nut", "bolt", "washer"))


def ours(detector, pictures):
    """Boxes and scores of the network as it is trained."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    function = jax.jit(lambda weights, x: predict(detector.spec, weights, x, jnp.float32))
    found = function.lower(detector.weights, pictures).compile(options)(detector.weights, pictures)
    chosen = found.one_to_one or found
    return np.asarray(chosen.boxes), np.asarray(chosen.scores)


def run(model, pictures):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": pictures.transpose(0, 3, 1, 2)})[0]


def corners(output):
    """Boxes xyxy and scores of the raw form."""
    output = output.transpose(0, 2, 1)
    centres, sizes = output[..., :2], output[..., 2:4]
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], -1), output[..., 4:]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ENTRIES, *OTHERS])
@pytest.mark.parametrize("batch", [2, None])
def test_every_entry_says_the_same(name, batch):
    made = detector(**{**ENTRIES, **OTHERS}[name])
    pictures = images(made.spec.image_size)
    boxes, scores = ours(made, pictures)
    found = run(onnx_model(made, OnnxForm(batch=batch)), pictures)
    if made.spec.head.one_to_one:
        order = np.argsort(-scores.reshape(2, -1), axis=1, kind="stable")[:, :300]
        rows = np.take_along_axis(scores.reshape(2, -1), order, 1)
        count = int((rows > 0.001).sum(1).min())
        assert count > 10
        np.testing.assert_allclose(found[:, :count, 4], rows[:, :count], atol=SCORES)
        return
    theirs, likely = corners(found)
    assert np.abs(theirs - boxes).max() < BOXES
    assert np.abs(likely - scores).max() < SCORES


def selected(detector, pictures):
    """What `detect` finds, as rows of [B, 300, 6]."""
    boxes, scores, labels, valid = map(
        np.asarray, detect(detector.spec, detector.fused, jnp.asarray(pictures))
    )
    rows = np.concatenate([boxes, scores[..., None], labels[..., None]], -1) * valid[..., None]
    return np.pad(rows, [(0, 0), (0, 300 - rows.shape[1]), (0, 0)])


@pytest.mark.parametrize("changes", [{}, {"head": {"one_to_one": True}}], ids=["nms", "one-to-one"])
@pytest.mark.parametrize("batch", [2, None])
def test_with_suppression_inside_it_finds_what_detect_finds(changes, batch):
    made = lively(small(**changes))
    pictures = images(64)
    ours = selected(made, pictures)
    theirs = run(onnx_model(made, OnnxForm(nms=True, batch=batch)), pictures)
    assert theirs.shape == (2, 300, 6)
    assert 20 < (ours[..., 4] > 0).sum() < 600
    np.testing.assert_array_equal(ours[..., 4] > 0, theirs[..., 4] > 0)
    np.testing.assert_allclose(theirs[..., :4], ours[..., :4], atol=BOXES)
    np.testing.assert_allclose(theirs[..., 4], ours[..., 4], atol=SCORES)
    np.testing.assert_array_equal(theirs[..., 5], ours[..., 5])


def test_half_precision_is_near_and_half_as_large():
    made, pictures = lively(small()), images(64)
    whole, half = (onnx_model(made, OnnxForm(batch=2, half=half)) for half in (False, True))
    assert half.ByteSize() < 0.7 * whole.ByteSize()
    (boxes, scores), (others, likely) = (corners(run(each, pictures)) for each in (whole, half))
    assert 0 < np.abs(scores - likely).max() < 0.02
    assert np.abs(boxes - others).max() < 1


def test_best_classes_before_suppression():
    made, pictures = lively(small()), images(64)
    boxes, scores = ours(made, pictures)
    found = run(onnx_model(made, OnnxForm(batch=2, best_class=True)), pictures)
    np.testing.assert_allclose(found[..., :4], boxes, atol=BOXES)
    np.testing.assert_allclose(found[..., 4], scores.max(-1), atol=SCORES)
    np.testing.assert_array_equal(found[..., 5], scores.argmax(-1))


def test_a_plain_network_has_no_transpositions():
    """Every axis stays where it is: one convolution of ONNX for one of ours, and no more."""
    model = onnx_model(lively(small(block="c2f")))
    kinds = {node.op_type for node in model.graph.node}
    assert "Transpose" not in kinds
    assert "Expand" not in kinds


def test_clients_are_told_what_they_ask_for():
    import ast

    made = lively(small())
    told = {each.key: each.value for each in onnx_model(made, OnnxForm(nms=True)).metadata_props}
    assert ast.literal_eval(told["names"]) == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert ast.literal_eval(told["args"])["nms"] is True
    assert ast.literal_eval(told["imgsz"]) == [64, 64]
    assert (told["task"], told["stride"], told["end2end"]) == ("detect", "16", "False")
    assert told["model_info labels"] == "class_0 class_1 class_2"
    assert "Ultralytics" not in told["author"]


def test_an_operation_without_onnx_form_is_named():
    from flaxyolo.deploy.emitter import Emitter
    from flaxyolo.deploy.graph import Graph
    from flaxyolo.deploy.layers import CHANNELS_FIRST
    from flaxyolo.deploy.operators import NAMED, RULES
    from flaxyolo.deploy.values import Value

    traced = jax.make_jaxpr(lambda x: jnp.cumsum(x, 1))(np.zeros((1, 4, 4, 3), np.float32))
    shape = (1, 4, 4, 3)
    with pytest.raises(InputError, match=r"'cumsum' of JAX.*stablehlo"):
        Emitter(Graph(), RULES, NAMED).run(
            traced.jaxpr, traced.consts, [Value(shape, shape, CHANNELS_FIRST, "images")]
        )
