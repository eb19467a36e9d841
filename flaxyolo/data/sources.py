"""Where images and boxes come from: the table SOURCES, and the way from a source to a Dataset.

A reader says what it found (`records.Source`), the audit checks it, and what stays becomes
Examples. Boxes are xyxy pixels of the original image; pixels are decoded later, by the cache.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import expanded
from flaxyolo.data.images import ImageFacts, decode, image_facts, no_facts, pick_facts
from flaxyolo.data.labels.audit import audit
from flaxyolo.data.labels.checked import Checked
from flaxyolo.data.labels.findings import Audit, stop_if_poisoned
from flaxyolo.data.labels.repair import write_repaired
from flaxyolo.data.labels.splits import own_split
from flaxyolo.data.readers.coco import read_coco
from flaxyolo.data.readers.digits import read_digits
from flaxyolo.data.readers.prepared import INFO
from flaxyolo.data.readers.scenes import read_scenes
from flaxyolo.data.readers.tfds import read_tfds
from flaxyolo.data.readers.voc import read_voc
from flaxyolo.data.readers.yolo import read_yolo
from flaxyolo.data.records import Image, Source

log = logging.getLogger(__name__)

MARKS = {
    "coco": ("annotations/*.json", "_annotations.coco.json", "*/_annotations.coco.json",
             "instances.json", "result.json"),
    "yolo": ("*.yaml", "*.yml"),
    "voc": ("Annotations/*.xml", "VOC20*/Annotations", "VOCdevkit/VOC20*", "train/*.xml",
            "train/*/*.xml", "*.xml"),
    "tfds": ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json"),
}  # fmt: skip
"""What a folder of each form holds; `*.` alone is also a file that may be named itself."""
USUAL_NAMES = ("data", "dataset", "images", "annotations")
"""Names without suffix that do not tell one data set from another."""
READER_VERSION = 2
"""Raised with every change that makes other examples from the same files."""


@dataclass(frozen=True, eq=False)
class Example:
    """One image with its boxes; all boxes are in pixels of the original image."""

    image_id: int
    """As in the annotation file."""
    image: Image
    """The file, a file inside another, or RGB pixels."""
    height: int
    """As training sees it: after the rotation, if `oriented`."""
    width: int
    boxes: Float32[np.ndarray, "n 4"]
    """xyxy."""
    labels: Int32[np.ndarray, " n"]
    """Index into `class_names`."""
    areas: Float32[np.ndarray, " n"]
    """The annotation's own area: COCO's is the area of the mask."""
    crowd: Bool[np.ndarray, " n"]
    oriented: bool = False
    """Whether the rotation that the file notes (EXIF) is applied to its pixels."""

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image as RGB, decoded anew at every call, as its boxes see it."""
        return decode(self.image, oriented=self.oriented)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on, images to score on, and their classes."""

    name: str
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The annotation file's id of each class."""
    fingerprint: str
    """sha256 of the content, of the split, and of the version of the reader."""
    formerly: tuple[str, ...] = ()
    """What earlier versions gave the same files for a fingerprint."""
    mirror: bool = True
    """Whether a mirrored object is still one of its class; a digit is not."""
    audit: Audit = field(default_factory=Audit)
    """What the label audit has found."""
    train_facts: ImageFacts = field(default_factory=no_facts)
    """What the image files say, one entry for each of `train`."""
    val_facts: ImageFacts = field(default_factory=no_facts)


class _Audited(NamedTuple):
    """A source, its image facts, and both splits after the audit."""

    source: Source
    audit: Audit
    train: Checked
    val: Checked | None
    train_facts: ImageFacts
    val_facts: ImageFacts | None


class _Part(NamedTuple):
    """The images that become one split."""

    checked: Checked
    facts: ImageFacts
    images: Int64[np.ndarray, " k"]
    """Positions in both."""


def read_dataset(source: str, *, repair: Path | None = None) -> Dataset:
    """The data set that `--data` names, after its audit; what was found is logged.

    Faults that would poison training raise an InputError, unless `repair` names a folder: a
    repaired copy of the annotations is written there, and the data are read from it.
    """
    audited = _audit(_read(source))
    for line in audited.audit.lines():
        log.warning("%s: %s", audited.source.name, line)
    if repair is not None:
        _check_left(audited)
        train, val, _ = _split(audited)
        parts = {"train": (train.checked, train.images), "val": (val.checked, val.images)}
        write_repaired(audited.source, parts, repair)
        return read_dataset(f"coco:{repair}")
    stop_if_poisoned(audited.audit, audited.source.name)
    train, val, key = _split(audited)
    found = audited.source
    return Dataset(
        name=found.name,
        train=_examples(train),
        val=_examples(val),
        class_names=found.class_names,
        category_ids=found.category_ids,
        fingerprint=_digest(str(READER_VERSION), found.fingerprint, key),
        formerly=tuple(_digest(str(READER_VERSION), old, key) for old in found.formerly),
        mirror=found.mirror,
        audit=audited.audit,
        train_facts=pick_facts(train.facts, train.images),
        val_facts=pick_facts(val.facts, val.images),
    )


def audit_source(source: str) -> Audit:
    """What the label audit finds in the data that `--data` names; nothing stops it."""
    return _audit(_read(source)).audit


def prefixed(source: str) -> str:
    """What `--data` names, with the word for its form: data.yaml is yolo:data.yaml.

    A file or folder that is named without one is recognised by what is in it; InputError where
    that tells no form, or several.
    """
    if source.partition(":")[0] in SOURCES:
        return source
    words = f"expected one of {', '.join(SOURCES)} (coco as coco:DIR), got {source!r}"
    path = expanded(source)
    if not path.exists():
        raise InputError(f"--data: {words}")
    forms = [form for form, marks in MARKS.items() if _is_marked(path, marks)]
    if len(forms) != 1:
        told = " and ".join(forms) or "none of them"
        raise InputError(f"--data: {words}, which by what is in it may be {told}")
    # A relative folder after `tfds:` may be the name of a prepared data set instead.
    named = f"{forms[0]}:{path.resolve() if forms == ['tfds'] else source}"
    log.info("%s: read as %s", source, named)
    return named


def _is_marked(path: Path, marks: tuple[str, ...]) -> bool:
    """Whether a folder holds one of the marks, or the file is such a one itself."""
    if path.is_dir():
        return any(next(path.glob(mark), None) is not None for mark in marks)
    return any(mark.startswith("*.") and path.match(mark) for mark in marks)


def source_name(source: str) -> str:
    """A short name: of the file or folder, or of the one around it where all are called so."""
    kind, _, root = prefixed(source).partition(":")
    if not root:
        return kind
    path = Path(root).resolve()
    around = (place.name for place in (path, *path.parents) if not _is_usual(place))
    return next(filter(None, around), path.name)


def _is_usual(path: Path) -> bool:
    return path.stem.lower() in USUAL_NAMES


def absolute(source: str) -> str:
    """The same source, to be read from any folder."""
    kind, _, root = source.partition(":")
    path = expanded(root)
    is_name = kind == "tfds" and not (path / INFO).is_file() and root[:1] not in "~./"
    return f"{kind}:{path.resolve()}" if root and path.exists() and not is_name else source


def _read(source: str) -> Source:
    name, _, root = prefixed(source).partition(":")
    return SOURCES[name](root)


def _audit(source: Source) -> _Audited:
    train_facts, val_facts = (
        image_facts([listed.image for listed in records.images], f"{source.name} {split}")
        if records is not None
        else None
        for split, records in (("train", source.train), ("val", source.val))
    )
    assert train_facts is not None
    findings, train, val = audit(source, train_facts, val_facts)
    return _Audited(source, findings, train, val, train_facts, val_facts)


def _check_left(audited: _Audited) -> None:
    """A repair that leaves no object would teach background only."""
    checked = audited.train
    if len(checked.keep) and not checked.keep.any():
        raise InputError(
            f"{audited.source.name}: expected boxes to train on, but the audit left none of "
            f"{len(checked.keep)}: " + "; ".join(audited.audit.lines())
        )


def _split(audited: _Audited) -> tuple[_Part, _Part, str]:
    """Both splits, and what tells this way of splitting from others."""
    train, train_facts = audited.train, audited.train_facts
    kept = np.flatnonzero(train.keep_image)
    if audited.val is not None and audited.val_facts is not None:
        val, val_facts, key = audited.val, audited.val_facts, ""
        held = np.flatnonzero(val.keep_image)
    else:
        val, val_facts = train, train_facts
        own = own_split(audited.source, train, train_facts)
        held = kept[np.isin(kept, own)]
        kept = kept[~np.isin(kept, own)]
        key = json.dumps(own.tolist())
    for split, images in (("train", kept), ("val", held)):
        if not len(images):
            raise InputError(
                f"{audited.source.name}: expected images in {split}, but the audit left none: "
                + "; ".join(audited.audit.lines())
            )
    return _Part(train, train_facts, kept), _Part(val, val_facts, held), key


def _examples(part: _Part) -> tuple[Example, ...]:
    """The images of a part in order, with the boxes that are kept."""
    checked = part.checked
    kept = np.flatnonzero(checked.keep)
    rows = kept[np.argsort(checked.image[kept], kind="stable")]
    owners = checked.image[rows]
    starts = np.searchsorted(owners, part.images).tolist()
    ends = np.searchsorted(owners, part.images, side="right").tolist()
    boxes = checked.boxes[rows].astype(np.float32)
    labels = checked.records.labels[rows].astype(np.int32)
    areas = checked.areas[rows].astype(np.float32)
    crowd = checked.records.crowd[rows]
    return tuple(
        Example(
            image_id=checked.image_ids[image],
            image=checked.records.images[image].image,
            height=int(checked.heights[image]),
            width=int(checked.widths[image]),
            boxes=boxes[start:end],
            labels=labels[start:end],
            areas=areas[start:end],
            crowd=crowd[start:end],
            oriented=bool(checked.oriented[image]),
        )
        for image, start, end in zip(part.images.tolist(), starts, ends, strict=True)
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


SOURCES: dict[str, Callable[[str], Source]] = {
    "digits": read_digits,
    "scenes": read_scenes,
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "tfds": read_tfds,
}
