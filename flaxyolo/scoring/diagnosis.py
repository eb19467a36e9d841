"""Where a detector goes wrong: kinds of errors, confused classes and calibration of scores."""

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.calibration import Calibration, calibrate
from flaxyolo.scoring.confusion import BACKGROUND, MIN_SCORE, Confusion, confusion_matrix
from flaxyolo.scoring.error_kinds import SIZES, ErrorKinds, Errors, Kind, find_errors, score_errors
from flaxyolo.scoring.matches import MIN_IOU, Case, case_of, match
from flaxyolo.scoring.truth import GroundTruth

MATRIX_CLASSES = 20
"""Classes up to which the whole confusion matrix is printed."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What there is to say about the errors, and the single errors."""

    case: Case
    single: Errors
    errors: ErrorKinds
    confusion: Confusion
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """Plain dict with `errors`, `confusion` and `calibration`, ready for JSON."""
        return {
            "errors": self.errors.to_dict(),
            "confusion": self.confusion.to_dict(),
            "calibration": self.calibration.to_dict(),
        }

    def told(self, map_50: float | None) -> list[str | Table]:
        """Lines and tables for a person; `map_50` is COCO's."""
        return [
            "error kinds (TIDE)",
            error_table(self.errors),
            note(self.errors, map_50),
            "",
            confusion_title(self.confusion),
            confusion_table(self.confusion),
            self.calibration.line(),
        ]


def diagnose(
    truth: GroundTruth,
    detections: Detections,
    *,
    confusion_iou: float = MIN_IOU,
    confusion_score: float = MIN_SCORE,
) -> Diagnosis:
    """Judge detections, with limits of the confusion matrix."""
    case = case_of(truth, detections)
    matches = match(case)
    single = find_errors(case, matches)
    return Diagnosis(
        case=case,
        single=single,
        errors=score_errors(case, matches, single),
        confusion=confusion_matrix(case, min_iou=confusion_iou, min_score=confusion_score),
        calibration=calibrate(case, matches),
    )


def error_table(errors: ErrorKinds) -> Table:
    """AP that each kind of error costs and how many there are, in all and by size."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("error", no_wrap=True)
    for heading in ("AP50 cost", "count", *SIZES):
        table.add_column(heading, justify="right")
    special = {"false positives": errors.false_positives, "false negatives": errors.false_negatives}
    for place, (name, kind) in enumerate((*errors.kinds.items(), *special.items()), 1):
        table.add_row(name, *_cells(kind), end_section=place == len(errors.kinds))
    return table


def note(errors: ErrorKinds, map_50: float | None) -> str:
    """How to read the table, and why its AP may not be the mAP50 above it."""
    if errors.map_50 is None:
        return "no object is annotated: the errors are counted, but cost no AP"
    line = f"AP50 {errors.map_50:.4f}; a cost is what mending these errors alone would gain"
    if map_50 is not None and abs(errors.map_50 - map_50) >= 0.0005:
        line += (
            f". COCO's mAP50 is {map_50:.4f}: after TIDE a class without objects that is detected "
            "counts as 0, and of an image the best 100 detections of all classes together count"
        )
    return line


def confusion_table(confusion: Confusion) -> Table:
    """The matrix where there are few classes, otherwise the pairs mistaken most often."""
    if len(confusion.class_names) > MATRIX_CLASSES:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("object", "taken for"):
            table.add_column(heading, overflow="fold")
        table.add_column("count", justify="right")
        table.add_column("share", justify="right")
        for pair in confusion.pairs():
            table.add_row(pair.truth, pair.found, str(pair.count), f"{pair.share:.1%}")
        return table
    names = (*confusion.class_names, BACKGROUND)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("object \\ found", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for name, row in zip(names, confusion.matrix.tolist(), strict=True):
        table.add_row(name, *(str(count) if count else "." for count in row))
    return table


def confusion_title(confusion: Confusion) -> str:
    """What the table of `confusion_table` holds."""
    what = "confusion matrix"
    if len(confusion.class_names) > MATRIX_CLASSES:
        shown = len(confusion.pairs())
        what = f"the {shown} most confused pairs of classes" if shown else "no class is confused"
    return f"{what} (score at least {confusion.min_score:g}, IoU at least {confusion.min_iou:g})"


def _cells(kind: Kind) -> list[str]:
    def shown(cost: float | None) -> str:
        return "n/a" if cost is None else f"{cost:.4f}"

    parts = (kind.sizes[size] for size in SIZES)
    return [shown(kind.cost), str(kind.count), *(f"{shown(p.cost)} ({p.count})" for p in parts)]
