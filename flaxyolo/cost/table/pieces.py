"""The pieces of a network that are timed alone: stem, stages, neck, head, and NMS.

A piece is as large as a part of the network can be and still be shared: XLA fuses inside it, and
runs the levels of a head side by side. Two networks that have a piece in common share its time.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from flaxyolo.cost.flops import multiply_adds
from flaxyolo.cost.reference import calm_ms, reference_call, reference_of
from flaxyolo.cost.table.file import Count, best_reference
from flaxyolo.machine.clock import (
    Turns,
    block_size,
    device_lock,
    time_block,
    time_calls,
    warm_up,
)
from flaxyolo.nn.backbone import Stage
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import best_pairs, compute_dtype, scaled
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.head import Head
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.neck import NECKS
from flaxyolo.nn.nms import batched_nms
from flaxyolo.nn.norm import NORMS, BatchNorm
from flaxyolo.nn.stem import STEMS
from flaxyolo.nn.tables import entry
from flaxyolo.spec import DetectorSpec, stem_stride

KINDS = ("stem", "stage", "neck", "head", "nms")

VISITS = 10
VISIT_CALLS = 5
VISIT_SECONDS = 0.03
LONGEST_VISIT_SECONDS = 1.0
VISIT_BLOCKS = 3
"""Blocks of the reference after each visit, each about as long as a call of the piece."""


_PIECES = "pieces of their own"
_MAPS = "said by the maps that the piece takes"
_TRAINING = "in training only"
_DETECTIONS = "NMS takes scores and boxes, however they were made"
_DETECTOR = {
    "detector.backbone": _PIECES,
    "detector.neck": _PIECES,
    "detector.head": _PIECES,
    "detector.image_size": _MAPS,
}
_BACKBONE = {
    "backbone.stages": _PIECES,
    "backbone.context": "said by the `before` and `after` of the stage that has it",
    "backbone.context_place": "said by the `before` and `after` of the stage that has it",
    "backbone.drop_path": _TRAINING,
    "backbone.drop_block": _TRAINING,
    "backbone.spatial_dropout": _TRAINING,
}
_CLASSES = {"detector.num_classes": "only the head and NMS know of classes"}

LEFT_OUT: dict[str, dict[str, str]] = {
    "stem": _DETECTOR | _CLASSES | _BACKBONE,
    "stage": _DETECTOR
    | _CLASSES
    | _BACKBONE
    | {"backbone.stem": _PIECES, "backbone.stem_width": _MAPS},
    "neck": _DETECTOR | _CLASSES | {"neck.levels": _MAPS},
    "head": _DETECTOR,
    "nms": _DETECTOR
    | {
        "detector.norm": _DETECTIONS,
        "detector.activation": _DETECTIONS,
        "detector.num_classes": _MAPS,
        "head.depth": _DETECTIONS,
        "head.box": _DETECTIONS,
        "head.reg_max": _DETECTIONS,
        "head.box_width": _DETECTIONS,
        "head.class_width": _DETECTIONS,
        "head.box_conv": _DETECTIONS,
        "head.class_conv": _DETECTIONS,
        "head.stem_width": _DETECTIONS,
        "head.shared": _DETECTIONS,
        "head.attention": _DETECTIONS,
        "head.objectness": _DETECTIONS,
    },
}
"""Fields of the spec that cannot change the time of a kind of piece, and why. Every other field is
in its key, also one that the spec is given later."""


@dataclass(frozen=True)
class Piece:
    """One part of a detector; equal to that of another where `key`, all that it is, is equal."""

    key: str
    """JSON of everything that decides the part's program."""
    spec: DetectorSpec = field(compare=False, repr=False)
    """The detector it was cut from, to build it."""
    kind: str = field(compare=False)
    number: int = field(default=0, compare=False)
    """Of a stage, from 0."""
    shapes: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """Side and width of each map it takes; of NMS anchors and numbers for each."""


@lru_cache(maxsize=20_000)
def pieces(spec: DetectorSpec) -> tuple[Piece, ...]:
    """The parts of a detector in the order in which an image meets them."""
    fields = asdict(spec)
    backbone, neck, head = fields["backbone"], fields["neck"], fields["head"]
    common = {"detector": fields | {"norm": _norm(spec.norm)}}
    size, sides = spec.image_size, [spec.image_size // stride for stride in spec.strides]

    def piece(
        kind: str, shapes: tuple[tuple[int, int], ...], number: int = 0, **parts: dict[str, Any]
    ) -> Piece:
        return Piece(_key(kind, shapes, common | parts), spec, kind, number, shapes)

    cut = [piece("stem", ((size, 3),), backbone=backbone)]
    side, width = size // stem_stride(spec.backbone.stem), spec.backbone.stem_width
    for number, stage in enumerate(spec.backbone.stages):
        before, after = contexts(spec, number)
        made = backbone["stages"][number] | {
            "down_width": stage.down_width or stage.width,
            "before": before,
            "after": after,
        }
        cut.append(piece("stage", ((side, width),), number, backbone=backbone, stage=made))
        side, width = side // stage.stride, stage.width
    made = neck | {
        "block": spec.neck.blocks,
        "widths": spec.neck_widths,
        "attention": spec.neck.attentions,
        # The finest level's is unused.
        "downsample": spec.neck.downsamples[1:],
    }
    taken = [spec.backbone.level_widths[level] for level in spec.neck.levels]
    cut.append(piece("neck", tuple(zip(sides, taken, strict=True)), neck=made))
    made = head | {
        "reg_max": spec.head.bins,
        "box_width": spec.box_width,
        "class_width": spec.class_width,
        "attention": spec.head_attentions,
    }
    cut.append(piece("head", tuple(zip(sides, spec.feature_widths, strict=True)), head=made))
    anchors = sum(side**2 for side in sides)
    cut.append(piece("nms", ((anchors, spec.num_classes), (anchors, 4)), head=head))
    return tuple(cut)


def _key(kind: str, shapes: tuple[tuple[int, int], ...], parts: dict[str, dict[str, Any]]) -> str:
    deciding = {
        part: {
            name: value for name, value in fields.items() if f"{part}.{name}" not in LEFT_OUT[kind]
        }
        for part, fields in parts.items()
    }
    return json.dumps({"kind": kind, "in": shapes} | deciding, separators=(",", ":"))


def contexts(spec: DetectorSpec, number: int) -> tuple[str, str]:
    """The context layer before and after the block of a stage; only the last has one."""
    backbone = spec.backbone
    if number < len(backbone.stages) - 1:
        return "none", "none"
    name = backbone.context
    return (name, "none") if backbone.context_place == "before" else ("none", name)


def _norm(name: str) -> str:
    """Batch norms of every kind are folded into the same convolutions."""
    norm = NORMS[name]
    return "batch" if isinstance(norm, type) and issubclass(norm, BatchNorm) else name


def build(piece: Piece, dtype: Any) -> nnx.Module:
    """The piece as a module of its own, with fresh weights."""
    spec, rng = piece.spec, np.random.default_rng(0)
    conv = Layers(spec.norm, spec.activation, dtype)
    widths = tuple(width for _, width in piece.shapes)
    if piece.kind == "stem":
        stem = entry(STEMS, spec.backbone.stem, "stem")
        return stem(spec.backbone.stem_width, conv=conv, rng=rng)
    if piece.kind == "stage":
        before, after = contexts(spec, piece.number)
        stage = spec.backbone.stages[piece.number]
        return Stage(stage, widths[0], before=before, after=after, conv=conv, rng=rng)
    if piece.kind == "neck":
        neck = entry(NECKS, spec.neck.kind, "neck.kind")
        return neck(spec.neck, widths, spec.neck_widths, conv=conv, rng=rng)
    return Head(spec, conv=conv, rng=rng)


class Program(NamedTuple):
    """A piece ready for tracing: `run(weights, *inputs)`, folded, with the shapes it takes."""

    run: Callable[..., Any]
    weights: Any
    inputs: tuple[Any, ...]
    params: int
    """Trainable parameters before folding."""


def program(piece: Piece, dtype: Any) -> Program:
    """The folded piece as a function of its weights and inputs, for one image."""
    if piece.kind == "nms":
        choose = jax.vmap(best_pairs) if piece.spec.head.one_to_one else batched_nms
        arrays = [jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in piece.shapes]
        return Program(lambda weights, *inputs: choose(*inputs), (), tuple(arrays), 0)
    network = build(piece, dtype)
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    network = fuse_network(network)
    weights = nnx.as_pure(nnx.state(network))
    view = nnx.view(network, use_running_average=True, deterministic=True, raise_if_not_found=False)
    definition = nnx.graphdef(view)
    inputs = tuple(
        jax.ShapeDtypeStruct((1, side, side, width), jnp.uint8 if piece.kind == "stem" else dtype)
        for side, width in piece.shapes
    )

    def run(weights: Any, *inputs: Shaped[Array, "b _ _ _"]) -> Any:
        layers: Any = nnx.merge(definition, weights)
        if piece.kind == "stem":
            return layers(scaled(inputs[0]))
        if piece.kind == "stage":
            return layers(inputs[0])
        found = layers(list(inputs))
        return found if piece.kind == "neck" else (found.scores, found.boxes)

    return Program(run, weights, inputs, params)


def ready(piece: Piece) -> Callable[[int], Any]:
    """The piece compiled for this device with its weights and inputs on it, to be called."""
    run, weights, shapes, _ = program(piece, compute_dtype())
    compiled = compile_ahead(jax.jit(run), weights, *shapes)
    weights, inputs = jax.device_put((weights, _inputs(piece, shapes)))
    return lambda _: compiled(weights, *inputs)


def time_pieces(batch: Sequence[Piece]) -> list[float]:
    """Milliseconds of each piece on a calm device: by the reference, which is timed in turn.

    The speed of a machine that others use too wanders within seconds; in visits in turn, every
    piece is seen at moments that lie apart.
    """
    calls, reference = [ready(piece) for piece in batch], reference_call()
    times: list[list[np.ndarray]] = [[] for _ in batch]
    blocks: list[list[list[float]]] = [[] for _ in batch]
    with device_lock():
        one = warm_up(reference, VISIT_CALLS)
        sizes = [block_size(warm_up(call, VISIT_CALLS), one) for call in calls]
        for _ in range(VISITS):
            for number, call in enumerate(calls):
                visit = time_calls(
                    call,
                    min_calls=VISIT_CALLS,
                    min_seconds=VISIT_SECONDS,
                    max_seconds=LONGEST_VISIT_SECONDS,
                )
                times[number].append(visit)
                blocks[number] += [
                    time_block(reference, sizes[number]) for _ in range(VISIT_BLOCKS)
                ]
    turns = [
        Turns(np.concatenate(own), np.array(after))
        for own, after in zip(times, blocks, strict=True)
    ]
    seen = np.concatenate([each.reference.ravel() for each in turns])
    best = best_reference(reference_of(seen))
    return [calm_ms(each, best) for each in turns]


def count(piece: Piece) -> Count:
    """What the piece adds to the parameters and multiply-adds of a network; nothing is compiled."""
    run, weights, inputs, params = program(piece, jnp.float32)
    return Count(params, multiply_adds(run, weights, *inputs))


def _inputs(piece: Piece, shapes: tuple[Any, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    if piece.kind == "stem":
        return [rng.integers(0, 256, shape.shape, np.uint8) for shape in shapes]
    if piece.kind != "nms":
        return [rng.normal(0, 0.5, shape.shape).astype(shape.dtype) for shape in shapes]
    # As a fresh network has them: boxes of a few cells, about half of the scores large enough.
    scores, boxes = shapes
    corners = rng.uniform(0, piece.spec.image_size, (*boxes.shape[:2], 2))
    sizes = rng.uniform(16, 64, corners.shape)
    return [
        (1 / (1 + np.exp(rng.normal(7, 1, scores.shape)))).astype(np.float32),
        np.concatenate([corners, corners + sizes], -1).astype(np.float32),
    ]
