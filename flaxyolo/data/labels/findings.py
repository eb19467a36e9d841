"""What the label audit may find: every kind in words, what is done about it, and the findings."""

import shlex
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from flaxyolo.base.errors import InputError

BORDER = 1.0
"""Pixels by which a box may pass the border of its image: rounding. It is clipped."""


class Kind(NamedTuple):
    """One kind of finding."""

    of: Literal["boxes", "images", "files", "classes"]
    text: str
    """What is counted."""
    done: str
    """What is done about it; for a kind that stops, what `--repair` does."""
    stops: bool = False
    """Whether it would poison training."""
    changes: bool = True
    """Whether a repaired copy says something else."""
    leaves: bool = False
    """Whether images leave that a reader has noted."""
    quiet: bool = False
    """Whether it is told by the audit alone, and not with every load."""


@dataclass(frozen=True)
class Finding:
    """All records of one split in which the audit has found the same."""

    kind: str
    """A key of `KINDS`."""
    split: str
    """train, val, or all where the source has no validation split."""
    count: int
    first: tuple[str, ...]
    """File and record of the first few, or their names."""
    text: str
    done: str
    stops: bool
    images_out: int
    """Images that are not used because of it."""
    boxes_out: int
    """Boxes that are not used because of it, those of its images included."""


@dataclass(frozen=True)
class SplitCount:
    """What a split listed, and what of it is used."""

    listed_images: int
    images: int
    listed_boxes: int
    boxes: int


@dataclass(frozen=True)
class Audit:
    """Everything that the audit has found in a data set."""

    findings: tuple[Finding, ...] = ()
    splits: tuple[tuple[str, SplitCount], ...] = ()

    @property
    def stops(self) -> tuple[Finding, ...]:
        """The findings that would poison training."""
        return tuple(finding for finding in self.findings if finding.stops)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, ready for JSON."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "splits": {split: asdict(counts) for split, counts in self.splits},
        }

    def lines(self) -> list[str]:
        """One line for each finding, for a log."""
        return [
            f"{finding.split}: {finding.count} {finding.text}: "
            f"{'stops the run; with --repair: ' if finding.stops else ''}{finding.done}; first: "
            + "; ".join(finding.first)
            for finding in self.findings
            if not KINDS[finding.kind].quiet
        ]


def stop_if_poisoned(audit: Audit, name: str) -> None:
    """Refuse data with faults that would poison training: one line that names every kind."""
    if not audit.stops:
        return
    told = "; ".join(
        f"{finding.split}: {finding.count} {finding.text} (first: {finding.first[0]})"
        for finding in audit.stops
    )
    raise InputError(
        f"{name}: expected labels without faults, found {told}; correct them, or have "
        "`--repair` (train, sweep) or `python -m flaxyolo.data audit "
        f"{shlex.quote(name)} --repair DIR` write a repaired copy of the annotations"
    )


KINDS: dict[str, Kind] = {
    "missing": Kind("images", "images listed but missing", "left out", True),
    "undecodable": Kind("images", "images that do not decode", "left out", True),
    "led_out": Kind(
        "images",
        "images that lead out of the data set (--allow-outside reads them)",
        "left out",
        True,
    ),
    "image_id": Kind(
        "images",
        "images with an id that is used before",
        "of the same file the first is kept; other files are left out with the first, as nothing "
        "tells whose the boxes are",
        True,
    ),
    "file_twice": Kind("images", "images listed twice", "their boxes go to the first"),
    "size": Kind("images", "images of another size than their file", "the file's is taken", True),
    "size_text": Kind("images", "images whose size is no size", "the file's is taken", True),
    "no_size": Kind("images", "images without a size", "the file's is taken"),
    "exif_applied": Kind(
        "images",
        "images labelled as rotated by their file (EXIF)",
        "the rotation is applied",
        changes=False,
    ),
    "exif_ignored": Kind(
        "images",
        "images with a rotation in their file (EXIF), labelled as stored",
        "the rotation is ignored",
        changes=False,
    ),
    "complaint": Kind(
        "images",
        "images that the decoder takes for damaged",
        "used as they decode: parts of them may be grey or shifted",
        changes=False,
    ),
    "few_bits": Kind(
        "images",
        "images of 16 bits that use fewer",
        "made brighter, so that the bits that they use count as all",
        changes=False,
    ),
    "shared_label": Kind(
        "images",
        "images that share a label file with another",
        "left out, as nothing tells whose the boxes are",
        True,
        leaves=True,
    ),
    "lost_label": Kind(
        "images",
        "images without a label file, while label files belong to no image",
        "left out, as objects of theirs would be learnt as background",
        True,
        leaves=True,
    ),
    "both_splits": Kind("images", "images of train that are in val too", "left out of train"),
    "same_splits": Kind(
        "images",
        "images of train, all of them in val too",
        "kept: the score is one of images that were learnt",
        changes=False,
    ),
    "stripped": Kind(
        "images",
        "images that have lost all their boxes to faults",
        "left out, as their objects would be learnt as background",
        True,
    ),
    "empty": Kind("images", "images without boxes", "kept as background", changes=False),
    "unknown_image": Kind("boxes", "boxes of an image that is not listed", "left out", True),
    "not_numbers": Kind("boxes", "boxes that are not four finite numbers", "left out", True),
    "negative": Kind("boxes", "boxes of negative width or height", "left out", True),
    "class": Kind("boxes", "boxes of a class that is not listed", "left out", True),
    "outside": Kind("boxes", "boxes wholly outside their image", "left out", True),
    "beyond": Kind("boxes", "boxes partly outside their image", "clipped", True),
    "clipped": Kind("boxes", f"boxes up to {BORDER:g} pixel outside their image", "clipped"),
    "zero_area": Kind("boxes", "boxes without width or height", "left out"),
    "duplicate": Kind("boxes", "boxes that repeat another of their image", "left out"),
    "double_key": Kind("boxes", "boxes that say a key twice", "the last one counts", True),
    "crowd_text": Kind("boxes", "boxes whose iscrowd is not 0 or 1", "taken as 0", True),
    "box_id": Kind(
        "boxes", "boxes without an id of their own", "kept: it is not needed", changes=False
    ),
    "area": Kind("boxes", "boxes whose 'area' is not above 0", "that of the box is taken"),
    "no_area": Kind("boxes", "boxes without 'area'", "that of the box is taken"),
    "outline": Kind("boxes", "boxes that only an outline gives", "that of the outline is taken"),
    "crowd": Kind("boxes", "boxes of crowds", "kept for the score, not learnt from", changes=False),
    "unread": Kind("files", "files among the images that are no images", "left out", changes=False),
    "unlisted": Kind(
        "files",
        "files of images that no annotation or list names",
        "left out, as nobody may have looked for objects in them",
        changes=False,
    ),
    "unclaimed": Kind(
        "files", "files of labels that belong to no image", "left out", changes=False
    ),
    "unused": Kind(
        "files", "files of another split", "left out: neither trained on nor scored", changes=False
    ),
    "text": Kind(
        "files",
        "files of text and lists that are no labels",
        "left out",
        changes=False,
        quiet=True,
    ),
    "litter": Kind(
        "files", "files that are hidden or a system's own", "left out", changes=False, quiet=True
    ),
    "root_class": Kind(
        "classes",
        "classes that are only the root of the others, without a box",
        "left out",
        changes=False,
    ),
    "same_name": Kind(
        "classes", "classes that are named like another", "kept apart", changes=False
    ),
    "val_only": Kind(
        "classes",
        "classes that only val has boxes of",
        "kept: nothing can learn them",
        changes=False,
    ),
}
"""Every kind of finding, in words that follow a count."""
