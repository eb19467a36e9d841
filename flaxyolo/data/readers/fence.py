"""Which files a data set may name: those in its own folders.

A folder that is a link belongs to it, wherever it leads: so large disks are attached, and so an
`images` folder is shared. A file that is a link out of the data set, or a name with `..` or a whole
path that leads out, is not read unless `--allow-outside` says so. Whole paths are as good as others
where the description of the data set is a list of them (Ultralytics, Darknet), and in annotations
that this user's own `--repair` has written.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flaxyolo.base.files import cache_root, replace_file
from flaxyolo.base.limits import allow_outside
from flaxyolo.base.reading import LABELS, read_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outside:
    """An image that lies outside of its data set, and so is not read."""

    path: Path

    @property
    def name(self) -> str:
        """How a message names it."""
        return str(self.path)

    def read(self) -> bytes:
        """OSError, always."""
        raise OSError(errno.EXDEV, OUTSIDE, str(self.path))


OUTSIDE = "it leads out of the data set; --allow-outside reads it"


class Fence:
    """The folders of a data set."""

    def __init__(self, folders: Iterable[Path]):
        self._real = cache(_real)
        self._place = cache(self._seen)
        self._open = allow_outside()
        self.folders = dict.fromkeys(
            path for folder in folders for path in (os.path.abspath(folder), self._real(folder))
        )

    def leads_out(self, path: Path, *, whole: bool = False) -> bool:
        """Whether a file is not of the data set; with `whole`, its folder may be anywhere.

        A file that is not there leads nowhere.
        """
        if self._open:
            return False
        try:
            # As texts, which a set of COCO's size has in a fifth of the time.
            text = str(path)
            folder, is_inside = self._place(os.path.dirname(text) or os.curdir)
            if not whole and not is_inside:
                return os.path.exists(text)
            if not os.path.islink(text):
                return False
            target = os.path.realpath(text)
            return os.path.exists(target) and not (
                _below(target, [folder]) or _below(target, self.folders)
            )
        except (OSError, ValueError):  # a name that no file can have
            return False

    def image(self, path: Path, *, whole: bool = False) -> Path | Outside:
        """The path, or what stands for an image that leads out."""
        return Outside(path) if self.leads_out(path, whole=whole) else path

    def read(self, path: Path, most: int = LABELS) -> bytes:
        """The bytes of a file of labels; OSError where there are none, or it leads out.

        Its folder is one that the reader has found by itself.
        """
        if self.leads_out(path, whole=".." not in path.parts):
            raise OSError(errno.EXDEV, OUTSIDE, str(path))
        try:
            return read_file(path, most)
        except ValueError:  # a zero byte in the name, or half a character
            raise OSError(errno.EINVAL, "no file has such a name", str(path)) from None

    def _seen(self, folder: str) -> tuple[str, bool]:
        """Where a folder leads, and whether it is one of the data set."""
        real = self._real(folder)
        # Behind a link, a step upwards leads elsewhere than it reads.
        plain = ".." not in folder.split(os.sep) and _below(os.path.abspath(folder), self.folders)
        return real, plain or _below(real, self.folders)


def vouch_for(content: bytes, cache_dir: Path | None = None) -> None:
    """Note in this user's cache that annotations are our own, whole paths and all."""
    path = _note_of(hashlib.sha256(content).hexdigest(), cache_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "")


def is_vouched_for(digest: str, cache_dir: Path | None = None) -> bool:
    """Whether this user's own command has written annotations of this sha256, in hex."""
    return _note_of(digest, cache_dir).is_file()


def _note_of(digest: str, cache_dir: Path | None) -> Path:
    return cache_root(cache_dir) / "repaired" / digest


def _real(path: Path | str) -> str:
    return os.path.realpath(path)


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip(os.sep) + os.sep) for one in folders)
