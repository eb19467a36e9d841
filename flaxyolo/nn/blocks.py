"""Stage bodies, all with one contract.

`Block(in_width, width, depth, *, conv, rng)` maps `b h w in_width` to `b h w width`. `conv` makes
the network's layers with norm, activation and dtype already chosen, so no block asks which; layer
`i` of a block is made with `conv.at(i)`, which knows its drop path.
Downsampling belongs to the stage. A variant is a `partial` in `BLOCKS`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.bottlenecks import (
    Bottleneck,
    CompactInverted,
    ConvNeXt,
    DepthwisePointwise,
    InvertedResidual,
    Narrowing,
    Plain,
    dense,
    separable,
)
from flaxyolo.nn.csp import C3, C2f
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.rep import RepConv


class Repeat(nnx.Module):
    """`depth` layers of one kind; the first changes the width."""

    def __init__(
        self,
        layer: Callable[..., nnx.Module],
        in_width: int,
        width: int,
        depth: int,
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        widths = [in_width] + [width] * (depth - 1)
        self.layers = nnx.List(
            [layer(w, width, conv=conv.at(i), rng=rng) for i, w in enumerate(widths)]
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        for layer in self.layers:
            x = layer(x)
        return x


# The layers inside the CSP blocks.
YOLOX = partial(Bottleneck, kernels=(1, 3))
YOLOX_SEPARABLE = partial(YOLOX, forms=(dense, separable))
CSPNEXT = partial(Bottleneck, kernels=(3, 5), forms=(dense, separable))
C3K = partial(C3, depth=2, layer=Bottleneck)

BLOCKS: dict[str, Callable[..., nnx.Module]] = {
    "plain": partial(Repeat, Plain),
    "residual": partial(Repeat, Bottleneck),
    "bottleneck": partial(Repeat, Narrowing),
    "grouped": partial(Repeat, partial(Narrowing, share=0.5, grouped=True)),
    # Dilations 1 and 2 in turn leave no cell of the field unseen (arXiv 1702.08502).
    "dilated": partial(Repeat, partial(Bottleneck, forms=(dense, partial(dense, dilation=2)))),
    "repvgg": partial(Repeat, partial(RepConv, identity=True)),
    "depthwise": partial(Repeat, DepthwisePointwise),
    "depthwise_k5": partial(Repeat, partial(DepthwisePointwise, kernel=5)),
    "mbconv": partial(Repeat, InvertedResidual),
    "mbconv_k5": partial(Repeat, partial(InvertedResidual, kernel=5)),
    "convnext": partial(Repeat, ConvNeXt),
    # YOLOv5, YOLOX.
    "c3": partial(C3, layer=YOLOX),
    "c3_plain": partial(C3, layer=partial(YOLOX, shortcut=False)),
    "c3_separable": partial(C3, layer=YOLOX_SEPARABLE),
    "c3_separable_plain": partial(C3, layer=partial(YOLOX_SEPARABLE, shortcut=False)),
    # RTMDet (arXiv 2212.07784): backbone, neck, the backbone's last stage.
    "cspnext": partial(C3, layer=CSPNEXT, gated=True),
    "cspnext_plain": partial(C3, layer=partial(CSPNEXT, shortcut=False)),
    "cspnext_last": partial(C3, layer=partial(CSPNEXT, shortcut=False), gated=True),
    # YOLOv8.
    "c2f": C2f,
    "c2f_plain": partial(C2f, layer=partial(Bottleneck, shortcut=False)),
    "c2f_rep": partial(C2f, layer=partial(Bottleneck, forms=(RepConv, RepConv))),
    # YOLOv7 (arXiv 2207.02696, figure 2): `depth` stacks of two convolutions at a quarter of the
    # width. Its two 1x1 convolutions of the input are one here, which is the same.
    "elan": partial(C2f, layer=partial(Bottleneck, shortcut=False), share=0.25),
    # YOLO11.
    "c3k2": partial(C2f, layer=partial(Bottleneck, expansion=0.5)),
    "c3k2_slim": partial(C2f, layer=partial(Bottleneck, expansion=0.5), share=0.25),
    "c3k2_c3k": partial(C2f, layer=C3K),
    # YOLOv10.
    "c2f_cib": partial(C2f, layer=CompactInverted),
    "c2f_cib_lk": partial(C2f, layer=partial(CompactInverted, large=True)),
}
