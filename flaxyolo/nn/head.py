"""Decoupled anchor-free head: P levels to Predictions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.boxes import anchor_points, ltrb_to_xyxy
from flaxyolo.nn.conv import Conv
from flaxyolo.nn.layers import Layers
from flaxyolo.spec import DetectorSpec


class Predictions(NamedTuple):
    """What the head says at every anchor point of every level, finest level first, in float32."""

    logits: Float[Array, "b a k"]
    boxes: Float[Array, "b a 4"]
    """xyxy, input pixels."""
    distances: Float[Array, "b a 4 r"]
    """DFL logits of the ltrb distances, in strides."""


class Branch(nnx.Module):
    """`depth` convolutions and a 1x1 prediction with bias."""

    def __init__(
        self,
        in_width: int,
        width: int,
        outputs: int,
        depth: int,
        *,
        bias: float,
        conv: Layers,
        rng: np.random.Generator,
    ):
        widths = [in_width] + [width] * depth
        self.layers = nnx.List([conv(w, width, 3, rng=rng) for w in widths[:-1]])
        self.predict = Conv(widths[-1], outputs, 1, bias=bias, dtype=conv.dtype, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h*w o"]:
        for layer in self.layers:
            x = layer(x)
        y = self.predict(x).astype(jnp.float32)
        return y.reshape(y.shape[0], -1, y.shape[-1])


class Head(nnx.Module):
    """A class branch and a box branch for each level; boxes by DFL (arXiv 2006.04388).

    The class bias starts at log(5 / classes / (640 / stride)^2), five objects in a 640 px image.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        head = spec.head
        self.box, self.cls = nnx.List([]), nnx.List([])
        for width, stride in zip(spec.feature_widths, spec.strides, strict=True):
            prior = float(np.log(5 / spec.num_classes / (640 / stride) ** 2))
            self.box.append(
                Branch(
                    width,
                    spec.box_width,
                    4 * head.bins,
                    head.depth,
                    bias=1.0,
                    conv=conv,
                    rng=rng,
                )
            )
            self.cls.append(
                Branch(
                    width,
                    spec.class_width,
                    spec.num_classes,
                    head.depth,
                    bias=prior,
                    conv=conv,
                    rng=rng,
                )
            )
        self.strides, self.bins = spec.strides, head.bins

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> Predictions:
        logits = [branch(x) for branch, x in zip(self.cls, features, strict=True)]
        flat = [branch(x) for branch, x in zip(self.box, features, strict=True)]
        boxes = jnp.concatenate(flat, 1)
        distances = boxes.reshape(*boxes.shape[:2], 4, self.bins)
        points, strides = anchor_points(features[0].shape[1] * self.strides[0], self.strides)
        return Predictions(
            logits=jnp.concatenate(logits, 1),
            boxes=decode(distances, jnp.asarray(points), jnp.asarray(strides)),
            distances=distances,
        )


def decode(
    distances: Float[Array, "b a 4 r"], points: Float[Array, "a 2"], strides: Float[Array, " a"]
) -> Float[Array, "b a 4"]:
    """xyxy boxes in input pixels: the mean of each DFL distribution, in strides, from the point."""
    bins = jnp.arange(distances.shape[-1], dtype=jnp.float32)
    ltrb = (jax.nn.softmax(distances, -1) * bins[None, None, None]).sum(-1)
    return ltrb_to_xyxy(ltrb * strides[None, :, None], points[None])
