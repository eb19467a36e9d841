"""How other packages name the parts of the networks that we have as well.

A family's `places` says under which of their names our larger parts stand, and its `parts` how
the layers inside one are called. Known from the names and shapes in their state dicts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from flaxyolo.base.errors import InputError
from flaxyolo.nn.bottlenecks import Bottleneck, CompactInverted, DepthwisePointwise
from flaxyolo.nn.context import SPPF, PartialAttention, PositionedAttention
from flaxyolo.nn.csp import C3, C2f, ChannelGate
from flaxyolo.nn.detector import Detector
from flaxyolo.nn.downsample import ConvDown, PointwiseDepthwise, SeparableDown
from flaxyolo.nn.layers import ConvNormAct
from flaxyolo.nn.rep import RepConv
from flaxyolo.nn.stem import ConvStem, FocusStem
from flaxyolo.spec import DetectorSpec

Names = dict[str, str]
"""Our name to theirs; dots lead into a part, and an empty name adds nothing."""

ARRAYS: Names = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""PyTorch's names of a convolution's and a batch norm's arrays."""

WRAPPERS: dict[type, Names] = {
    ConvNormAct: {"conv": "conv", "norm": "bn"},
    **{part: {"conv": ""} for part in (ConvStem, FocusStem, ConvDown, SeparableDown)},
}


class ImageForm(NamedTuple):
    """What a network takes: `(255 * image - mean) / std` of an image in 0..1, BGR if so said."""

    bgr: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)


OURS = ImageForm()


@dataclass(frozen=True)
class Family:
    """Names, and what else differs, of one kind of network in another package."""

    places: Callable[[DetectorSpec], Names]
    """Where our larger parts are."""
    parts: dict[type, Names]
    """What is inside a part of this kind."""
    copies: Callable[[DetectorSpec], Names] = lambda spec: {}
    """Names under which a shared array is stored again, to the name that is read."""
    unused: tuple[str, ...] = ("num_batches_tracked",)
    """Ends of names that hold no weights."""
    epsilon: float = 1e-3
    """Of the batch norms."""
    images: ImageForm = OURS
    points_at_corner: bool = False
    """Distances are counted from the corner of a cell; ours are from its middle."""


def their_names(spec: DetectorSpec, family: Family) -> Names:
    """Their name of every array of our network, by our path such as `backbone.stem.conv.norm.var`.

    InputError names a part of the network that the family does not have.
    """
    named = dict(_walk(_network(spec), "", None, family.places(spec), WRAPPERS | family.parts))
    for path, name in named.items():
        if name is None:
            raise InputError(f"has nothing like {path}")
    return {path: name for path, name in named.items() if name is not None}


@lru_cache(maxsize=8)
def _network(spec: DetectorSpec) -> Detector:
    return nnx.eval_shape(lambda: Detector(spec, rng=np.random.default_rng(0)))


def _walk(
    part: Any, path: str, name: str | None, places: Names, parts: dict[type, Names]
) -> Iterator[tuple[str, str | None]]:
    inside = parts.get(type(part), {})
    for key, child in _children(part):
        here = join(path, key)
        if isinstance(child, nnx.Variable):
            yield here, None if name is None else join(name, ARRAYS.get(key, key))
            continue
        known = places.get(here)
        if known is None and name is not None:
            first, _, index = key.partition(".")
            if key in inside:
                known = join(name, inside[key])
            elif first in inside:
                known = join(name, inside[first], index)
        yield from _walk(child, here, known, places, parts)


def _children(part: Any) -> Iterator[tuple[str, Any]]:
    """Arrays and parts of a part; those in lists are called `layers.0` and so on."""
    items = enumerate(part) if isinstance(part, nnx.List) else vars(part).items()
    for key, child in items:
        if isinstance(child, nnx.List):
            for inner, item in _children(child):
                yield join(str(key), inner), item
        elif isinstance(child, nnx.Module | nnx.Variable):
            yield str(key), child


def join(*names: str) -> str:
    """A dotted name of those that are not empty."""
    return ".".join(name for name in names if name)


def branch_places(spec: DetectorSpec, ours: str, theirs: str, pair: tuple[str, str]) -> Names:
    """Layers of the box or class branch of one level; `pair` names depthwise and pointwise."""
    form = spec.head.box_conv if ".box." in f".{ours}" else spec.head.class_conv
    places = {}
    for i in range(spec.head.depth):
        if form == "separable":
            for j, name in enumerate(pair):
                places[f"{ours}.layers.{2 * i + j}"] = join(theirs, str(i), name)
        else:
            places[f"{ours}.layers.{i}"] = join(theirs, str(i))
    return places


def ultralytics_places(spec: DetectorSpec) -> Names:
    """Their layers are numbered in the order of their description, which counts up-sampling too."""
    places, number = {"backbone.stem.conv": "model.0"}, 1
    for i in range(len(spec.backbone.stages)):
        places[f"backbone.stages.{i}.downsample"] = f"model.{number}"
        places[f"backbone.stages.{i}.block"] = f"model.{number + 1}"
        number += 2
    after = f"backbone.stages.{len(spec.backbone.stages) - 1}.after"
    if spec.backbone.context == "sppf_psa":
        places |= {f"{after}.pool": f"model.{number}", f"{after}.attend": f"model.{number + 1}"}
        number += 2
    elif spec.backbone.context != "none":
        places[after] = f"model.{number}"
        number += 1
    levels = len(spec.neck.levels)
    for i in range(levels - 1):
        if spec.neck.reduce:
            places[f"neck.fpn.reduce.{i}"] = f"model.{number}"
            number += 1
        # Up-sampling and concatenation come before the block.
        places[f"neck.fpn.down.{i}.block"] = f"model.{number + 2}"
        number += 3
    for i in range(levels - 1):
        places[f"neck.downsample.{i}"] = f"model.{number}"
        places[f"neck.up.{i}.block"] = f"model.{number + 2}"
        number += 3
    pairs = [("head", "")]
    if spec.head.one_to_one:
        pairs.append(("head.one_to_one", "one2one_"))
    for ours, prefix in pairs:
        for i in range(levels):
            for branch, name in (("box", "cv2"), ("cls", "cv3")):
                here, there = f"{ours}.{branch}.{i}", f"model.{number}.{prefix}{name}.{i}"
                places |= branch_places(spec, here, there, ("0", "1"))
                places[f"{here}.predict"] = f"{there}.{spec.head.depth}"
    return places


def yolox_places(spec: DetectorSpec) -> Names:
    """Four stages and the levels P3 to P5, as every YOLOX has them."""
    places = {"backbone.stem.conv": "backbone.backbone.stem.conv"}
    for i, _ in enumerate(spec.backbone.stages):
        stage, dark = f"backbone.stages.{i}", f"backbone.backbone.dark{i + 2}"
        last = i == len(spec.backbone.stages) - 1
        places[f"{stage}.downsample"] = f"{dark}.0"
        places[f"{stage}.before"] = f"{dark}.1"
        places[f"{stage}.block"] = f"{dark}.2" if last else f"{dark}.1"
    for ours, name in (
        ("fpn.reduce.0", "lateral_conv0"),
        ("fpn.down.0.block", "C3_p4"),
        ("fpn.reduce.1", "reduce_conv1"),
        ("fpn.down.1.block", "C3_p3"),
        ("downsample.0", "bu_conv2"),
        ("up.0.block", "C3_n3"),
        ("downsample.1", "bu_conv1"),
        ("up.1.block", "C3_n4"),
    ):
        places[f"neck.{ours}"] = f"backbone.{name}"
    for i in range(len(spec.neck.levels)):
        places[f"head.stem.{i}"] = f"head.stems.{i}"
        places[f"head.box.{i}.objectness"] = f"head.obj_preds.{i}"
        for branch, name in (("box", "reg"), ("cls", "cls")):
            here = f"head.{branch}.{i}"
            places |= branch_places(spec, here, f"head.{name}_convs.{i}", ("dconv", "pconv"))
            places[f"{here}.predict"] = f"head.{name}_preds.{i}"
    return places


def rtmdet_places(spec: DetectorSpec) -> Names:
    """Convolutions of the head are stored for each level, though all levels share them."""
    places = {f"backbone.stem.{ours}": f"backbone.stem.{i}" for i, ours in enumerate(DEEP_STEM)}
    for i, _ in enumerate(spec.backbone.stages):
        stage, name = f"backbone.stages.{i}", f"backbone.stage{i + 1}"
        last = i == len(spec.backbone.stages) - 1
        places[f"{stage}.downsample"] = f"{name}.0"
        places[f"{stage}.before"] = f"{name}.1"
        places[f"{stage}.block"] = f"{name}.2" if last else f"{name}.1"
    levels = len(spec.neck.levels)
    for i in range(levels - 1):
        places |= {
            f"neck.fpn.reduce.{i}": f"neck.reduce_layers.{i}",
            f"neck.fpn.down.{i}.block": f"neck.top_down_blocks.{i}",
            f"neck.downsample.{i}": f"neck.downsamples.{i}",
            f"neck.up.{i}.block": f"neck.bottom_up_blocks.{i}",
        }
    for i in range(levels):
        places[f"neck.out.{i}"] = f"neck.out_convs.{i}"
        for branch, name in RTMDET_BRANCHES:
            places[f"head.{branch}.predict.{i}.predict"] = f"bbox_head.rtm_{name}.{i}"
            for j in range(spec.head.depth):
                layer = f"bbox_head.{name}_convs.{i}.{j}"
                places[f"head.{branch}.norms.{i}.{j}"] = f"{layer}.bn"
                if i == 0:
                    places[f"head.{branch}.convs.{j}"] = f"{layer}.conv"
    return places


def rtmdet_copies(spec: DetectorSpec) -> Names:
    """The head's shared kernels, stored again for every level but the first."""
    return {
        f"bbox_head.{name}_convs.{i}.{j}.conv.weight": f"bbox_head.{name}_convs.0.{j}.conv.weight"
        for _, name in RTMDET_BRANCHES
        for i in range(1, len(spec.neck.levels))
        for j in range(spec.head.depth)
    }


DEEP_STEM = ("first", "second", "third")
RTMDET_BRANCHES = (("box", "reg"), ("cls", "cls"))

ULTRALYTICS_PARTS: dict[type, Names] = {
    Bottleneck: {"first": "cv1", "second": "cv2"},
    C2f: {"split": "cv1", "layers": "m", "merge": "cv2"},
    C3: {"main": "cv1", "bypass": "cv2", "layers": "m", "merge": "cv3"},
    SPPF: {"reduce": "cv1", "merge": "cv2"},
    PointwiseDepthwise: {"pointwise": "cv1", "depthwise": "cv2"},
    PositionedAttention: {"qkv": "qkv", "position": "pe", "project": "proj"},
    PartialAttention: {
        "split": "cv1",
        "attention": "m.0.attn",
        "widen": "m.0.ffn.0",
        "narrow": "m.0.ffn.1",
        "merge": "cv2",
    },
}
YOLOV10_PARTS: dict[type, Names] = ULTRALYTICS_PARTS | {
    PartialAttention: {
        "split": "cv1",
        "attention": "attn",
        "widen": "ffn.0",
        "narrow": "ffn.1",
        "merge": "cv2",
    },
    CompactInverted: {
        "first": "cv1.0",
        "expand": "cv1.1",
        "middle": "cv1.2",
        "project": "cv1.3",
        "last": "cv1.4",
    },
    RepConv: {"branches.0": "conv", "branches.1": "conv1"},
}
YOLOX_PARTS: dict[type, Names] = {
    Bottleneck: {"first": "conv1", "second": "conv2"},
    C3: {"main": "conv1", "bypass": "conv2", "layers": "m", "merge": "conv3"},
    SPPF: {"reduce": "conv1", "merge": "conv2"},
    DepthwisePointwise: {"depthwise": "dconv", "pointwise": "pconv"},
}
RTMDET_PARTS: dict[type, Names] = {
    Bottleneck: {"first": "conv1", "second": "conv2"},
    C3: {
        "main": "main_conv",
        "bypass": "short_conv",
        "layers": "blocks",
        "gate": "attention",
        "merge": "final_conv",
    },
    ChannelGate: {"gate": "fc"},
    SPPF: {"reduce": "conv1", "merge": "conv2"},
    DepthwisePointwise: {"depthwise": "depthwise_conv", "pointwise": "pointwise_conv"},
}

# The fixed projection of the DFL bins is no weight of ours.
_ultralytics = partial(
    Family, ultralytics_places, unused=("num_batches_tracked", "dfl.conv.weight")
)

FAMILIES: dict[str, Family] = {
    "yolov8": _ultralytics(ULTRALYTICS_PARTS),
    "yolo11": _ultralytics(ULTRALYTICS_PARTS),
    # With the anchor-free head.
    "yolov5": _ultralytics(ULTRALYTICS_PARTS),
    "yolov10": _ultralytics(YOLOV10_PARTS),
    "yolox": Family(
        yolox_places,
        YOLOX_PARTS,
        images=ImageForm(bgr=True, std=(1.0, 1.0, 1.0)),
    ),
    "rtmdet": Family(
        rtmdet_places,
        RTMDET_PARTS,
        copies=rtmdet_copies,
        epsilon=1e-5,
        # Of blue, green and red.
        images=ImageForm(bgr=True, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)),
        points_at_corner=True,
    ),
}
