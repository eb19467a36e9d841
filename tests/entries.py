"""Small networks with every entry of every table of the space."""

from functools import lru_cache

import jax
import numpy as np

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.context import CONTEXTS
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.nn.downsample import DOWNSAMPLES
from flaxyolo.nn.head import DECODERS
from flaxyolo.nn.layers import ACTIVATIONS
from flaxyolo.nn.neck import NECKS, UPSAMPLES
from flaxyolo.nn.norm import NORMS
from flaxyolo.nn.stem import STEMS
from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec


def small(width=16, *, widths=None, depth=1, block="residual", attention="none", **changes):
    """Three stages at 64 px and two levels; `stage` and `backbone`, `neck`, `head` are dicts."""
    widths = widths or (width, width, 2 * width)
    stem = changes.get("backbone", {}).get("stem", "conv3")
    stages = [
        StageSpec(
            block,
            wide,
            depth,
            attention if number == 2 else "none",
            1 if number == 0 and stem == "patchify" else 2,
            changes.get("downsample", "conv"),
        )
        for number, wide in enumerate(widths)
    ]
    head = {"depth": 1, "reg_max": 4, "box_width": width, "class_width": width}
    return DetectorSpec(
        BackboneSpec(width, tuple(stages), **changes.get("backbone", {})),
        NeckSpec(**({"kind": "fpn", "levels": (3, 4), "block": "plain"} | changes.get("neck", {}))),
        HeadSpec(**(head | changes.get("head", {}))),
        num_classes=3,
        image_size=64,
        **changes.get("network", {}),
    )


@lru_cache(maxsize=4)
def trained(spec, seed=1):
    """Weights as training might have left them: no scale is 1, no statistic the first."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        array = np.asarray(leaf)
        noise = {
            "scale": array * rng.uniform(0.6, 1.4, array.shape),
            "bias": array + rng.normal(0, 0.2, array.shape),
            "mean": rng.normal(0, 0.1, array.shape),
            "var": rng.uniform(0.05, 0.3, array.shape),
        }
        return noise.get(path[-1].key, array).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, initial_weights(spec, seed))


def lively(spec, seed=1):
    """A detector with scores all over 0..1, as `trained` leaves weights otherwise."""

    def raised(path, leaf):
        keys = [str(getattr(part, "key", part)) for part in path]
        if "cls" not in keys or keys[-2:] != ["predict", "bias"]:
            return leaf
        return leaf + np.random.default_rng(seed).normal(4, 1, leaf.shape).astype(np.float32)

    weights = trained(spec, seed)
    params = jax.tree_util.tree_map_with_path(raised, weights.params)
    names = tuple(f"class {index}" for index in range(spec.num_classes))
    return TrainedDetector(spec, weights._replace(params=params), names)


ENTRIES = {
    **{f"block {name}": {"block": name} for name in BLOCKS},
    **{f"stem {name}": {"backbone": {"stem": name}} for name in STEMS},
    **{f"downsample {name}": {"downsample": name} for name in DOWNSAMPLES},
    **{f"context {name}": {"backbone": {"context": name}} for name in CONTEXTS},
    "context before": {"backbone": {"context": "sppf", "context_place": "before"}},
    **{f"attention {name}": {"attention": name} for name in ATTENTIONS},
    **{f"norm {name}": {"network": {"norm": name}} for name in NORMS},
    **{
        f"activation {name}": {"network": {"activation": name}, "block": "c2f"}
        for name in ACTIVATIONS
        if name != "none"
    },
    **{
        f"neck {kind} {way}": {"neck": {"kind": kind, "upsample": way, "block": "c2f_plain"}}
        for kind in NECKS
        if kind != "bifpn"
        for way in UPSAMPLES
    },
    "neck reduce": {"neck": {"kind": "pan", "reduce": True}},
    "neck out": {"neck": {"kind": "pan", "out_width": 16}},
    **{
        f"head {box}": {"head": {"box": box, "reg_max": 4 if box == "dfl" else None}}
        for box in DECODERS
    },
    "head separable": {"head": {"box_conv": "separable", "class_conv": "separable"}},
    "head stem": {"head": {"stem_width": 16}},
    "head shared": {"head": {"stem_width": 16, "shared": True}},
    "head attention": {"head": {"attention": "se"}},
    "head objectness": {"head": {"objectness": True}},
    "head one-to-one": {"head": {"one_to_one": True}},
}
"""Networks of 16 channels with every entry of every table."""
