"""What is to be detected in: files, folders, patterns, lists, videos and standard input."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import expanded, read_lines
from flaxyolo.base.words import many
from flaxyolo.data.readers.listing import files_below, is_image, named

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv")
"""What a video may end in, in either case."""
STANDARD_INPUT = "-"
LONGEST_NAME = 100
"""Letters of a name that is given to an output."""


class Problem(NamedTuple):
    """An input that cannot be read."""

    name: str
    why: str


@dataclass(frozen=True)
class Source:
    """One image or video."""

    path: Path | None
    """None: an image on standard input."""
    inside: str
    """Its path below what was named, with slashes."""
    key: str
    """Of its outputs: `inside` without the suffix, and like that of no other."""

    @property
    def video(self) -> bool:
        """Whether it is a video by its name."""
        return self.path is not None and is_video(self.path)

    @property
    def name(self) -> str:
        """How messages and tables name it."""
        return "standard input" if self.path is None else str(self.path)


@dataclass
class Found:
    """What the words of a command name."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """A line for each kind of files that nobody asked for."""


class _Named(NamedTuple):
    path: Path | None
    inside: PurePath


def is_video(path: Path) -> bool:
    """Whether a file is named like a video."""
    return path.suffix.lower() in VIDEOS


def find_sources(words: Sequence[str]) -> Found:
    """All images and videos that the words name, in their order, each file once.

    A word is a file, a folder with all below it, a pattern such as `in/**/*.jpg`, a text file with
    a path a line, or `-`.
    """
    found, seen, keys = Found(), set[str](), set[str]()
    double = 0
    for word in words:
        for path, inside in _expanded(word, found):
            real = STANDARD_INPUT if path is None else os.path.realpath(path)
            if real in seen:
                double += 1
                continue
            seen.add(real)
            found.sources.append(Source(path, inside.as_posix(), _key(inside, keys)))
    if double:
        found.left_out.append(f"{double} named more than once: taken once")
    return found


def _key(inside: PurePath, keys: set[str]) -> str:
    """A name that differs from all others, also where capitals are not told apart."""
    stem = inside.stem[:LONGEST_NAME]
    name, number = stem, 1
    while (key := (inside.parent / name).as_posix()).casefold() in keys:
        number += 1
        name = f"{stem}-{number}"
    keys.add(key.casefold())
    return key


def _expanded(word: str, found: Found) -> Iterator[_Named]:
    """The files that a word names; what it names beside them is noted."""
    if word == STANDARD_INPUT:
        yield _Named(None, PurePath("stdin.png"))
        return
    path = expanded(word)
    if os.path.isdir(path):
        yield from _folder(path, found)
    elif os.path.isfile(path) and path.suffix.lower() == ".txt":
        yield from _listed(path, found)
    elif os.path.isfile(path):
        yield _Named(path, PurePath(path.name))
    elif glob.has_magic(word):
        yield from _matching(path, found)
    else:
        there = os.path.lexists(path)
        why = (
            "expected a file or folder, found neither"
            if there
            else "there is no such file or folder"
        )
        found.problems.append(Problem(word, why))


def _folder(folder: Path, found: Found) -> Iterator[_Named]:
    try:
        images, texts, others, litter = files_below(folder)
    except InputError as error:
        found.problems.append(Problem(str(folder), str(error).removeprefix(f"{folder}: ")))
        return
    videos = [path for path in others if is_video(path)]
    videos = [path for path in videos if os.path.isfile(path)]
    rest = sorted([*texts, *litter, *(path for path in others if path not in set(videos))])
    _note_rest(str(folder), rest, found)
    if not images and not videos:
        found.problems.append(Problem(str(folder), "the folder holds no image and no video"))
    for path in sorted([*images, *videos]):
        yield _Named(path, path.relative_to(folder))


def _matching(pattern: Path, found: Found) -> Iterator[_Named]:
    plain = list(pattern.parts)
    first = next(place for place, part in enumerate(plain) if glob.has_magic(part))
    root = Path(*plain[:first])
    matches = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]
    files = [path for path in matches if os.path.isfile(path)]
    taken = [path for path in files if is_image(path) or is_video(path)]
    _note_rest(str(pattern), [path for path in files if path not in set(taken)], found)
    if not taken:
        found.problems.append(Problem(str(pattern), "no image and no video has such a name"))
    for path in taken:
        yield _Named(path, path.relative_to(root))


def _listed(listing: Path, found: Found) -> Iterator[_Named]:
    """A path a line, from the folder of the list, or from the working folder."""
    try:
        names = [line for line in read_lines(listing, "the list of paths") if line]
    except InputError as error:
        found.problems.append(Problem(str(listing), str(error).removeprefix(f"{listing}: ")))
        return
    if not names:
        found.problems.append(Problem(str(listing), "the list names no file"))
    for name in names:
        here = listing.parent / name
        path = here if os.path.isfile(here) else Path(name)
        if not os.path.isfile(path):
            found.problems.append(Problem(name, f"listed in {listing}, but there is no such file"))
            continue
        way = PurePath(os.path.normpath(name))
        beside = way.is_absolute() or ".." in way.parts
        yield _Named(path, PurePath(way.name) if beside else way)


def _note_rest(where: str, rest: Sequence[Path], found: Found) -> None:
    if rest:
        names = named([path.name for path in rest])
        found.left_out.append(f"{where}: left out {many(len(rest), 'other file')}: {names}")
