"""The figures of the command `stats`, each drawn once for a PNG and for the page."""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxyolo.base.charts import any_script
from flaxyolo.nn.nms import IOU_THRESHOLD
from flaxyolo.statistics.columns import Histogram, percent
from flaxyolo.statistics.summary import SplitStatistics, Statistics

INCHES = (4.6, 2.7)
DPI = 150
SHOWN_CLASSES = 15
SHOWN_SIZES = 8

INK, MUTED, GRID, PAPER = "#101112", "#606162", "#d8d9da", "#fefdfc"
"""Become the page's own colours, so that a figure suits a light and a dark page."""
TOKENS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}
TRAIN, VAL = "#4a7fd1", "#e08a3c"
SIZE_COLOURS = ("#d1605e", "#e0b04a", "#5aa469")
LEVEL_COLOURS = ("#d1605e", "#e0904a", "#d9c04f", "#5aa469", "#4a7fd1")
LEVEL_NAMES = {"none": "too small", "P2": "P2", "P3": "P3", "P4": "P4", "P5": "P5"}


def draw(name: str, statistics: Statistics, image_size: int | None) -> Figure:
    """One of FIGURES."""
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained", facecolor=PAPER)
    FIGURES[name](figure, statistics, image_size)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    _save(figure, buffer, format="png")
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """A figure to stand in a page, in the page's font and colours."""
    buffer = io.StringIO()
    # Text stays text; ids come from the name, so that figures of one page do not share them.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        _save(figure, buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*?sans-serif", "system-ui, sans-serif", text)
    for colour, token in TOKENS.items():
        text = text.replace(colour, token)
    return text


def _save(figure: Figure, target: Any, **settings: Any) -> None:
    with any_script():
        figure.savefig(target, **settings)


def _draw_area(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "box area, share of the image", "boxes")
    _shares(axes, statistics, "relative_area", log=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _draw_sizes(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "boxes", "", grid="x")
    splits = {name: split for name, split in _splits(statistics).items() if split.boxes}
    left = np.zeros(len(splits))
    for size, colour in zip(("small", "medium", "large"), SIZE_COLOURS, strict=True):
        parts = np.array([getattr(split, size) for split in splits.values()])
        axes.barh(list(splits), parts, left=left, color=colour, label=size, height=0.5)
        for row, part in enumerate(parts):
            if part > 0.06:
                at = left[row] + part / 2
                axes.text(at, row, percent(part), ha="center", va="center", color="#101010")
        left += parts
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    _legend(axes, columns=3)


def _draw_ratio(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "width : height of boxes", "boxes")
    _shares(axes, statistics, "aspect_ratio", log=True)
    low, high = axes.get_xlim()
    axes.set_xticks([2.0**power for power in range(-4, 5) if low <= 2.0**power <= high])
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:.0f}:1" if value >= 1 else f"1:{1 / value:.0f}"
    )
    axes.minorticks_off()


def _draw_image_sizes(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "training images", "", grid="x")
    sizes = statistics.train.image_sizes[:SHOWN_SIZES]
    names = [f"{size.width} x {size.height}" for size in sizes]
    axes.barh(names, [size.images for size in sizes], color=TRAIN, height=0.6)
    axes.set_ylim(max(len(sizes), 3) - 0.5, -0.5)


def _draw_light(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    for place, (key, what) in enumerate(
        (("brightness", "mean grey level"), ("contrast", "its standard deviation")), start=1
    ):
        axes = _axes(figure, what, "images" if place == 1 else "", place=(1, 2, place))
        _shares(axes, statistics, f"{key}_histogram", legend=place == 2)


def _draw_blur(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "variance of the Laplacian", "images")
    _shares(axes, statistics, "blur_histogram", log=True)


def _draw_classes(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "training boxes (bar) and images that show the class (dot)", "", grid="x")
    order = sorted(statistics.train.classes, key=lambda each: (-each.boxes, each.name))
    shown = order[:SHOWN_CLASSES]
    if len(order) > len(shown):
        shown = order[: SHOWN_CLASSES // 2] + order[-(SHOWN_CLASSES // 2) :]
    rows = np.arange(len(shown))
    axes.barh(rows, [each.boxes for each in shown], color=TRAIN, height=0.6)
    axes.plot([each.images for each in shown], rows, "o", color=INK, markersize=4)
    axes.set_yticks(rows, [f"{each.name[:18]}" for each in shown], fontsize=7.5, parse_math=False)
    axes.set_ylim(max(len(shown), 3) - 0.5, -0.5)
    axes.set_xlim(left=0)


def _draw_crowding(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "largest IoU of a box with one of its class in the image", "boxes")
    for name, split in _splits(statistics).items():
        _stairs(axes, split.crowding.histogram, name)
    axes.axvline(IOU_THRESHOLD, color=INK, linestyle="--", linewidth=1)
    axes.text(IOU_THRESHOLD + 0.01, 0.95, "NMS", transform=axes.get_xaxis_transform(),
              va="top", color=INK)  # fmt: skip
    axes.set_yscale("symlog", linthresh=0.001)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.001, 0.01, 0.1, 1], ["0", "0.1 %", "1 %", "10 %", "100 %"])
    _legend(axes)


def _draw_counts(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "boxes of an image", "images")
    splits = _splits(statistics)
    pairs = itertools.pairwise(statistics.train.boxes_per_image_histogram.edges)
    used = [max(np.flatnonzero(each.boxes_per_image_histogram.counts), default=0)
            for each in splits.values()]  # fmt: skip
    last = max(used) + 1
    for number, (name, split) in enumerate(splits.items()):
        counts = np.array(split.boxes_per_image_histogram.counts, float)
        at = np.arange(last) + (number - (len(splits) - 1) / 2) * 0.4
        parts = counts[:last] / max(counts.sum(), 1)
        axes.bar(at, parts, width=0.4, color=(TRAIN, VAL)[number], label=name)
    names = [
        f"{low:.0f}" if high - low == 1 else f"{low:.0f}-{high - 1:.0f}" for low, high in pairs
    ]
    axes.set_xticks(range(last), names[:last], fontsize=7.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    _legend(axes)


def _draw_levels(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "input size, px", "boxes")
    sizes = [each.image_size for each in statistics.resolutions]
    bottom = np.zeros(len(sizes))
    for (key, name), colour in zip(LEVEL_NAMES.items(), LEVEL_COLOURS, strict=True):
        parts = np.array([each.level_shares()[key] for each in statistics.resolutions])
        axes.bar(range(len(sizes)), parts, bottom=bottom, color=colour, label=name, width=0.75)
        bottom += parts
    _mark_size(axes, sizes, image_size)
    _legend(axes, columns=5)


def _draw_under(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "input size, px", "boxes")
    sizes = [each.image_size for each in statistics.resolutions]
    for pixels, colour in zip((32, 16, 8), reversed(SIZE_COLOURS), strict=True):
        parts = [getattr(each, f"under_{pixels}") for each in statistics.resolutions]
        axes.plot(parts, "o-", color=colour, label=f"under {pixels} px", markersize=4)
    _mark_size(axes, sizes, image_size)
    _legend(axes, columns=3)


def _draw_collisions(figure: Figure, statistics: Statistics, image_size: int | None) -> None:
    axes = _axes(figure, "input size, px", "boxes")
    sizes = [each.image_size for each in statistics.resolutions]
    for stride, colour in zip((4, 8, 16, 32), LEVEL_COLOURS[1:], strict=True):
        parts = [each.at_stride(stride).collisions for each in statistics.resolutions]
        axes.plot(parts, "o-", color=colour, label=f"stride {stride}", markersize=4)
    _mark_size(axes, sizes, image_size)
    _legend(axes, columns=4)


def _axes(
    figure: Figure, xlabel: str, ylabel: str, *, grid: Any = "y", place: Sequence[int] = (1, 1, 1)
) -> Axes:
    axes = figure.add_subplot(*place)
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8.5, which="both")
    axes.set_xlabel(xlabel, color=MUTED, fontsize=9)
    axes.set_ylabel(ylabel, color=MUTED, fontsize=9)
    axes.grid(axis=grid, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _legend(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, frameon=False, fontsize=8,
                labelcolor=INK, borderpad=0, columnspacing=1.2)  # fmt: skip


def _splits(statistics: Statistics) -> dict[str, SplitStatistics]:
    found = {"train": statistics.train}
    return found if statistics.val is None else found | {"val": statistics.val}


def _shares(
    axes: Axes, statistics: Statistics, key: str, *, log: bool = False, legend: bool = True
) -> None:
    """A histogram of training (filled) and validation (line), as shares, over the bins in use."""
    if log:
        axes.set_xscale("log")
    used = []
    for name, split in _splits(statistics).items():
        values = getattr(split, key)
        _stairs(axes, values, name)
        used += list(np.flatnonzero(values.counts))
    if used:
        edges = getattr(statistics.train, key).edges
        # At least eleven bins, so that a single one does not fill the figure.
        spare = max(1, (11 - (max(used) - min(used))) // 2)
        low, high = max(min(used) - spare, 0), min(max(used) + 1 + spare, len(edges) - 1)
        axes.set_xlim(edges[low], edges[high])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    if legend:
        _legend(axes)


def _stairs(axes: Axes, values: Histogram, name: str) -> None:
    parts = np.array(values.counts) / max(sum(values.counts), 1)
    if name == "train":
        axes.stairs(parts, values.edges, fill=True, color=TRAIN, label=name)
    else:
        axes.stairs(parts, values.edges, color=VAL, label=name, linewidth=1.6)


def _mark_size(axes: Axes, sizes: Sequence[int], image_size: int | None) -> None:
    """Name the sizes, the advised one in bold."""
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    for label, size in zip(axes.get_xticklabels(), sizes, strict=True):
        if size == image_size:
            label.set(fontweight="bold", color=INK)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


FIGURES: dict[str, Callable[[Figure, Statistics, int | None], None]] = {
    "levels": _draw_levels,
    "under": _draw_under,
    "collisions": _draw_collisions,
    "object_sizes": _draw_sizes,
    "box_area": _draw_area,
    "aspect_ratio": _draw_ratio,
    "boxes_per_image": _draw_counts,
    "crowding": _draw_crowding,
    "classes": _draw_classes,
    "image_sizes": _draw_image_sizes,
    "brightness_contrast": _draw_light,
    "blur": _draw_blur,
}
"""By name, in the order of the page; the last argument is the advised input size, if any."""
