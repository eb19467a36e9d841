"""A validation split for a source that has none, the same every time and kept on disk."""

import heapq
import json
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import cache_root, replace_file
from flaxyolo.data.images import ImageFacts
from flaxyolo.data.labels.checked import Checked
from flaxyolo.data.records import Source

log = logging.getLogger(__name__)

SPLIT_VERSION = 1
"""Raised with every change that splits otherwise."""
VAL_SHARE = 0.2
SEED = 0
SIZES = (32.0**2, 96.0**2)
"""Square pixels that part small, medium and large objects, as COCO does."""


def own_split(
    source: Source, checked: Checked, facts: ImageFacts, *, cache_dir: Path | None = None
) -> Int64[np.ndarray, " v"]:
    """Positions of the images that are kept for validation, of those that the audit keeps.

    The split is stratified by class and size, and images with the same content stay together. It
    is kept in the cache under the fingerprint of the source, and used again as long as it fits.
    """
    kept = np.flatnonzero(checked.keep_image)
    path = cache_root(cache_dir) / "splits" / f"{source.fingerprint[:20]}.json"
    settings = {
        "version": SPLIT_VERSION,
        "fingerprint": source.fingerprint,
        "share": VAL_SHARE,
        "seed": SEED,
        "images": len(kept),
    }
    held = _load(path, settings, kept)
    again = held is not None
    if held is None:
        groups = _groups(facts, kept)
        if groups.max(initial=-1) < 1:
            raise InputError(
                f"{source.name}: expected a validation split, or at least two different images "
                f"to make one from, got {len(kept)}"
            )
        held = kept[stratify(groups, _strata(source, checked, kept), VAL_SHARE, SEED)]
        _save(path, settings, held, checked)
    boxes = np.isin(checked.image[checked.keep], held).sum()
    log.warning(
        "%s has no validation split: %d of %d images with %d of %d boxes are kept for it, seed %d, "
        "by class and size; %s %s", source.name, len(held), len(kept), boxes, checked.keep.sum(),
        SEED, "as in" if again else "kept in", path,
    )  # fmt: skip
    return held


def stratify(
    groups: Int64[np.ndarray, " n"], strata: Float64[np.ndarray, "n s"], share: float, seed: int
) -> Bool[np.ndarray, " n"]:
    """Which of the images are held out; `strata` counts the boxes of each kind in each image.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011): the rarest kind is shared out
    first, and each group goes to the side that still lacks most of it, then most images. Images
    of a group stay together. Both sides get at least one group.
    """
    count = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    table = np.zeros((count, strata.shape[1]))
    np.add.at(table, groups, strata)
    images = np.bincount(groups, minlength=count).astype(np.float64)
    # First what goes to training, then what is held out.
    shares = np.array([1 - share, share])
    lacking = shares[:, None] * table.sum(0)
    lacking_images = shares * images.sum()
    side = np.full(count, -1)
    order = rng.permutation(count)
    members = [order[table[order, kind] > 0] for kind in range(table.shape[1])]
    remaining = table.sum(0)
    # A heap of kinds by what is left of them; an entry that is out of date is put back.
    heap = [(left, kind) for kind, left in enumerate(remaining.tolist()) if left > 0]
    heapq.heapify(heap)

    def give(group: int, to: int) -> None:
        nonlocal remaining
        side[group] = to
        lacking[to] -= table[group]
        lacking_images[to] -= images[group]
        remaining = remaining - table[group]

    while heap:
        left, kind = heapq.heappop(heap)
        if remaining[kind] < left:
            if remaining[kind] > 0:
                heapq.heappush(heap, (float(remaining[kind]), kind))
            continue
        for group in members[kind][side[members[kind]] < 0].tolist():
            need = lacking[:, kind]
            by = need if need[0] != need[1] else lacking_images
            give(group, int(by[1] > by[0]))
    for group in order[side[order] < 0].tolist():
        give(group, int(lacking_images[1] > lacking_images[0]))
    for to in (0, 1):
        if not (side == to).any():
            side[order[np.argmin(images[order])]] = to
    return (side == 1)[groups]


def _strata(
    source: Source, checked: Checked, kept: Int64[np.ndarray, " k"]
) -> Float64[np.ndarray, "k s"]:
    """Boxes of each class and size in each of the images that are kept."""
    rows = np.flatnonzero(checked.keep & ~checked.records.crowd)
    sizes = np.searchsorted(SIZES, checked.areas[rows], side="right")
    kinds = checked.records.labels[rows] * 3 + sizes
    table = np.zeros((len(kept), 3 * len(source.class_names)))
    np.add.at(table, (np.searchsorted(kept, checked.image[rows]), kinds), 1.0)
    return table


def _groups(facts: ImageFacts, kept: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """A number for each image that is kept, the same for the same content."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(facts.digest[row], len(numbers)) for row in kept.tolist()], np.int64
    )


def _load(
    path: Path, settings: dict[str, object], kept: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " v"] | None:
    """The split that is kept on disk; None if there is none, or none that fits."""
    try:
        data = json.loads(path.read_bytes())
        if data["settings"] != settings:
            raise ValueError("made for other data")
        held = np.array([entry["position"] for entry in data["val"]], np.int64)
        if not np.isin(held, kept).all() or not 0 < len(set(held.tolist())) < len(kept):
            raise ValueError("names other images")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        log.warning("%s does not fit and is made again: %s", path, error)
        return None
    return np.sort(held)


def _save(
    path: Path, settings: dict[str, object], held: Int64[np.ndarray, " v"], checked: Checked
) -> None:
    images = checked.records.images
    val = [{"position": row, "image": images[row].where} for row in held.tolist()]
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, json.dumps({"settings": settings, "val": val}, indent=1))
    except OSError as error:
        raise InputError(
            f"{path}: cannot keep the validation split: {error.strerror}; make room, or name "
            "another folder in FLAXYOLO_CACHE"
        ) from None
