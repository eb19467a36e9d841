"""Pictures of the worst errors of each kind."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from flaxyolo.base.charts import PANEL_INCHES, outline, panels, save_figure
from flaxyolo.base.detections import xywh_to_xyxy
from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode, name_of
from flaxyolo.data.sources import Example
from flaxyolo.scoring.error_kinds import BACKGROUND, DUPLICATE, KINDS, MISSED, Errors
from flaxyolo.scoring.matches import Case

logger = logging.getLogger(__name__)

COLUMNS = 4
SURROUNDINGS = 3.0
"""Side of the part of the image that is shown, over the longest side of the boxes."""
LEAST_SIDE = 64
"""Pixels shown at least."""
LONGEST_NAME = 18
FOUND, THERE = "#ff7f0e", "white"


def draw_errors(
    case: Case,
    errors: Errors,
    most: int,
    folder: Path,
    examples: Sequence[Example],
    *,
    truth_name: str = "ground truth",
) -> list[Path]:
    """One sheet `<kind>.png` of the worst errors of each kind that occurs; returns the paths.

    The examples hold the pixels; `truth_name` says in an error where the boxes come from.
    """
    by_id = {example.image_id: example for example in examples}
    paths = []
    for kind, name in enumerate(KINDS):
        worst = worst_errors(case, errors, kind, most)
        if not worst.size:
            continue
        figure, grid = panels(len(worst), COLUMNS, PANEL_INCHES, head=0.3, foot=0.34, caption=0.38)
        for axes, index in zip(grid, worst.tolist(), strict=False):
            number = case.truth.image_ids[place_of(case, errors, index)]
            if number not in by_id:
                raise InputError(
                    f"{truth_name}: expected its images in the data set, which has no image "
                    f"{number!r}; give the --data and the --split that the file is about"
                )
            example = by_id[number]
            image = decode(example.image, oriented=example.oriented)
            _draw(axes, image, case, errors, index)
            text = f"{title_of(example)}\n{describe(case, errors, index)}"
            axes.set_title(text, fontsize=7.5, pad=3)
        total = int((errors.kind == kind).sum())
        order = "largest" if kind == MISSED else "best-scored"
        # On a narrow sheet the title has to fit above one or two panels.
        title = f"{name}: {len(worst)} {order} of {total}"
        height = figure.get_figheight()
        figure.suptitle(title, fontsize=11, y=1 - 0.1 / height, verticalalignment="top")
        found = Line2D([], [], color=FOUND, linewidth=2, label="found")
        there = Line2D([], [], color="0.25", linewidth=1.5, linestyle="--", label="object")
        handles = {MISSED: [there], BACKGROUND: [found]}.get(kind, [found, there])
        figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=9)
        paths.append(folder / f"{name}.png")
        save_figure(figure, paths[-1])
        logger.info("wrote %s", paths[-1])
    if not paths:
        logger.info("there is no error to draw")
    return paths


def worst_errors(case: Case, errors: Errors, kind: int, most: int) -> Int[np.ndarray, " k"]:
    """The best-scored wrong detections of a kind, or the largest objects that were missed."""
    mine = np.flatnonzero(errors.kind == kind)
    if kind == MISSED:
        weight = case.truth.xywh[errors.truth[mine], 2:].prod(1)
    else:
        weight = case.found.scores[errors.found[mine]]
    return mine[np.argsort(-weight, kind="stable")[:most]]


def place_of(case: Case, errors: Errors, index: int) -> int:
    """Place of an error's image in `GroundTruth.image_ids`."""
    found = errors.found[index]
    return int(case.found.image[found] if found >= 0 else case.truth.image[errors.truth[index]])


def describe(case: Case, errors: Errors, index: int) -> str:
    """An error in words."""
    kind, found, truth = (int(column[index]) for column in errors[:3])
    if kind == MISSED:
        width, height = case.truth.xywh[truth, 2:]
        return f"{_name(case, case.truth.labels[truth])}, {width:.0f} x {height:.0f} px: not found"
    said = f"found {_name(case, case.found.labels[found])} (score {case.found.scores[found]:.2f})"
    iou = f"IoU {errors.iou[index]:.2f}"
    if kind == BACKGROUND:
        return f"{said}: nothing there, {iou}"
    if kind == DUPLICATE:
        return f"{said} once more, {iou}"
    return f"{said}: is {_name(case, case.truth.labels[truth])}, {iou}"


def title_of(example: Example) -> str:
    """The name of an image's file, or its id where it has none."""
    if isinstance(example.image, np.ndarray):
        return f"image {example.image_id}"
    return Path(name_of(example.image)).name


def _name(case: Case, label: int | np.integer) -> str:
    name = case.truth.class_names[int(label)]
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _draw(axes: Axes, image: np.ndarray, case: Case, errors: Errors, index: int) -> None:
    """The part of the image around the boxes, enlarged, with the boxes."""
    found, truth = int(errors.found[index]), int(errors.truth[index])
    boxes: list[Any] = []
    if truth >= 0:
        dashes = {"edgecolor": THERE, "linewidth": 1.6, "linestyle": (0, (4, 3))}
        boxes.append((xywh_to_xyxy(case.truth.xywh[truth]), dashes))
    if found >= 0:
        solid = {"edgecolor": FOUND, "linewidth": 2.0}
        # Below the dashes, which stay visible where the two coincide.
        boxes.insert(0, (xywh_to_xyxy(case.found.xywh[found]), solid))
    left, top, right, bottom = view(np.array([box for box, _ in boxes]), *image.shape[:2])
    part = image[top:bottom, left:right]
    smooth = "nearest" if max(part.shape) < 300 else "antialiased"
    axes.imshow(part, interpolation=smooth, extent=(left, right, bottom, top))
    for box, style in boxes:
        rectangle = outline(box, **style)
        width = style["linewidth"] + 1.4
        rectangle.set_path_effects([Stroke(linewidth=width, foreground="black"), Normal()])
        axes.add_patch(rectangle)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def view(boxes: Float[np.ndarray, "n 4"], height: int, width: int) -> tuple[int, int, int, int]:
    """A square around the boxes, as far as it lies in the image: left, top, right, bottom."""
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = max(SURROUNDINGS * float((high - low).max()), LEAST_SIDE)
    edges = []
    for centre, length in zip((low + high) / 2, (width, height), strict=True):
        start = min(max(centre - side / 2, 0), max(length - side, 0))
        first = int(min(start, length - 1))
        edges.append((first, max(first + 1, int(np.ceil(min(start + side, length))))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
