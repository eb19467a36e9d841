"""Decoupled anchor-free head: P levels to Predictions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from flaxyolo.base.boxes import anchor_points, ltrb_to_xyxy
from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.conv import Conv
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import ACTIVATIONS, ConvAct, Layers, folded
from flaxyolo.nn.norm import NORMS, BatchNorm
from flaxyolo.nn.tables import entry
from flaxyolo.spec import DetectorSpec

OBJECTNESS_PRIOR = float(np.log(0.01 / 0.99))
"""Where the objectness and the classes beside it start: 1 % (YOLOX; arXiv 1708.02002, 4.1)."""

LARGEST_LOG_SIZE = 10.0
"""Above this log size, in strides, a `cxcywh` box grows no more: e^10 cells are beyond any image,
and its area stays finite."""


class Predictions(NamedTuple):
    """What the head says at every anchor point of every level, finest level first, in float32."""

    logits: Float[Array, "b a k"]
    boxes: Float[Array, "b a 4"]
    """xyxy, input pixels; no side is left of, or above, its opposite."""
    distances: Float[Array, "b a 4 r"]
    """What the boxes are decoded from: DFL logits of the ltrb distances in strides, or with r = 1
    the raw numbers of the other box forms."""
    objectness: Float[Array, "b a"] | None = None
    """Logits of "any object", where the head has them."""
    one_to_one: "Predictions | None" = None
    """The second pair of branches, which needs no NMS; in training only."""

    @property
    def scores(self) -> Float[Array, "b a k"]:
        """Probability of each class; of an object at all, times the class, with objectness."""
        scores = jax.nn.sigmoid(self.logits)
        if self.objectness is None:
            return scores
        return scores * jax.nn.sigmoid(self.objectness)[..., None]


def branch_layers(
    in_width: int, width: int, depth: int, form: str
) -> list[tuple[int, int, int, int]]:
    """Input width, width, kernel and groups of each convolution of a branch."""
    layers = []
    for _ in range(depth):
        if form == "separable":
            layers += [(in_width, in_width, 3, in_width), (in_width, width, 1, 1)]
        else:
            layers.append((in_width, width, 3, 1))
        in_width = width
    return layers


class Branch(nnx.Module):
    """`depth` convolutions and a 1x1 prediction with bias, for one level.

    With `objectness`, that is one more output after the others.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        outputs: int,
        depth: int,
        *,
        bias: float | np.ndarray,
        form: str = "dense",
        objectness: bool = False,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.layers = nnx.List(
            [
                conv(a, b, kernel, groups=groups, rng=rng)
                for a, b, kernel, groups in branch_layers(in_width, width, depth, form)
            ]
        )
        last = width if depth else in_width
        self.predict = Conv(last, outputs, 1, bias=bias, dtype=conv.dtype, rng=rng)
        self.objectness = (
            Conv(last, 1, 1, bias=OBJECTNESS_PRIOR, dtype=conv.dtype, rng=rng)
            if objectness
            else None
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h*w o"]:
        for layer in self.layers:
            x = layer(x)
        y = self.predict(x).astype(jnp.float32)
        if self.objectness is not None:
            y = jnp.concatenate([y, self.objectness(x).astype(jnp.float32)], -1)
        return y.reshape(y.shape[0], -1, y.shape[-1])

    def fused(self) -> nnx.Module:
        """The same (in place) for inference: layers folded, both predictions one convolution."""
        fold_each(self.layers)
        if self.objectness is not None:
            kernels = [np.asarray(part.kernel[...]) for part in (self.predict, self.objectness)]
            biases = [self.predict.bias, self.objectness.bias]
            bias = np.concatenate([np.asarray(part[...]) for part in biases if part is not None])
            kernel = np.concatenate(kernels, -1)
            self.predict = Conv.holding(kernel, bias, like=self.predict)
            self.objectness = None
        return self


class SharedBranch(nnx.Module):
    """One set of convolutions for all levels; norms and predictions for each (arXiv 2212.07784)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        outputs: int,
        depth: int,
        *,
        biases: list[Any],
        form: str,
        objectness: bool,
        conv: Layers,
        rng: np.random.Generator,
    ):
        layers = branch_layers(in_width, width, depth, form)
        self.convs = nnx.List(
            [
                Conv(a, b, kernel, groups=groups, dtype=conv.dtype, rng=rng)
                for a, b, kernel, groups in layers
            ]
        )
        self.norms = nnx.List(
            [nnx.List([NORMS[conv.norm](b) for _, b, *_ in layers]) for _ in biases]
        )
        common: dict[str, Any] = {"objectness": objectness, "conv": conv, "rng": rng}
        self.predict = nnx.List(
            [Branch(width, width, outputs, 0, bias=bias, **common) for bias in biases]
        )
        self.activation = conv.activation

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ o"]]:
        activation, outputs = ACTIVATIONS[self.activation], []
        for x, norms, predict in zip(features, self.norms, self.predict, strict=True):
            for conv, norm in zip(self.convs, norms, strict=True):
                x = activation(norm(conv(x)))
            outputs.append(predict(x))
        return outputs

    def fused(self) -> Any:
        """The same for inference: a branch for each level, whose norms are folded.

        With group norm the convolutions stay shared.
        """
        branches = [fuse_network(branch) for branch in self.predict]
        for branch, norms in zip(branches, self.norms, strict=True):
            layers: Any = branch.layers
            for conv, norm in zip(self.convs, norms, strict=True):
                if not isinstance(norm, BatchNorm):
                    return self
                layers.append(ConvAct(*folded(conv, norm), like=conv, activation=self.activation))
        return nnx.List(branches)


def make_branches(
    spec: DetectorSpec, in_widths: tuple[int, ...], *, conv: Layers, rng: np.random.Generator
) -> tuple[Any, Any]:
    """A box branch and a class branch for each level, or one of each shared by them.

    The class bias starts at log(5 / classes / (640 / stride)^2), five objects in a 640 px image,
    the box bias where a box is that of a few cells around the point.
    """
    head = spec.head
    common: dict[str, Any] = {"conv": conv, "rng": rng}
    box_bias = np.repeat(BOX_BIAS[head.box], head.bins).astype(np.float32)
    # With objectness the rarity of objects is its matter, and classes start as in YOLOX.
    priors = [
        OBJECTNESS_PRIOR
        if head.objectness
        else float(np.log(5 / spec.num_classes / (640 / stride) ** 2))
        for stride in spec.strides
    ]
    box = (spec.box_width, 4 * head.bins, head.depth)
    cls = (spec.class_width, spec.num_classes, head.depth)
    box_form: dict[str, Any] = {"form": head.box_conv, "objectness": head.objectness}
    cls_form: dict[str, Any] = {"form": head.class_conv, "objectness": False}
    if head.shared:
        width, biases = in_widths[0], [box_bias] * len(priors)
        return (
            SharedBranch(width, *box, biases=biases, **box_form, **common),
            SharedBranch(width, *cls, biases=priors, **cls_form, **common),
        )
    boxes, classes = nnx.List([]), nnx.List([])
    for width, prior in zip(in_widths, priors, strict=True):
        boxes.append(Branch(width, *box, bias=box_bias, **box_form, **common))
        classes.append(Branch(width, *cls, bias=prior, **cls_form, **common))
    return boxes, classes


def run_branches(
    branches: Any, features: list[Float[Array, "b _ _ _"]]
) -> list[Float[Array, "b _ o"]]:
    """What the branch of each level, or the one of all, says."""
    if isinstance(branches, SharedBranch):
        return branches(features)
    return [branch(x) for branch, x in zip(branches, features, strict=True)]


def predict_pair(
    spec: DetectorSpec, box: Any, cls: Any, features: list[Float[Array, "b _ _ _"]]
) -> Predictions:
    """What the box and class branches say of the features, with decoded boxes."""
    with jax.named_scope("cls"):
        logits = run_branches(cls, features)
    with jax.named_scope("box"):
        raw = jnp.concatenate(run_branches(box, features), 1)
    objectness = raw[..., -1] if spec.head.objectness else None
    values = raw[..., :-1] if spec.head.objectness else raw
    distances = values.reshape(*values.shape[:2], 4, spec.head.bins)
    points, strides = anchor_points(features[0].shape[1] * spec.strides[0], spec.strides)
    return Predictions(
        logits=jnp.concatenate(logits, 1),
        boxes=DECODERS[spec.head.box](distances, jnp.asarray(points), jnp.asarray(strides)),
        distances=distances,
        objectness=objectness,
    )


class OneToOne(nnx.Module):
    """The second pair of branches (arXiv 2405.14458)."""

    def __init__(
        self,
        spec: DetectorSpec,
        in_widths: tuple[int, ...],
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.spec = spec
        self.box, self.cls = make_branches(spec, in_widths, conv=conv, rng=rng)

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> Predictions:
        return predict_pair(self.spec, self.box, self.cls, features)


class Head(nnx.Module):
    """An optional 1x1 stem and attention for each level, then the branches.

    A second pair of branches (arXiv 2405.14458) learns beside the first from features that it
    does not change; in use it is the only one.
    """

    def __init__(self, spec: DetectorSpec, *, conv: Layers, rng: np.random.Generator):
        widths = spec.feature_widths
        stem_width = spec.head.stem_width
        stems = [conv(width, stem_width, 1, rng=rng) for width in widths if stem_width]
        self.stem = nnx.List(stems) if stems else None
        widths = (stem_width,) * len(widths) if stem_width else widths
        if spec.head.shared and len(set(widths)) > 1:
            raise ValueError(
                "head.shared needs levels of one width, got "
                f"{list(widths)}; set neck.widths, neck.out_width or head.stem_width"
            )
        self.attention = nnx.List(
            [
                entry(ATTENTIONS, name, "head.attention")(width, conv=conv, rng=rng)
                for name, width in zip(spec.head_attentions, widths, strict=True)
            ]
        )
        self.spec = spec
        self.box, self.cls = make_branches(spec, widths, conv=conv, rng=rng)
        self.one_to_one = (
            OneToOne(spec, widths, conv=conv, rng=rng) if spec.head.one_to_one else None
        )

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> Predictions:
        if self.stem is not None:
            features = [stem(x) for stem, x in zip(self.stem, features, strict=True)]
        features = [attention(x) for attention, x in zip(self.attention, features, strict=True)]
        predictions = predict_pair(self.spec, self.box, self.cls, features)
        if self.one_to_one is None:
            return predictions
        return predictions._replace(one_to_one=self.one_to_one(lax.stop_gradient(features)))

    def fused(self) -> nnx.Module:
        """The same (in place) for inference: all folded, of two pairs of branches the second."""
        if self.one_to_one is not None:
            self.box, self.cls = self.one_to_one.box, self.one_to_one.cls
            self.one_to_one = None
        for layers in (self.stem, self.attention):
            if layers is not None:
                fold_each(layers)
        self.box, self.cls = folded_branches(self.box), folded_branches(self.cls)
        return self


def folded_branches(branches: Any) -> Any:
    """The branches of all levels, folded."""
    return branches.fused() if isinstance(branches, SharedBranch) else fold_each(branches)


def fold_each(layers: Any) -> Any:
    """Every module of a list (in place) by its form for inference."""
    for index, layer in enumerate(layers):
        layers[index] = fuse_network(layer)
    return layers


def decode_dfl(
    distances: Float[Array, "b a 4 r"], points: Float[Array, "a 2"], strides: Float[Array, " a"]
) -> Float[Array, "b a 4"]:
    """xyxy boxes in input pixels: the mean of each DFL distribution, in strides, from the point."""
    bins = jnp.arange(distances.shape[-1], dtype=jnp.float32)
    ltrb = (jax.nn.softmax(distances, -1) * bins[None, None, None]).sum(-1)
    return ltrb_to_xyxy(ltrb * strides[None, :, None], points[None])


def decode_ltrb(
    distances: Float[Array, "b a 4 1"], points: Float[Array, "a 2"], strides: Float[Array, " a"]
) -> Float[Array, "b a 4"]:
    """xyxy boxes in input pixels from distances in strides, which may be negative.

    Sides that would change places meet in the middle: no box is turned inside out.
    """
    boxes = ltrb_to_xyxy(distances[..., 0] * strides[None, :, None], points[None])
    low, high = boxes[..., :2], boxes[..., 2:]
    middle = (low + high) / 2
    return jnp.concatenate([jnp.minimum(low, middle), jnp.maximum(high, middle)], -1)


def decode_cxcywh(
    values: Float[Array, "b a 4 1"], points: Float[Array, "a 2"], strides: Float[Array, " a"]
) -> Float[Array, "b a 4"]:
    """xyxy boxes in input pixels from YOLOX's form (arXiv 2107.08430), all in strides.

    The centre is counted from the corner of the cell, of which the point is the middle; the size
    is a logarithm.
    """
    steps = strides[None, :, None]
    centre = points[None] + (values[..., :2, 0] - 0.5) * steps
    half = jnp.exp(jnp.minimum(values[..., 2:, 0], LARGEST_LOG_SIZE)) * steps / 2
    return jnp.concatenate([centre - half, centre + half], -1)


BOX_BIAS = {"dfl": (1, 1, 1, 1), "ltrb": (1, 1, 1, 1), "cxcywh": (0.5, 0.5, 1, 1)}
"""Where the four values of a box start: all bins alike; one stride to each side; e strides around
the middle of the cell."""

DECODERS: dict[str, Callable[..., Array]] = {
    "dfl": decode_dfl,
    "ltrb": decode_ltrb,
    "cxcywh": decode_cxcywh,
}
