"""A detector as an ONNX model, by the contract that existing clients of YOLO models read.

Input `images` [B, 3, S, S], float32 RGB in 0..1, letterboxed with grey 114. Output `output0`
[B, 4 + classes, N]: centre boxes in input pixels, then the scores; with NMS inside, or of a head
that needs none, [B, 300, 6]: x1, y1, x2, y2, score, class, best first, zeros after the last.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import flaxyolo
from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file
from flaxyolo.deploy.batches import Batch, shape_of
from flaxyolo.deploy.emitter import Emitter
from flaxyolo.deploy.graph import Graph
from flaxyolo.deploy.layers import CHANNELS_FIRST
from flaxyolo.deploy.operators import NAMED, RULES
from flaxyolo.deploy.values import BATCH, Value
from flaxyolo.nn.detector import TrainedDetector, fuse, fused_graph
from flaxyolo.nn.nms import IOU_THRESHOLD, MAX_DETECTIONS, MIN_SCORE, candidates
from flaxyolo.nn.platform import traced_for
from flaxyolo.spec import DetectorSpec, to_dict

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "images", "output0"
FLOAT, INT64 = 1, 7
"""Types as ONNX numbers them."""
EXTRA = 'pip install "flaxyolo[export]"'


@dataclass(frozen=True)
class OnnxForm:
    """What of the contract a model has."""

    nms: bool = False
    """Suppression inside. Heads that need none have their end2end form always."""
    batch: Batch = 1
    half: bool = False
    """Weights and layers in float16; input and output stay float32."""
    best_class: bool = False
    """[B, N, 6] before suppression, of each anchor point its best class (DeepStream-Yolo)."""


PLAIN = OnnxForm()
"""One image, float32, suppression left to the client."""


def onnx_model(detector: TrainedDetector, form: OnnxForm = PLAIN) -> "onnx.ModelProto":
    """The checked model; InputError where a layer has no ONNX form."""
    spec, graph = detector.spec, Graph()
    selected = not form.best_class and (form.nms or spec.head.one_to_one)
    traced = _traced(detector, form, raw=not selected)
    batch = BATCH if form.batch is None else form.batch
    size = spec.image_size
    shape = traced.in_avals[0].shape
    images = Value(shape, shape, CHANNELS_FIRST, INPUT)
    emitter = Emitter(graph, RULES, NAMED)
    found = emitter.run(traced.jaxpr, traced.consts, [images])
    names = [emitter.shaper.plain(value) for value in found]
    if selected:
        name = select(graph, *names, spec=spec, suppress=not spec.head.one_to_one)
        out: tuple[int | str, ...] = (batch, MAX_DETECTIONS, 6)
    else:
        (name,) = names
        out = (batch, *found[0].shape[1:])
    return graph.model(
        [(INPUT, np.float32, (batch, 3, size, size))],
        [(OUTPUT, name, np.float32, out)],
        metadata(detector, form),
    )


def _traced(detector: TrainedDetector, form: OnnxForm, *, raw: bool) -> Any:
    """The folded network, from images (B, S, S, 3) to the raw output or to boxes and scores."""
    spec = detector.spec
    dtype = jnp.float16 if form.half else jnp.float32
    structure = fused_graph(spec, dtype)[0]
    weights = fuse(spec, detector.weights, jnp.float32)

    def network(images: Float[Array, "b s s 3"]) -> Any:
        predictions = nnx.merge(structure, *weights)(images)
        boxes, scores = predictions.boxes, predictions.scores
        if not raw:
            return boxes, scores
        if form.best_class:
            best = scores.max(-1, keepdims=True)
            label = scores.argmax(-1)[..., None].astype(jnp.float32)
            return jnp.concatenate([boxes, best, label], -1)
        low, high = boxes[..., :2], boxes[..., 2:]
        return jnp.concatenate([(low + high) / 2, high - low, scores], -1).transpose(0, 2, 1)

    # Off a CPU a network is its plain form: convolutions, not what XLA's CPU backend likes better.
    with traced_for("cuda"):
        return jax.make_jaxpr(network)(
            jax.ShapeDtypeStruct(shape_of(spec, form.batch), jnp.float32)
        )


def select(graph: Graph, boxes: str, scores: str, *, spec: DetectorSpec, suppress: bool) -> str:
    """The best 300 box-class pairs of each image as [B, 300, 6], after class-wise NMS or without.

    `boxes` are [B, N, 4] xyxy, `scores` [B, N, classes]. As `detect` chooses: at most 1,024 pairs
    enter suppression, and what is at or below the score floor is left out.
    """
    anchors = sum((spec.image_size // stride) ** 2 for stride in spec.strides)
    classes, pairs = spec.num_classes, anchors * spec.num_classes

    def whole(numbers: Any) -> str:
        return graph.constant(np.array(numbers, np.int64))

    def number(value: float) -> str:
        return graph.constant(np.float32(value))

    def best(flat: str, count: int) -> tuple[str, str]:
        first = graph.add("TopK", flat, whole([count]), outputs=2, axis=1)
        return first, graph.outputs_of(first)[1]

    flat_shape, by_class = whole([-1, pairs]), classes
    if suppress:
        enter = min(candidates(anchors), pairs)
        least = graph.add(
            "Slice", best(graph.add("Reshape", scores, flat_shape), enter)[0],
            whole([enter - 1]), whole([enter]), whole([1]),
        )  # fmt: skip
        least = graph.add("Unsqueeze", least, whole([2]))
        turned = graph.add("Transpose", scores, perm=[0, 2, 1])
        among = graph.add("GreaterOrEqual", turned, least)
        entering = graph.add("Where", among, turned, number(0.0))
        chosen = graph.add(
            "NonMaxSuppression", boxes, entering,
            whole([MAX_DETECTIONS]), number(IOU_THRESHOLD), number(MIN_SCORE),
        )  # fmt: skip
        nothing = graph.add("Mul", turned, number(0.0))
        values = graph.add("GatherND", entering, chosen)
        scores = graph.add("ScatterND", nothing, chosen, values)
        # Classes come first now, so a pair's number is class * anchors + anchor.
        by_class = anchors
    count = min(MAX_DETECTIONS, pairs)
    top, index = best(graph.add("Reshape", scores, flat_shape), count)
    # In float32, exact up to 2^23 pairs: cv2.dnn divides whole numbers as if they were not.
    pair = graph.add("Cast", index, to=FLOAT)
    middle = graph.add("Add", pair, number(0.5))
    quotient = graph.add("Floor", graph.add("Div", middle, number(float(by_class))))
    rest = graph.add("Sub", pair, graph.add("Mul", quotient, number(float(by_class))))
    anchor, label = (rest, quotient) if suppress else (quotient, rest)
    places = graph.add("Unsqueeze", graph.add("Cast", anchor, to=INT64), whole([2]))
    corners = graph.add("GatherElements", boxes, graph.add("Concat", *[places] * 4, axis=2), axis=1)
    score = graph.add("Unsqueeze", top, whole([2]))
    kind = graph.add("Unsqueeze", label, whole([2]))
    rows = graph.add("Concat", corners, score, kind, axis=2)
    rows = graph.add("Where", graph.add("Greater", score, number(MIN_SCORE)), rows, number(0.0))
    if count == MAX_DETECTIONS:
        return rows
    return graph.add("Pad", rows, whole([0, 0, 0, 0, MAX_DETECTIONS - count, 0]))


def metadata(detector: TrainedDetector, form: OnnxForm) -> dict[str, str]:
    """What clients ask a model for: Python literals, as Ultralytics' exports have them.

    Author and licence say what is true: the weights are those of who trained them.
    """
    spec, names = detector.spec, detector.class_names
    end2end = spec.head.one_to_one
    labels = " ".join(name.strip().replace(" ", "_") or "_" for name in names)
    arguments = {
        "batch": form.batch or 1, "half": form.half, "dynamic": form.batch is None,
        "nms": form.nms and not end2end,
    }  # fmt: skip
    return {
        "description": f"detector of {len(names)} classes, trained by flaxyolo",
        "author": f"flaxyolo {flaxyolo.__version__}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "version": flaxyolo.__version__,
        "license": "that of whoever trained the weights; flaxyolo itself is Apache-2.0",
        "stride": str(max(spec.strides)),
        "task": "detect",
        "head": "Detect",
        "batch": str(form.batch or 1),
        "imgsz": str([spec.image_size, spec.image_size]),
        "names": repr(dict(enumerate(names))),
        "channels": "3",
        "args": repr(arguments),
        "end2end": str(end2end),
        "model_info model_type": "YOLOv8",
        "model_info labels": labels,
        "flaxyolo spec": json.dumps(to_dict(spec)),
    }


def write_onnx(detector: TrainedDetector, path: Path, form: OnnxForm = PLAIN) -> Path:
    """Write the model; the file is whole or not there."""
    needs("onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, onnx_model(detector, form).SerializeToString())
    return path


def needs(*libraries: str) -> None:
    """InputError with the extra that brings a library which is not here."""
    from importlib.util import find_spec

    absent = [name for name in libraries if find_spec(name) is None]
    if absent:
        raise InputError(f"expected the library {', '.join(absent)}, found none: {EXTRA}")
