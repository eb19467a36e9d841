"""Where a file lies that an annotation names: paths as exporters of all systems write them.

A name is first taken as it stands. Otherwise it may have been written on Windows (backslashes, a
drive), in a folder of the exporter's machine (a prefix that is not here), as a part of an address
(percent signs), in the other Unicode form or another case. Nothing outside the given folders is
looked at for such a name.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from flaxyolo.base.limits import allow_outside

SPLIT_WORDS = (
    ("train", "training", "train2017"),
    ("val", "valid", "validation", "val2017"),
    ("test", "testing", "test2017"),
)
"""Names of the folder of each split."""
LOCAL_FILES = re.compile(r"^.*[?&]d=")
"""Before the path in an address of Label Studio's local files."""


class Listing:
    """What lies in the folders of a data set, each listed once, when it is first asked for."""

    def __init__(self) -> None:
        self.names = cache(_names)
        self._alike = cache(self._by_spelling)
        self._stems = cache(self._by_stem)

    def has(self, path: Path) -> bool:
        """Whether there is a file, folder or link of exactly this path."""
        return path.name in self.names(str(path.parent)) or path.name in ("", "..")

    def find(self, written: str, folders: Sequence[Path]) -> Path | None:
        """The file or folder that is meant; folders are tried in order.

        Of a path that is not there, the longest tail that is in one of the folders.
        """
        exact = self.exact(written, folders)
        if exact is not None:
            return exact
        parts = _parts(written)
        tails = (parts[start:] for start in range(len(parts)))
        candidates = (self.below(folder, tail) for tail in tails for folder in folders)
        return next((path for path in candidates if path is not None), None)

    def find_split(self, written: str, folder: Path) -> Path | None:
        """The folder or list of a split: its name may be another word for the same split."""
        parts = _parts(written)
        for start in range(len(parts)):
            # The folder `images` of another split is not meant.
            if any(_words(part) for part in parts[:start]):
                break
            for tail in _with_other_words(parts[start:]):
                path = self.below(folder, tail)
                if path is not None:
                    return path
        return None

    def find_all(
        self, written: Sequence[str], folders: Sequence[Path], others: Sequence[Path] = ()
    ) -> list[Path | None]:
        """As `find`; None too for a name whose file another name means as well.

        What is written in another way is looked for in `others` too.
        """
        found = [self.exact(name, folders) for name in written]
        taken = {path for path in found if path is not None}
        lost = [row for row, path in enumerate(found) if path is None]
        meant: dict[Path, set[str]] = defaultdict(set)
        for row in lost:
            path = found[row] = self.find(written[row], [*folders, *others])
            if path is not None:
                meant[path].add(written[row])
        for row in lost:
            path = found[row]
            if path is not None and (path in taken or len(meant[path]) > 1):
                found[row] = None
        return found

    def exact(self, written: str, folders: Sequence[Path]) -> Path | None:
        """The path as it is written; a relative one only inside one of the folders."""
        if os.path.isabs(written):
            path = Path(written)
            return path if self.has(path) else None
        is_name = os.sep not in written and written not in ("", ".", "..")
        for folder in folders:
            if is_name:
                if written in self.names(str(folder)):
                    return folder / written
                continue
            path = folder / written
            if ".." in path.parts and not allow_outside() and not _is_inside(path, folders):
                continue
            if self.has(path):
                return path
        return None

    def alike(self, folder: Path, name: str) -> str | None:
        """The name itself, or the only one in the folder that is spelled like it."""
        if name in self.names(str(folder)):
            return name
        names = self._alike(str(folder)).get(spelling(name), [])
        return names[0] if len(names) == 1 else None

    def with_stem(self, folder: Path, stem: str) -> list[str]:
        """The names in a folder that have this stem; if none has it, those that are spelled so."""
        exact, alike = self._stems(str(folder))
        return exact.get(stem) or alike.get(spelling(stem), [])

    def below(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """The path of such parts, each spelled as it is there."""
        for part in parts:
            name = self.alike(folder, part)
            if name is None:
                return None
            folder = folder / name
        return folder

    def _by_spelling(self, folder: str) -> dict[str, list[str]]:
        table: dict[str, list[str]] = defaultdict(list)
        for name in self.names(folder):
            table[spelling(name)].append(name)
        return table

    def _by_stem(self, folder: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        exact: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names(folder)):
            exact[Path(name).stem].append(name)
        alike: dict[str, list[str]] = defaultdict(list)
        for stem, names in exact.items():
            alike[spelling(stem)] += names
        return dict(exact), dict(alike)


def spelling(name: str) -> str:
    """What is equal for the same name in another case, Unicode form or as part of an address."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _names(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):  # none, no folder, too long a name or no name at all
        return frozenset()


def _parts(written: str) -> list[str]:
    """The folders and the name of a path of any system, without drive and steps upwards."""
    path = LOCAL_FILES.sub("", written).replace("\\", "/")
    path = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:(//)?", "", path)
    path = path if "%2F" not in path.upper() else unquote(path)
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _words(part: str) -> tuple[str, ...]:
    """All words for the split that a folder or list is called by."""
    return next((words for words in SPLIT_WORDS if Path(part).stem.casefold() in words), ())


def _with_other_words(parts: list[str]) -> Iterator[list[str]]:
    yield parts
    for index, part in enumerate(parts):
        for word in _words(part):
            yield [*parts[:index], word + Path(part).suffix, *parts[index + 1 :]]


def _is_inside(path: Path, folders: Iterable[Path]) -> bool:
    whole = Path(os.path.normpath(os.path.abspath(path)))
    return any(whole.is_relative_to(os.path.abspath(folder)) for folder in folders)
