"""The command `data`: look at a data set, audit it, write it in another form."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flaxyolo.base import cli
from flaxyolo.base.charts import draw_examples
from flaxyolo.base.errors import InputError
from flaxyolo.data.export import Form, convert
from flaxyolo.data.images import decode, name_of
from flaxyolo.data.labels.findings import Audit, stop_if_poisoned
from flaxyolo.data.sources import Example, audit_source, read_dataset

log = logging.getLogger("flaxyolo.data")

SourceName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]


@dataclass(frozen=True)
class Convert:
    """Write any source as a COCO folder or as a TFDS data set, which streams from the disk."""

    source: SourceName
    """As for --data: digits, scenes, coco:DIR, yolo:data.yaml, voc:DIR, tfds:NAME."""
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A new folder."""
    to: Form = "coco"
    """coco: JSON and image files; tfds: array_record files."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


@dataclass(frozen=True)
class Show:
    """Draw images with their boxes: the densest, one without boxes, the smallest box, others."""

    source: SourceName
    """As for --data: digits, scenes, coco:DIR, yolo:data.yaml, voc:DIR, tfds:NAME."""
    out: Path = Path("show.png")
    """The picture."""
    count: int = 12
    """Images in it."""
    split: str = "train"
    """train or val."""
    seed: int = 0
    """Draws the images that nothing else chooses."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


@dataclass(frozen=True)
class AuditFlags:
    """Look at every label and image once, and say what is wrong with them."""

    source: SourceName
    """As for --data: digits, scenes, coco:DIR, yolo:data.yaml, voc:DIR, tfds:NAME."""
    repair: Path | None = None
    """A new folder for repaired annotations; the source stays as it is."""
    json: bool = False
    """Print the findings as JSON."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


@dataclass(frozen=True)
class Flags:
    """Flags of `data`."""

    command: Annotated[
        Annotated[Convert, tyro.conf.subcommand("convert")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[AuditFlags, tyro.conf.subcommand("audit")],
        tyro.conf.arg(name=""),
    ]


def choose_examples(
    examples: Sequence[Example], count: int, seed: int = 0
) -> list[tuple[int, str]]:
    """Positions of images that show what there is, and why each was chosen.

    The densest, one without boxes, the one with the smallest box, the one with the largest, one
    for every class that is still missing, and others at random.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples)).tolist()
    counts = [len(example.boxes) for example in examples]
    chosen: dict[int, str] = {}
    densest = max(order, key=lambda index: counts[index])
    if counts[densest]:
        chosen[densest] = f"densest: {_boxes(counts[densest])}"
    empty = next((index for index in order if not counts[index]), None)
    if empty is not None:
        chosen[empty] = "no boxes"
    sides = {index: _sides(examples[index]) for index in order if not examples[index].crowd.all()}
    if sides:
        for word, pick, best in (("smallest", min, np.argmin), ("largest", max, np.argmax)):
            index = pick(sides, key=lambda index, pick=pick: pick(sides[index].prod(1)))
            width, height = sides[index][best(sides[index].prod(1))]
            chosen.setdefault(index, f"{word} box: {width:.3g} x {height:.3g} px")
    shown = {int(label) for index in chosen for label in examples[index].labels}
    for index in order:
        fresh = set(examples[index].labels.tolist()) - shown
        if fresh and len(chosen) < count:
            chosen.setdefault(index, _boxes(counts[index]))
            shown |= fresh
    for index in order:
        if len(chosen) < count:
            chosen.setdefault(index, _boxes(counts[index]))
    return list(chosen.items())[:count]


def audit_text(audit: Audit, name: str) -> str:
    """What was listed, what is used of it, and every finding with its first places."""
    lines = [name]
    for split, counts in audit.splits:
        lines.append(
            f"  {split}: {counts.images:,} of {counts.listed_images:,} images and "
            f"{counts.boxes:,} of {counts.listed_boxes:,} boxes are sound"
        )
    for finding in audit.findings:
        # What stops a run is done by --repair only.
        done = f"STOPS a run; --repair: {finding.done}" if finding.stops else finding.done
        lines.append(f"  {finding.split}: {finding.count:,} {finding.text}: {done}")
        lines += [f"      {place}" for place in finding.first]
        if finding.count > len(finding.first):
            lines.append(f"      and {finding.count - len(finding.first):,} more")
    return "\n".join(lines if audit.findings else [*lines, "  nothing found"])


def _boxes(count: int) -> str:
    return f"{count} box{'' if count == 1 else 'es'}"


def _sides(example: Example) -> np.ndarray:
    """Width and height of the boxes that are no crowds."""
    boxes = example.boxes[~example.crowd]
    return boxes[:, 2:] - boxes[:, :2]


@cli.within_limits
def _convert(flags: Convert) -> None:
    convert(read_dataset(flags.source), flags.folder, flags.to)
    print(f"{flags.to}:{flags.folder}")


@cli.within_limits
def _show(flags: Show) -> None:
    if flags.split not in ("train", "val"):
        raise InputError(f"--split: expected train or val, got {flags.split!r}")
    cli.least_one(flags, "count")
    dataset = read_dataset(flags.source)
    examples = dataset.train if flags.split == "train" else dataset.val
    chosen = choose_examples(examples, flags.count, flags.seed)
    picked = [examples[index] for index, _ in chosen]
    draw_examples(
        [decode(example.image, oriented=example.oriented) for example in picked],
        picked,
        [f"image {examples[index].image_id}, {why}" for index, why in chosen],
        dataset.class_names,
        flags.out,
        title=f"{dataset.name}: {len(picked)} of {len(examples):,} images of {flags.split}",
    )
    print(flags.out)
    for example, (_, why) in zip(picked, chosen, strict=True):
        size = f"{example.width} x {example.height} px"
        print(f"  image {example.image_id} ({name_of(example.image)}), {size}, {why}")


@cli.within_limits
def _audit(flags: AuditFlags) -> None:
    audit = audit_source(flags.source)
    if flags.json:
        print(json.dumps({"name": flags.source, **audit.to_dict()}, indent=1))
    else:
        print(audit_text(audit, flags.source))
    if flags.repair is None:
        stop_if_poisoned(audit, flags.source)
    else:
        read_dataset(flags.source, repair=flags.repair)


def _run(flags: Flags) -> None:
    match flags.command:
        case Convert() as command:
            _convert(command)
        case Show() as command:
            _show(command)
        case AuditFlags() as command:
            _audit(command)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.data",
        description="Look at a data set, audit its labels, or write it in another form.",
    )
    output = flags.command.folder if isinstance(flags.command, Convert) else None
    return cli.run(partial(_run, flags), output=output)


if __name__ == "__main__":
    sys.exit(main())
