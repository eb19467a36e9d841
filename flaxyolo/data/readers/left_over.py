"""What lies in the folders of a data set and is not read: every file is counted and named."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from flaxyolo.data.readers.listing import asides, files_below
from flaxyolo.data.readers.paths import SPLIT_WORDS
from flaxyolo.data.records import Aside

KINDS = ("unlisted", "unread", "unused", "text", "litter")
"""Of findings, each for files of another kind."""


def left_over(
    folders: Iterable[Path],
    read: Collection[Path],
    owners: Mapping[Path, str] | None = None,
    tests: Collection[Path] = (),
) -> dict[str, dict[str, list[Path]]]:
    """By split and kind, the files in folders and below that are none of those `read`.

    A file belongs to the split whose folder is nearest above it, or to train; `tests` are folders
    of a split that has no use.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    seen: set[Path] = set()
    real: set[str] | None = None
    known = set(read)
    for folder in _topmost(folders):
        files = files_below(folder)
        for kind, paths in zip(("unlisted", "text", "unread", "litter"), files, strict=True):
            for path in paths:
                if path in known or path in seen:
                    continue
                seen.add(path)
                if kind == "unlisted":
                    # The same file may have been read by another way.
                    real = set(map(_real, known)) if real is None else real
                    if _real(path) in real:
                        continue
                test = kind == "unlisted" and _is_test(path, folder, tests)
                split = _owner(path, owners or {})
                found.setdefault(split, {}).setdefault("unused" if test else kind, []).append(path)
    return found


def left_asides(found: Mapping[str, list[Path]], **more: Iterable[Path | str]) -> tuple[Aside, ...]:
    """The findings of a split's left-over files, and those that its reader has by itself."""
    kinds: dict[str, dict[Path | str, None]] = {}
    told: set[Path | str] = set()
    for kind, places in (*more.items(), *((kind, found.get(kind, [])) for kind in KINDS)):
        for place in places:
            if place not in told:
                kinds.setdefault(kind, {})[place] = None
                told.add(place)
    order = dict.fromkeys(("unlisted", "unread", *more, *KINDS))
    return asides(**{kind: list(kinds[kind]) for kind in order if kind in kinds})


def _real(path: Path) -> str:
    """Where a path leads; itself where it is none."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a zero byte in the name
        return str(path)


def _topmost(folders: Iterable[Path]) -> list[Path]:
    """Those that lie in no other."""
    unique = sorted({folder for folder in folders if folder.is_dir()})
    return [one for one in unique if not any(other in one.parents for other in unique)]


def _owner(path: Path, owners: Mapping[Path, str]) -> str:
    return next((owners[above] for above in path.parents if above in owners), "train")


def _is_test(path: Path, folder: Path, tests: Collection[Path]) -> bool:
    parts = path.relative_to(folder).parts[:-1]
    named_so = any(part.casefold() in SPLIT_WORDS[2] for part in parts)
    return named_so or any(test in path.parents for test in tests)
