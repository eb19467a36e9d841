"""Pictures of how good a detector is: precision and recall, confusion, and what it finds."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flaxyolo.base.charts import DPI, draw_detections, save_figure
from flaxyolo.base.detections import Detections
from flaxyolo.data.images import decode
from flaxyolo.data.sources import Dataset, Example
from flaxyolo.scoring.confusion import BACKGROUND, Confusion
from flaxyolo.scoring.thresholds import Curve, Thresholds, point

DRAWN_IMAGES = 12
"""Validation images in a sheet."""
DRAWN_SCORE = 0.25
"""Least score of a box that is drawn."""
DRAWN_CLASSES = 10
"""Classes with a curve of their own: those of most objects."""
NUMBERED_CLASSES = 20
"""Classes up to which the cells of a confusion matrix hold their count."""
NAMED_CLASSES = 50
"""Classes up to which its rows and columns are named."""
LONGEST_NAME = 18


def sample(count: int) -> np.ndarray:
    """Places of the images that are drawn of `count`, from first to last."""
    return np.unique(np.linspace(0, count - 1, min(DRAWN_IMAGES, count)).round().astype(int))


def draw_sample(
    found: Detections, examples: list[Example], dataset: Dataset, path: Path, title: str
) -> None:
    """Draw what was found in the examples, whose detections these are, with the truth."""
    found = found.part(found.scores >= DRAWN_SCORE)
    by_image = [found.part(found.image == place) for place in range(len(examples))]
    images = [decode(example.image, oriented=example.oriented) for example in examples]
    draw_detections(images, by_image, examples, dataset.class_names, path, title=title)


def draw_precision_recall(found: Thresholds, path: Path, title: str = "") -> None:
    """Precision against recall: all classes together, and each where there are few."""
    figure = Figure(figsize=(7.5, 4.8), dpi=DPI, layout="constrained")
    axes: Any = figure.subplots()
    most = sorted(found.classes, key=lambda one: -one.objects)[:DRAWN_CLASSES]
    for one in most if len(found.classes) > 1 else []:
        if one.objects:
            _draw_curve(axes, one, f"{_short(one.name)} ({one.objects})", linewidth=1.1)
    _draw_curve(axes, found.overall, f"all ({found.overall.objects})", color="black", linewidth=2.2)
    if found.best is not None:
        reached = point(found.overall, found.best)
        label = f"best F1 {reached.f1:.2f}, from a score of {found.best:.3g} on"
        axes.plot([reached.recall], [reached.precision], "o", color="black", label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall, IoU at least 0.5", ylabel="precision")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_curve(axes: Any, one: Curve, label: str, **style: Any) -> None:
    recall = np.concatenate([[0.0], one.recall])
    precision = np.concatenate([one.precision[:1], one.precision])
    if not len(one.scores):
        # The label alone: nothing was found.
        recall, precision = [], []
    axes.plot(recall, precision, label=label, **style)


def draw_confusion(confusion: Confusion, path: Path, title: str = "") -> None:
    """The matrix, each row in shares of its objects; counts where there are few classes."""
    counts = confusion.matrix
    names = [_short(name) for name in (*confusion.class_names, BACKGROUND)]
    side = min(max(3.2 + 0.32 * len(names), 4.2), 14)
    figure = Figure(figsize=(side + 1, side), dpi=DPI, layout="constrained")
    axes: Any = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="share of the row", shrink=0.8)
    if len(names) - 1 <= NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(count) if count else ""
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    ticks = range(len(names)) if len(names) - 1 <= NAMED_CLASSES else []
    axes.set_xticks(ticks, [names[place] for place in ticks], rotation=90, fontsize=8)
    axes.set_yticks(ticks, [names[place] for place in ticks], fontsize=8)
    axes.set_xlabel(f"found, score at least {confusion.min_score:g}")
    axes.set_ylabel(f"object, IoU at least {confusion.min_iou:g}")
    axes.set_title(title, fontsize=11)
    save_figure(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
