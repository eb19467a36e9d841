"""Parameters and GFLOPs of the networks in `configs/` beside those of the originals.

The references were measured on the originals with 80 classes: all parameters with a gradient, and
at 640 px PyTorch's own FLOP counter (`torch.utils.flop_counter`), which counts convolutions and
matrix products as we do. Ultralytics 8.4.190, YOLOX 0.3.0, MMDetection 3.3.0, PyTorch 2.13.0.
Ultralytics' fixed projection of the DFL bins, 16 parameters and 0.0010752 GFLOPs, is left out.
`folded` is the network for use: norms folded, and of two heads the one-to-one.
"""

import argparse
import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxyolo.config import read_config
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.nn.detector import fused_graph

CONFIGS = Path(__file__).parents[1] / "configs"


class Reference(NamedTuple):
    """What the original has; None where ours is trained in another form, or it has no other."""

    params: int | None
    folded: int | None
    gflops: float
    published: str = ""


REFERENCES = {
    "yolov5n": Reference(2_654_800, 2_649_184, 7.7238272),
    "yolov5s": Reference(9_153_136, 9_142_480, 23.994368),
    # Its definition by Ultralytics: the plain convolutions that our RepVGG blocks fold into.
    "yolov6n": Reference(None, 4_495_376, 12.9257472),
    "yolov8n": Reference(3_157_184, 3_151_888, 8.742912),
    "yolov8s": Reference(11_166_544, 11_156_528, 28.6015488),
    "yolov8m": Reference(25_902_624, 25_886_064, 78.9356544),
    "yolov8l": Reference(43_691_504, 43_668_272, 165.1474432),
    "yolov8x": Reference(68_229_632, 68_200_592, 257.803264),
    "yolov10n": Reference(2_775_504, 2_299_248, 6.7563648, "2.3 M, 6.7 GFLOPs in use"),
    "yolo11n": Reference(2_624_064, 2_616_232, 6.5414272),
    "yolo11s": Reference(9_458_736, 9_443_744, 21.5886848),
    "yolox-nano": Reference(912_159, None, 2.4736256, "0.91 M, 1.08 GFLOPs at 416 px"),
    "yolox-tiny": Reference(5_055_855, None, 15.1776, "5.06 M, 6.45 GFLOPs at 416 px"),
    "yolox-s": Reference(8_968_255, None, 26.6855424, "9.0 M, 26.8 GFLOPs"),
    "rtmdet-tiny": Reference(4_896_168, None, 16.07217408, "4.8 M, 8.1 GMACs"),
    "rtmdet-s": Reference(8_886_924, None, 29.52138752, "8.89 M, 14.8 GMACs"),
}


class Row(NamedTuple):
    """One network, ours and the original; differences are ours less the reference."""

    name: str
    params: int
    params_reference: int | None
    params_difference: int | None
    folded: int
    folded_reference: int | None
    folded_difference: int | None
    gflops: float
    """At 640 px."""
    gflops_reference: float
    gflops_difference: float
    published: str


def compare(name: str) -> Row:
    """The counts of one network; builds shapes only."""
    spec = read_config(CONFIGS / f"{name}.yaml").detector
    reference = REFERENCES[name]
    shapes = jax.tree.leaves(fused_graph(spec, jnp.float32)[1])
    params, folded = count_params(spec), sum(prod(shape.shape) for shape in shapes)
    gflops = count_gflops(replace(spec, image_size=640))
    return Row(
        name=name,
        params=params,
        params_reference=reference.params,
        params_difference=None if reference.params is None else params - reference.params,
        folded=folded,
        folded_reference=reference.folded,
        folded_difference=None if reference.folded is None else folded - reference.folded,
        gflops=gflops,
        gflops_reference=reference.gflops,
        gflops_difference=gflops - reference.gflops,
        published=reference.published,
    )


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | parameters | reference | difference "
        "| folded | reference | difference | GFLOPs | reference | difference | published |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = [row.params, row.params_reference, row.params_difference]
        counts += [row.folded, row.folded_reference, row.folded_difference]
        told = ["-" if count is None else f"{count:,}" for count in counts]
        gflops = [
            f"{row.gflops:.3f}",
            f"{row.gflops_reference:.3f}",
            f"{row.gflops_difference:.3f}",
        ]
        cells = [row.name, *told, *gflops, row.published]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or with --json a list of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    arguments = parser.parse_args()
    rows = [compare(name) for name in REFERENCES]
    print(json.dumps([row._asdict() for row in rows], indent=1) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
