"""Every plot that a command writes, as PNG files."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text

from flaxyolo.base.detections import Detections
from flaxyolo.base.drawing import class_colour
from flaxyolo.base.files import replacing

PANEL_INCHES = 3.4
DPI = 110
NAMED_BOXES = 12
"""Boxes of one image up to which each has its class written on it."""
LEGEND_CLASSES = 23


@runtime_checkable
class Labelled(Protocol):
    """Boxes (n, 4) xyxy in pixels of their image and labels (n,): an Example is one."""

    @property
    def boxes(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...


def draw_detections(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    found: Sequence[Detections],
    truth: Sequence[Labelled],
    class_names: Sequence[str],
    path: Path,
    *,
    columns: int = 4,
    title: str = "",
) -> None:
    """A grid of images with what was found in each (solid) and what is there (dashed)."""
    if not images:
        raise ValueError("expected at least one image to draw")
    figure, grid = panels(len(images), columns, PANEL_INCHES, head=0.38, foot=0.32)
    height = figure.get_figheight()
    for axes, image, detections, objects in zip(grid, images, found, truth, strict=False):
        _draw_image(axes, image, detections, objects, class_names)
    figure.suptitle(title or "Detections on validation images", fontsize=11, y=1 - 0.12 / height)
    figure.legend(
        handles=[
            Line2D([], [], color="0.25", linewidth=2, label="found: class and score"),
            Line2D([], [], color="0.25", linewidth=1, linestyle="--", label="ground truth"),
        ],
        loc="lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    save_figure(figure, path)


def draw_examples(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    truth: Sequence[Labelled],
    captions: Sequence[str],
    class_names: Sequence[str],
    path: Path,
    *,
    columns: int = 4,
    title: str = "",
) -> None:
    """A grid of images with their annotated boxes in the colours of the classes."""
    if not images:
        raise ValueError("expected at least one image to draw")
    columns = min(columns, len(images))
    labels, counts = np.unique(np.concatenate([one.labels for one in truth]), return_counts=True)
    ranked = labels[np.argsort(-counts, kind="stable")].tolist()
    shown = sorted(ranked[:LEGEND_CLASSES])
    lines = -(-(len(shown) + 1) // (2 * columns))
    # As high as most of the images are: no white bands between wide ones.
    shape = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    panel = PANEL_INCHES * min(max(shape, 0.5), 1.5)
    foot = 0.15 + 0.22 * lines
    figure, grid = panels(len(images), columns, panel, head=0.45, foot=foot, caption=0.25)
    height = figure.get_figheight()
    for axes, image, objects, caption in zip(grid, images, truth, captions, strict=False):
        axes.imshow(image, interpolation="nearest" if max(image.shape) < 300 else "antialiased")
        axes.set_title(caption, fontsize=8, pad=3)
        _draw_objects(axes, image, objects, class_names)
    figure.suptitle(title, fontsize=11, y=1 - 0.1 / height, verticalalignment="top")
    colours: list[Any] = [class_colour(label, len(class_names)) for label in shown]
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=class_names[label])
        for label, colour in zip(shown, colours, strict=True)
    ]
    if len(ranked) > len(shown):
        handles.append(Line2D([], [], linestyle="", label=f"and {len(ranked) - len(shown)} more"))
    if handles:
        figure.legend(
            handles=handles, loc="lower center", ncols=2 * columns, frameon=False, fontsize=8
        )
    save_figure(figure, path)


def panels(
    count: int, columns: int, panel: float, *, head: float, foot: float, caption: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure of panels without axes, in rows of at most `columns`.

    Sizes are heights in inches, of a panel, the margins and the caption above each panel: a title
    and a legend need the same room for any number of rows.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    height = rows * (panel + caption) + head + foot
    figure = Figure(figsize=(PANEL_INCHES * columns, height), dpi=DPI)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=foot / height, top=1 - (head + caption) / height,
        wspace=0.03, hspace=caption / panel or 0.03,
    )  # fmt: skip
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    return figure, grid


def _draw_image(
    axes: Axes, image: np.ndarray, found: Detections, truth: Labelled, class_names: Sequence[str]
) -> None:
    # Every panel has the same size, so small images are enlarged; nearest keeps their pixels.
    axes.imshow(image, interpolation="nearest" if max(image.shape) < 300 else "antialiased")
    outlined = [Stroke(linewidth=2.2, foreground="black", alpha=0.6), Normal()]
    for box in truth.boxes:
        rectangle = outline(box, edgecolor="white", linewidth=1.0, linestyle=(0, (4, 3)))
        rectangle.set_path_effects(outlined)
        axes.add_patch(rectangle)
    # Best last, so that it lies on top.
    for index in np.argsort(found.scores, kind="stable"):
        box, label = found.boxes[index], int(found.labels[index])
        colour = class_colour(label, len(class_names))
        axes.add_patch(outline(box, edgecolor=colour, linewidth=1.8))
        bright = sum(share * part for share, part in zip((0.3, 0.59, 0.11), colour, strict=False))
        at_edge = box[0] > 0.85 * image.shape[1]
        text = axes.text(
            float(np.clip(box[2 if at_edge else 0], 0, image.shape[1])),
            float(np.clip(box[1], 0, image.shape[0])),
            f"{class_names[label]} {found.scores[index]:.2f}",
            fontsize=6.5,
            color="black" if bright > 0.5 else "white",
            horizontalalignment="right" if at_edge else "left",
            verticalalignment="bottom" if box[1] > 0.06 * image.shape[0] else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
        text.set_clip_on(True)


def _draw_objects(
    axes: Axes, image: np.ndarray, objects: Labelled, class_names: Sequence[str]
) -> None:
    """Boxes in the colour of their class, with its name where there are few; crowds are dashed."""
    crowd = getattr(objects, "crowd", np.zeros(len(objects.labels), bool))
    few = len(objects.labels) <= NAMED_BOXES and len(class_names) > 1
    outlined = [Stroke(linewidth=2.6, foreground="black", alpha=0.5), Normal()]
    # Small boxes last: they lie on top of those that hold them.
    areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1)
    for index in np.argsort(-areas, kind="stable"):
        box, label = objects.boxes[index], int(objects.labels[index])
        colour = class_colour(label, len(class_names))
        dashes: Any = (0, (3, 2)) if crowd[index] else "-"
        rectangle = outline(box, edgecolor=colour, linewidth=1.4, linestyle=dashes)
        rectangle.set_path_effects(outlined)
        axes.add_patch(rectangle)
        if not few:
            continue
        bright = sum(share * part for share, part in zip((0.3, 0.59, 0.11), colour, strict=False))
        at_edge = box[0] > 0.85 * image.shape[1]
        text = axes.text(
            float(box[2 if at_edge else 0]),
            float(box[1]),
            class_names[label],
            fontsize=6.5,
            color="black" if bright > 0.5 else "white",
            horizontalalignment="right" if at_edge else "left",
            verticalalignment="bottom" if box[1] > 0.06 * image.shape[0] else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
        text.set_clip_on(True)


def outline(
    box: np.ndarray, *, edgecolor: Any, linewidth: float, linestyle: Any = "-"
) -> Rectangle:
    """The four sides of an xyxy box."""
    left, top, right, bottom = map(float, box)
    return Rectangle(
        (left, top),
        right - left,
        bottom - top,
        fill=False,
        edgecolor=edgecolor,
        linewidth=linewidth,
        linestyle=linestyle,
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG that is never seen half-written; every text stands as it is written."""
    for text in figure.findobj(Text):
        # A class may be called "$5" or "\\frac": that is no formula.
        text.set_parse_math(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, any_script():
        FigureCanvasAgg(figure).print_png(str(partial))


@contextmanager
def any_script() -> Iterator[None]:
    """Without a warning for each letter that the font lacks; a box stands for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
