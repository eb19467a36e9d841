"""What every command shares: flags, the one line for bad input, exit codes, and logs on stderr."""

import errno
import io
import logging
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flaxyolo.base.errors import InputError
from flaxyolo.base.limits import reading
from flaxyolo.base.urls import without_password

T = TypeVar("T")
F = TypeVar("F")

DeviceName = Annotated[str | None, tyro.conf.arg(metavar="DEVICE")]
"""Type of the flag `--device`."""

MaxPixels = Annotated[
    int | None,
    tyro.conf.arg(
        metavar="PIXELS",
        help="Most pixels of an image that is decoded, by its header (62000000); memory grows with "
        "the largest.",
    ),
]
"""Type of the flag `--max-pixels`."""
AllowOutside = Annotated[
    bool,
    tyro.conf.arg(
        help="Read images and labels that lead out of the data set: by links of files, by whole "
        "paths in annotations, by steps upwards.",
    ),
]
"""Type of the flag `--allow-outside`."""

CONSOLE = Console(stderr=True, highlight=False)
"""Logs and progress bars share it, so that a log line does not tear a bar."""

BAD_INPUT = 2
INTERRUPTED = 130
CLOSED_PIPE = 141


def parse(kind: type[T], argv: Sequence[str] | None, *, prog: str, description: str) -> T:
    """Read flags into a frozen dataclass; a wrong flag is named and ends the process with 2.

    A field marked `tyro.conf.Positional` is an argument without a flag, a bool is a flag
    without a value, and the docstring under a field is its help.
    """
    print_anything()
    words = sys.argv[1:] if argv is None else list(argv)
    read = partial(
        tyro.cli, kind, prog=prog, description=description, config=(tyro.conf.FlagCreatePairsOff,)
    )
    shown = [without_password(word) for word in words]
    if shown == words:
        return read(args=words)
    try:
        return read(args=words, console_outputs=False)
    except SystemExit as ended:
        # What is wrong of them is told once more, of words that may be shown.
        read(args=shown)
        raise ended from None


def run(command: Callable[[], object], *, output: Path | None = None, resumes: bool = False) -> int:
    """Run a command's body and return the exit code; what a user can mend is said in one line.

    `output` is the folder to name when a disk is full, and `resumes` says that the same command
    goes on where an interrupted one stopped.
    """
    print_anything()
    log_to_stderr()
    try:
        command()
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if resumes else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        line = storage_failure(error, output)
        if line is None:
            raise
        goes_on = ", then the same command goes on" if resumes else ""
        return _fail(f"{line}{goes_on}")
    return 0


def within_limits(body: Callable[[F], T]) -> Callable[[F], T]:
    """A command's body, under what its flags `--max-pixels` and `--allow-outside` say."""

    @wraps(body)
    def call(flags: F) -> T:
        pixels: int | None = getattr(flags, "max_pixels", None)
        with reading(pixels, getattr(flags, "allow_outside", False)):
            return body(flags)

    return call


def print_anything() -> None:
    """Let stdout write a `?` for what its encoding lacks, as in a terminal that is not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def command_line(name: str, *arguments: object) -> str:
    """A command of this package as it can be typed into a shell, whatever its paths hold."""
    return shlex.join(["python", "-m", f"flaxyolo.{name}", *map(str, arguments)])


def given(flags: Any) -> list[str]:
    """The words of a command that give these flags, those left out that are as ever."""
    words: list[str] = []
    for each in fields(flags):
        value = getattr(flags, each.name)
        if value == each.default:
            continue
        name = each.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            short = f"{value:g}" if isinstance(value, float) else str(value)
            exact = not isinstance(value, float) or float(short) == value
            words += [f"--{name}", short if exact else repr(value)]
    return words


def steps_bar() -> Progress:
    """A bar on stderr for a training's steps, with the time left; shown in a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} steps"),
        TimeRemainingColumn(),
        console=CONSOLE,
        disable=not CONSOLE.is_terminal,
    )


def tables_console(piped: int) -> Console:
    """For tables on stdout, of the terminal's width, or at least `piped` columns in a file or pipe.

    What it prints is text as it stands: names may hold brackets.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, piped)
    return console


def least_one(flags: object, *names: str) -> None:
    """InputError where one of these numbers is given, and below 1."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")


def folder_name(flag: str, name: str) -> str:
    """The name that a flag gives to a folder in --out; InputError where it leads elsewhere."""
    if name in ("", ".", "..") or set(name) & set("/\\"):
        raise InputError(
            f"{flag}: expected a name without slashes, got {name!r}; "
            "--out names the folder it lies in"
        )
    return name


def duration(seconds: float) -> str:
    """A time for people, such as 45 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def storage_failure(error: BaseException, output: Path | None = None) -> str | None:
    """One line if a full or read-only disk is behind `error` or in its chain, otherwise None."""
    for cause in _chain(error):
        problem = _problem(cause)
        if problem is not None:
            place = _path_of(cause) or output or "the output folder"
            return f"{place}: {DISK_PROBLEMS[problem]}"
    return None


def disk_problem(error: BaseException) -> int | None:
    """The errno of a full or read-only disk behind `error` or in its chain, otherwise None."""
    found = (_problem(cause) for cause in _chain(error))
    return next((problem for problem in found if problem is not None), None)


def _problem(cause: BaseException) -> int | None:
    text = str(cause)
    if isinstance(cause, OSError):
        return cause.errno if cause.errno in DISK_PROBLEMS else None
    if isinstance(cause, sqlite3.OperationalError) and "readonly" in text:
        return errno.EROFS
    # Writers in C++ and SQLite report the disk in the text of exceptions of their own.
    return errno.ENOSPC if any(mark in text for mark in FULL_MARKS) else None


def log_to_stderr() -> None:
    """Show this package's log from INFO on, on stderr; calling it again changes nothing."""
    logger = logging.getLogger("flaxyolo")
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(_ConsoleHandler())
        logger.setLevel(logging.INFO)
        # absl, imported by Orbax, gives the root logger a handler, which would print lines again.
        logger.propagate = False


class _ConsoleHandler(logging.Handler):
    """Log lines above a running progress bar, unwrapped, so that paths can be copied."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        CONSOLE.print(prefix + self.format(record), style=style, markup=False, soft_wrap=True)


def _fail(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return BAD_INPUT


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on; each once."""
    seen, todo = set(), [error]
    while todo:
        current = todo.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        todo += [cause for cause in (current.__cause__, current.__context__) if cause is not None]
        if isinstance(current, BaseExceptionGroup):
            todo += current.exceptions


def _path_of(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return None if error.filename is None else str(error.filename)
    quoted = re.search(r"""["'](?:file://)?(/[^"']+)["']""", str(error))
    return quoted and quoted[1]


DISK_PROBLEMS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "cannot write here: read-only; name another folder",
    errno.EACCES: "permission denied; name another folder or change its permissions",
    errno.EPERM: "permission denied; name another folder or change its permissions",
}

FULL_MARKS = ("No space left on device", "ENOSPC", "database or disk is full")
