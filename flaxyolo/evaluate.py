"""The command `evaluate`: average precision of a checkpoint, or of a COCO result file."""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import box
from rich.progress import track
from rich.table import Table

from flaxyolo.base import cli
from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.base.reading import read_json
from flaxyolo.scoring.average_precision import Scores, coco_scores
from flaxyolo.scoring.detect import detect_each, shown
from flaxyolo.scoring.diagnosis import Diagnosis, diagnose
from flaxyolo.scoring.evaluation import Scorer
from flaxyolo.scoring.matches import MIN_IOU, case_of, match
from flaxyolo.scoring.predicted import on_images_of
from flaxyolo.scoring.records import read_records
from flaxyolo.scoring.thresholds import Point, Thresholds, point, thresholds
from flaxyolo.scoring.truth import GroundTruth, ground_truth

if TYPE_CHECKING:
    # Only for types: scoring a result file must not wait for JAX and the network to be imported.
    import flaxyolo.data.cache
    import flaxyolo.data.sources
    import flaxyolo.nn.detector

logger = logging.getLogger("flaxyolo.evaluate")

PIPED = 120
"""Columns of the tables in a file or pipe."""


@dataclass(frozen=True)
class Flags:
    """Flags of `evaluate`."""

    checkpoint: Annotated[
        tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="CHECKPOINT")
    ] = None
    """Folder of a detector, such as runs/<study>/best."""
    data: str | None = None
    """digits, scenes, coco:DIR, yolo:FILE, voc:DIR or tfds:NAME; else what it was trained on."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    split: Literal["train", "val"] = "val"
    """Which images to score."""
    detections: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """Score this COCO result file, or predictions.json of `predict`, instead of a checkpoint; needs
    --annotations."""
    annotations: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """COCO annotation file that --detections belongs to."""
    json: bool = False
    """Print the numbers as JSON, with torchmetrics' names."""
    errors: bool = False
    """Say where the errors are: their kinds (TIDE) and what they cost, confusion, calibration."""
    show_errors: int = 0
    """Draw so many of the worst errors of each kind; result files need --data for the images."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of these pictures; without it `errors` beside the checkpoint or the result file."""
    confusion_score: float = 0.25
    """Score from which on a detection counts in the confusion matrix."""
    confusion_iou: float = 0.5
    """Overlap from which on a detection is about an object in the confusion matrix."""
    scorer: Scorer = "hotcoco"
    """What counts average precision: hotcoco, or pycocotools, which it equals at fifty times its
    speed."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Truth and detections, and where they come from."""

    title: str
    truth: GroundTruth
    detections: Detections
    truth_name: str
    folder: Path
    """Where pictures go."""
    examples: "Sequence[flaxyolo.data.sources.Example]" = ()
    """With the pixels of the images; empty: there are none."""

    def scores(self, scorer: Scorer = "hotcoco") -> Scores:
        return coco_scores(self.truth, self.detections, scorer)

    def thresholds(self) -> Thresholds:
        case = case_of(self.truth, self.detections)
        return thresholds(case, match(case))

    def diagnosis(self, flags: Flags) -> Diagnosis:
        return diagnose(
            self.truth,
            self.detections,
            confusion_iou=flags.confusion_iou,
            confusion_score=flags.confusion_score,
        )


def score_files(annotations: Path, detections: Path) -> Scores:
    """Average precision of a COCO result file against a COCO annotation file."""
    return _read_files(annotations, detections).scores()


def _read_files(annotations: Path, detections: Path) -> Judged:
    truth, results = _read_json(annotations), _read_json(detections)
    if not isinstance(truth, dict):
        raise InputError(
            f"{annotations}: expected COCO annotations (an object with 'images', 'annotations' and "
            f"'categories'), got a {type(truth).__name__}"
        )
    if isinstance(results, dict):
        names = {"truth_name": str(annotations), "name": str(detections)}
        results = on_images_of(truth, results, **names)
    if not isinstance(results, list):
        raise InputError(
            f"{detections}: expected a COCO result file (a list of objects with 'image_id', "
            f"'category_id', 'bbox' and 'score'), got a {type(results).__name__}"
        )
    objects, found = read_records(
        truth, results, truth_name=str(annotations), results_name=str(detections)
    )
    return Judged(
        title=f"{detections} against {annotations}",
        truth=objects,
        detections=found,
        truth_name=str(annotations),
        folder=detections.parent / "errors",
    )


def tables(scores: Scores, found: Thresholds) -> list[Table]:
    """The twelve numbers in two rows, and the classes in the order of the data set.

    Precision, recall and F1 of the classes are those at the best score.
    """
    precision = Table(box=box.SIMPLE_HEAD)
    recall = Table(box=box.SIMPLE_HEAD)
    for table, columns in ((precision, PRECISION), (recall, RECALL)):
        for heading in columns:
            table.add_column(heading, justify="right", min_width=8)
        table.add_row(*(shown(getattr(scores, key)) for key in columns.values()))
    classes = Table(box=box.SIMPLE_HEAD)
    classes.add_column("class", overflow="fold")
    classes.add_column("mAP50-95", justify="right")
    for heading in ("mAP50", *Point._fields):
        classes.add_column(heading, justify="right")
    for entry, one in zip(scores.per_class, found.classes, strict=True):
        reached = (None,) * 3 if found.best is None else point(one, found.best)
        classes.add_row(entry.name, *map(shown, (entry.map, entry.map_50, *reached)))
    return [precision, recall, classes]


def best_line(found: Thresholds) -> str:
    """Precision, recall and F1 at the score that suits best, all classes together."""
    if found.best is None:
        return "no detection is right, so there is no best score to cut at"
    reached = point(found.overall, found.best)
    told = ", ".join(f"{name} {shown(value)}" for name, value in reached._asdict().items())
    return (
        f"best from a score of {found.best:.3f} on, all classes together, IoU at least "
        f"{MIN_IOU:g}: {told}"
    )


def _run_checkpoint(flags: Flags, checkpoint: Path) -> Judged:
    from flaxyolo.data.feeds import open_pixels
    from flaxyolo.data.sources import read_dataset
    from flaxyolo.machine.devices import use_device
    from flaxyolo.weights.checkpoint import detector_folder, load_detector, source_of

    use_device(flags.device)
    checkpoint, split = detector_folder(checkpoint), flags.split
    detector = load_detector(checkpoint)
    data = flags.data or source_of(checkpoint)
    dataset = read_dataset(data)
    if tuple(dataset.class_names) != tuple(detector.class_names):
        raise InputError(
            f"{checkpoint}: expected the classes of {data}, {_listed(dataset.class_names)}, but "
            f"the checkpoint was trained for {_listed(detector.class_names)}; "
            "name the data that it was trained on"
        )
    examples = getattr(dataset, split)
    pixels = open_pixels(dataset, split, detector.spec.image_size)
    logger.info("%s: %d images of %s, split %s", checkpoint, len(examples), data, split)
    parts = track(
        detect_each(detector, examples, pixels),
        description="detecting",
        total=len(examples),
        console=cli.CONSOLE,
        transient=True,
        disable=not cli.CONSOLE.is_terminal,
    )
    return Judged(
        title=f"{checkpoint} on {data}, {split}",
        truth=ground_truth(examples, dataset.class_names, dataset.category_ids),
        detections=Detections.joined(list(parts)),
        truth_name=f"{data}, {split}",
        folder=checkpoint.parent / "errors",
        examples=examples,
    )


def _judge(flags: Flags) -> Judged:
    """Read or run what the flags name."""
    if flags.checkpoint is not None and flags.detections is None and flags.annotations is None:
        return _run_checkpoint(flags, flags.checkpoint)
    if flags.checkpoint is not None or not flags.detections or not flags.annotations:
        raise InputError("expected either CHECKPOINT, or --detections JSON --annotations JSON")
    if flags.show_errors and flags.data is None:
        raise InputError(
            "--show-errors draws on the images, which result files do not hold: give the data set "
            "that they are about, such as --data coco:DIR, and its --split (train or val)"
        )
    judged = _read_files(flags.annotations, flags.detections)
    if not flags.show_errors or flags.data is None:
        return judged
    from flaxyolo.data.sources import read_dataset

    return replace(judged, examples=getattr(read_dataset(flags.data), flags.split))


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return f"[{', '.join(names[:most])}{more}]"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_json(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected JSON in UTF-8, got other bytes") from None
    except RecursionError:
        raise InputError(f"{path}: expected JSON, got lists nested too deep") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: expected JSON, got something else: {error.msg}"
        ) from None


@cli.within_limits
def _run(flags: Flags) -> Scores:
    if flags.show_errors < 0:
        raise InputError(f"--show-errors must be at least 0, got {flags.show_errors}")
    if flags.out is not None and not flags.show_errors:
        raise InputError("--out is the folder of the pictures of --show-errors N; give both")
    judged = _judge(flags)
    scores = judged.scores(flags.scorer)
    diagnosis = judged.diagnosis(flags) if flags.errors or flags.show_errors else None
    if diagnosis is not None and flags.show_errors:
        from flaxyolo.scoring.error_charts import draw_errors

        folder = flags.out or judged.folder
        what = diagnosis.case, diagnosis.single, flags.show_errors
        draw_errors(*what, folder, judged.examples, truth_name=judged.truth_name)
    if flags.json:
        more = {} if diagnosis is None else diagnosis.to_dict()
        best = {"best_f1": judged.thresholds().at_best()}
        print(json.dumps(scores.to_dict() | best | more, indent=1))
        return scores
    console = cli.tables_console(PIPED)
    console.print(judged.title, soft_wrap=True)
    found = judged.thresholds()
    for table in tables(scores, found):
        console.print(table)
    console.print(best_line(found), soft_wrap=True)
    for line_or_table in [] if diagnosis is None else diagnosis.told(scores.map_50):
        console.print(line_or_table, soft_wrap=isinstance(line_or_table, str))
    return scores


run_evaluate = as_function(Flags, _run, "evaluate", "the Scores")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.evaluate",
        description="COCO average precision of a checkpoint, or of a COCO result file.",
    )
    return cli.run(partial(_run, flags))


PRECISION = {
    "mAP50-95": "map",
    "mAP50": "map_50",
    "mAP75": "map_75",
    "mAP_s": "map_small",
    "mAP_m": "map_medium",
    "mAP_l": "map_large",
}
RECALL = {
    "AR1": "mar_1",
    "AR10": "mar_10",
    "AR100": "mar_100",
    "AR_s": "mar_small",
    "AR_m": "mar_medium",
    "AR_l": "mar_large",
}

if __name__ == "__main__":
    sys.exit(main())
