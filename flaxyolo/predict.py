"""The command `predict`: what a detector finds in images and videos, as pictures and files."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.progress import track

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.base.words import many
from flaxyolo.deploy.frames import count_frames, read_frames
from flaxyolo.deploy.predictions import (
    RESULTS,
    TABLE,
    Form,
    Predictions,
    Way,
    detect_frames,
)
from flaxyolo.deploy.sources import Found, Problem, find_sources

if TYPE_CHECKING:
    from flaxyolo.nn.detector import TrainedDetector

log = logging.getLogger("flaxyolo.predict")

TOLD_CLASSES = 10
TOLD_PROBLEMS = 10
LEAST_SLICE = 32
MOST_OVERLAP = 0.9


@dataclass(frozen=True)
class Flags:
    """Flags of `predict`."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder of a detector, or of a study or a run."""
    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE")]
    """Images, videos, folders, patterns such as "in/**/*.jpg", text files with a path a line, or
    - for an image on standard input."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """A new or empty folder for what is written."""
    save: tuple[Form, ...] = ("pictures", "coco", "yolo", "csv")
    """What to write: annotated pictures and videos, predictions.json, labels, predictions.csv."""
    min_score: float = 0.25
    """Least score of a detection; 0.001 to score predictions.json by `evaluate`."""
    slice: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Look at large images in overlapping tiles of this side, and at the whole image as well."""
    overlap: float = 0.2
    """Least share of a tile that the next one sees too; let it hold the largest small object."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""


@dataclass(frozen=True)
class Predicted:
    """What a run of `predict` has found and written."""

    folder: Path
    images: int
    """Frames of videos included."""
    objects: dict[str, int]
    """Detections of each class, most first."""
    problems: tuple[Problem, ...]
    """Inputs that could not be read, with the reason."""


def check(flags: Flags) -> Way:
    """How to detect; InputError where a flag is out of its range."""
    if not 0 <= flags.min_score <= 1:
        raise InputError(f"--min-score: expected a number from 0 to 1, got {flags.min_score:g}")
    if flags.slice is not None and flags.slice < LEAST_SLICE:
        raise InputError(f"--slice: expected at least {LEAST_SLICE} pixels, got {flags.slice}")
    if not 0 <= flags.overlap <= MOST_OVERLAP:
        raise InputError(f"--overlap: expected 0 to {MOST_OVERLAP}, got {flags.overlap:g}")
    if not flags.sources:
        raise InputError("expected at least one SOURCE: an image, a folder, a video, a list or -")
    if not flags.save:
        raise InputError("--save: expected at least one of pictures, coco, yolo, csv")
    if flags.out.exists() and (not flags.out.is_dir() or any(flags.out.iterdir())):
        raise InputError(
            f"--out {flags.out}: expected a new or empty folder, as files of two runs would mix; "
            "name another one"
        )
    return Way(flags.min_score, flags.slice, flags.overlap)


def detect_all(
    flags: Flags, way: Way, detector: "TrainedDetector", named: Found, problems: list[Problem]
) -> Predictions:
    """Detect in all sources and write; what is finished stays after an interruption."""
    about = {"checkpoint": str(flags.checkpoint), "min_score": way.min_score}
    if way.side is not None:
        about |= {"slice": way.side, "overlap": way.overlap}
    written = Predictions(flags.out, flags.save, detector.class_names, about)
    count = count_frames(named.sources)
    frames = read_frames(named.sources, problems)
    each = track(
        detect_frames(detector, frames, way, count),
        description="detecting",
        total=count,
        console=cli.CONSOLE,
        transient=True,
        disable=not cli.CONSOLE.is_terminal,
    )
    try:
        for frame, found in each:
            written.add(frame, found)
    except KeyboardInterrupt:
        written.close()
        done = many(written.images, "image")
        log.warning("%s: interrupted; what was found in %s is there", flags.out, done)
        raise
    except BaseException:
        written.discard()
        raise
    written.close()
    return written


def answer(written: Predictions, problems: Sequence[Problem], min_score: float) -> str:
    """How much of what was found, in one sentence."""
    most = written.objects.most_common(TOLD_CLASSES)
    told = ", ".join(f"{name} ({count:,})" for name, count in most)
    if len(written.objects) > TOLD_CLASSES:
        told += f", and {len(written.objects) - TOLD_CLASSES} more classes"
    among = f"{written.with_objects:,} of {many(written.images, 'image')}"
    failed = f"; {many(len(problems), 'input')} could not be read" if problems else ""
    if not written.objects:
        return (
            f"Nothing found in {many(written.images, 'image')}, score {min_score:g} or more{failed}"
        )
    total = many(written.objects.total(), "object")
    return f"Found {total} in {among}, score {min_score:g} or more: {told}{failed}"


def places(out: Path, forms: Sequence[Form], videos: bool) -> str:
    """What lies where."""
    labels = "labels/ and frames/" if videos else "labels/"
    names = {"pictures": "pictures/", "coco": RESULTS, "yolo": labels, "csv": TABLE}
    return f"{out}: {', '.join(name for form, name in names.items() if form in forms)}"


def tell_problems(problems: Sequence[Problem]) -> None:
    """A line for each of the first few inputs that could not be read."""
    for problem in problems[:TOLD_PROBLEMS]:
        log.warning("%s: %s", problem.name, problem.why)
    if len(problems) > TOLD_PROBLEMS:
        log.warning("and %d more that could not be read", len(problems) - TOLD_PROBLEMS)


@cli.within_limits
def _run(flags: Flags) -> Predicted:
    way = check(flags)
    from flaxyolo.machine.devices import use_device
    from flaxyolo.weights.checkpoint import detector_folder, load_detector

    use_device(flags.device)
    detector = load_detector(flags.checkpoint)
    named = find_sources(flags.sources)
    for line in named.left_out:
        log.info("%s", line)
    problems, began = named.problems, time.monotonic()
    written = detect_all(flags, way, detector, named, problems)
    seconds = time.monotonic() - began
    if not written.images:
        tell_problems(problems[1:])
        first = f"{problems[0].name}: {problems[0].why}" if problems else "the sources are empty"
        raise InputError(f"nothing could be read: {first}")
    print(answer(written, problems, flags.min_score))
    print(places(flags.out, flags.save, any(source.video for source in named.sources)))
    size = f"{detector.spec.image_size} px"
    sliced = "" if way.side is None else f" in tiles of {way.side} px"
    print(f"{detector_folder(flags.checkpoint)}, {size}{sliced}; {cli.duration(seconds)}")
    tell_problems(problems)
    return Predicted(
        flags.out, written.images, dict(written.objects.most_common()), tuple(problems)
    )


run_predict = as_function(Flags, _run, "predict", "a Predicted with `folder`, `images`, `objects`")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.predict",
        description="Detect in images and videos; write pictures, COCO JSON, YOLO labels, CSV.",
    )
    return cli.run(partial(_run, flags), output=flags.out)


if __name__ == "__main__":
    sys.exit(main())
