"""Files that are never seen half-written, and YAML with its errors in one line."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import YAML, load_yaml, read_file


def beside(path: Path) -> Path:
    """A hidden name next to a file or folder, which no other process has."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what shall be at `path`, a file or a folder: it is there whole or not at all.

    At the end it is renamed, which an empty folder and any file make way for; after an error it is
    removed.
    """
    partial = beside(path)
    try:
        with blaming(path):
            yield partial
            partial.replace(path)
    except BaseException:
        remove(partial)
        raise


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Let an error of the disk that names no file name this one: a write that fails names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink(missing_ok=True)


def make_room(path: Path) -> Path | None:
    """Move what is no regular file away from the place of one; where to, None if it need not."""
    if not os.path.lexists(path) or path.is_file():
        return None
    return set_aside(path)


def set_aside(path: Path) -> Path:
    """Rename what is damaged, whatever it is, to a name beside it; returns that."""
    aside = free_name(path.with_name(f"{path.name}.damaged"))
    os.rename(path, aside)
    return aside


def free_name(path: Path) -> Path:
    """This name, or with a number where something has it."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text is UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def read_yaml(path: Path, what: str, loader: Any = yaml.SafeLoader) -> Any:
    """The content of a YAML file; InputError in one line names the file, and the line if known."""
    try:
        return load_yaml(read_file(path, YAML).decode(), loader)
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected a YAML {what} in UTF-8, got other bytes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}"
        ) from None


def comment(text: str) -> str:
    """Lines of YAML that say nothing to a program."""
    return "".join(f"# {line}\n" for line in text.splitlines())


def cache_root(cache_dir: Path | None) -> Path:
    """The folder of all caches: `cache_dir`, or $FLAXYOLO_CACHE, or ~/.cache/flaxyolo."""
    root = cache_dir or Path(os.environ.get("FLAXYOLO_CACHE") or "~/.cache/flaxyolo")
    root = root.expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{root}: expected a folder for the cache that can be written, got: "
            f"{error.strerror}; name another one in FLAXYOLO_CACHE"
        ) from None
    return root
