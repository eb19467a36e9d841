"""The command `stats`: what a data set is like, and what that means for the detector."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.cost.budget import Budget
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.advised import affordable_sizes, expected_ms
from flaxyolo.search.space import suggest_detector
from flaxyolo.statistics.advice import (
    Advice,
    Advised,
    advise,
    candidates,
    stride_recommend,
)
from flaxyolo.statistics.columns import columns_of, percent
from flaxyolo.statistics.page import resolution_rows, shown_value, write_page
from flaxyolo.statistics.resolution import LOW, suitable_image_sizes
from flaxyolo.statistics.summary import SplitStatistics, Statistics, statistics

log = logging.getLogger("flaxyolo.stats")

IMAGE_SIZE_RANGE = (32, 8192)
PIPED = 120
"""Columns of the tables in a file or pipe."""


@dataclass(frozen=True)
class Flags:
    """Flags of `stats`."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """As for training: digits, scenes, coco:DIR, ..."""
    image_size: int | None = None
    """Input size in pixels that the advice is for; without it the advice names one."""
    batch_size: int = 16
    """Images a step, for the norm."""
    budget_ms: Annotated[float | None, tyro.conf.arg(metavar="MS")] = None
    """Largest latency of one image (p95) on this device: no larger input than that pays for."""
    json: bool = False
    """Print statistics and advice as JSON."""
    out: Path | None = None
    """Folder for a page (index.html) and its figures as PNG."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


def summary(found: Statistics) -> Table:
    """The eight statistics in a line each, for both splits."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    splits = {"train": found.train} | ({} if found.val is None else {"val": found.val})
    for name in splits:
        table.add_column(name, justify="right")
    lines = [_lines(split) for split in splits.values()]
    for row in zip(*lines, strict=True):
        table.add_row(row[0][0], *(text for _, text in row))
    return table


def resolutions_table(found: Statistics) -> Table:
    """The boxes at each input size."""
    caption = (
        "Boxes by their shorter side; detail lost inside the median box / in the worst class by "
        "scaling; cells: median along the shorter side. Each at strides 4 / 8 / 16 / 32."
    )
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", caption=caption)
    for name in (
        "px", "under 8 / 16 / 32 px", "detail lost", "cells", "collisions", "p95 side / stride",
    ):  # fmt: skip
        # The size alone is never cut: in a narrow terminal the others take two lines.
        table.add_column(name, justify="right", no_wrap=name == "px")
    for row in resolution_rows(found):
        table.add_row(*row[:6])
    return table


def advice_table(advice: Sequence[Advice]) -> Table:
    """The advice, with the number behind each line."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("advice", "value", "why", "source"):
        table.add_column(name, overflow="fold", style="dim" if name == "source" else "")
    for each in advice:
        table.add_row(each.key, shown_value(each.value), each.why, each.source)
    return table


def stride_line(found: Statistics, advice: Sequence[Advice]) -> str | None:
    """The coarsest usual stride for the median box at the advised input size; None without one."""
    advised = {each.key: each.value for each in advice}
    for resolution in found.resolutions:
        if resolution.image_size == advised.get("image_size"):
            choice = stride_recommend(float(f"{resolution.side.p50:.3g}"))
            return f"median box at {resolution.image_size} px: {choice.message}"
    return None


def _lines(split: SplitStatistics) -> list[tuple[str, str]]:
    def spread(values: object, form: str = ".0f") -> str:
        parts = [getattr(values, name, None) for name in ("p5", "p50", "p95")]
        return " / ".join("-" if part is None else format(part, form) for part in parts)

    def number(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    sizes = [split.small, split.medium, split.large]
    count, crowding = split.boxes_per_image, split.crowding
    seen = sum(each.boxes > 0 for each in split.classes)
    return [
        ("images", f"{split.images:,}"),
        ("images without boxes", f"{split.images_without_boxes:,}"),
        ("images that could not be read", f"{split.unread_images:,}"),
        ("boxes", f"{split.boxes:,}"),
        ("crowd boxes, left out", f"{split.crowd_boxes:,}"),
        ("small / medium / large", " / ".join("-" if s is None else percent(s) for s in sizes)),
        ("box side, px: p5 / p50 / p95", spread(split.box_side)),
        ("more than 4 times as long as wide", "-" if split.thin is None else percent(split.thin)),
        ("image longest side, px: p5 / p50 / p95", spread(split.longest_side)),
        ("brightness: p5 / p50 / p95", spread(split.brightness)),
        ("contrast: p5 / p50 / p95", spread(split.contrast)),
        ("blur, var(Laplacian): p5 / p50 / p95", spread(split.blur)),
        ("classes with boxes", f"{seen} of {len(split.classes)}"),
        ("imbalance ratio / Gini",
         f"{number(split.imbalance_ratio, '.1f')} / {number(split.gini)}"),
        ("IoU of overlapping pairs: mean / p95",
         f"{number(crowding.mean_iou)} / {number(crowding.p95_iou)}"),
        ("largest IoU of a box: p5 / p50 / p95", spread(crowding.largest_iou, ".2f")),
        ("boxes per image: p50 / p95 / p99 / most", "-" if count is None else
         f"{count.p50:.0f} / {count.p95:.0f} / {count.p99:.0f} / {count.max:.0f}"),
    ]  # fmt: skip


@cli.within_limits
def _run(flags: Flags) -> Advised:
    """Look at the data, and print what they are like and what follows."""
    low, high = IMAGE_SIZE_RANGE
    if flags.image_size is not None and not low <= flags.image_size <= high:
        raise InputError(f"--image-size: expected {low} to {high} pixels, got {flags.image_size}")
    if flags.batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1 image, got {flags.batch_size}")
    budget = Budget(latency_ms=flags.budget_ms)
    data = read_dataset(flags.data)
    given = [] if flags.image_size is None else [flags.image_size]
    # Where a budget decides, also those that would suit the images less.
    low = LOW if flags.budget_ms is None else 0.0
    suitable = suitable_image_sizes(columns_of(data.train), low)
    found = statistics(data, image_sizes=[*suitable, *given])
    sizes = given or [each.image_size for each in found.resolutions]
    expected = partial(expected_ms, budget.latency_stat)
    affordable = affordable_sizes(expected, suggest_detector, sizes, budget)
    advice = advise(
        found, image_sizes=given or None, batch_size=flags.batch_size, affordable=affordable
    )
    if flags.out is not None:
        log.info("figures and page: %s", write_page(found, advice, flags.out))
    if flags.json:
        parts = {
            "statistics": found.to_dict(),
            "advice": [each.to_dict() for each in advice],
            "candidates": candidates(advice),
        }
        print(json.dumps(parts, indent=1))
        return Advised(found, advice)
    console = cli.tables_console(PIPED)
    console.print(found.data, soft_wrap=True)
    console.print(summary(found))
    console.print(resolutions_table(found))
    console.print(advice_table(advice))
    if (line := stride_line(found, advice)) is not None:
        console.print(line, soft_wrap=True)
    for name, parameters in candidates(advice).items():
        text = ", ".join(f"{key} {value}" for key, value in parameters.items())
        console.print(f"{name}: {text}", soft_wrap=True)
    return Advised(found, advice)


run_stats = as_function(Flags, _run, "stats", "an Advised with `statistics` and `advice`")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.stats",
        description="Statistics of a data set, and what they mean for the detector.",
    )
    return cli.run(partial(_run, flags), output=flags.out)


if __name__ == "__main__":
    sys.exit(main())
