"""The file of a study: a line of JSON for each record, with a checksum that is asked when read."""

import json
import logging
import os
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import blaming, free_name
from flaxyolo.machine.locks import lock

log = logging.getLogger(__name__)

BLOCK = 1 << 20
MEND = "put back a copy of the file, or begin a study of another name"
SHOWN = 40
"""Bytes of a damaged record that are shown."""

_BEGIN = b'{"op_code":'
"""Of every record."""
_MARK = b',"crc":"'
_TAIL = len(_MARK) + len('01234567"}\n')
"""Bytes of the checksum's field with the end of its line."""


def opened(path: Path) -> JournalStorage:
    """The storage of a file; InputError with the place of the first record that is damaged."""
    # Absolute: a process may change its folder later on.
    resolved = str(path.resolve())
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path}: expected the file of a study, found no regular file; {MEND}")
    journal = CheckedJournal(resolved)
    try:
        return JournalStorage(journal)
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        # Of before there were checksums: JSON, but no record that can be.
        _refuse(resolved, *journal.place, f"{type(error).__name__}: {error}"[: 2 * SHOWN])


class CheckedJournal(JournalFileBackend):
    """A study's file whose lines each have a checksum; lines of before, without one, are read."""

    def __init__(self, path: str):
        self._path = path
        self._ends = {0: 0}
        self.place = 1, 0
        """Line and byte of the record that was read last."""
        super().__init__(path, lock_obj=JournalLock(path))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from this number on."""
        first = log_number_from if log_number_from in self._ends else 0
        begin = self._ends[first]
        with open(self._path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(begin)
            for number, line in enumerate(file, first):
                end = begin + len(line)
                # What another process is just writing is read the next time.
                if end > size or not line.endswith(b"\n"):
                    return
                self.place = number + 1, begin
                record = _record(line, self._path, *self.place)
                begin = self._ends[number + 1] = end
                if number >= log_number_from:
                    yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add records, each with its checksum."""
        text = b"".join(map(_line, logs))
        self._lock.acquire()
        try:
            with blaming(Path(self._path)), open(self._path, "ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._lock.release()


class JournalLock(JournalFileOpenLock):
    """Lets one process at a time append to a journal, each to whole lines.

    Unlike Optuna's locks the system lets go of it when its holder is killed. A half line, of a
    writer that was killed or had no disk left, would make the whole file unreadable with the next
    line that is appended to it.
    """

    def __init__(self, path: str):
        self._path = path
        self._file: int | None = None
        self.acquire()
        self.release()

    def acquire(self) -> bool:
        """Wait for the lock."""
        # What an interrupt left locked would keep this process waiting for itself.
        self.release()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(self._file)
            _cut_torn_line(self._file, Path(self._path))
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Let go of it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()[:-1]
    return b'%s%s%08x"}\n' % (body, _MARK, zlib.crc32(body))


def _record(line: bytes, path: str, number: int, place: int) -> dict[str, Any]:
    """The record of a line; InputError with its place where it is none, or another than written."""
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if tail.startswith(_MARK) and tail[len(_MARK) : -3] != b"%08x" % zlib.crc32(body):
        _refuse(path, number, place, f"another checksum than that of {_shown(line)}")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        _refuse(path, number, place, _shown(line))
    if not isinstance(record, dict) or "op_code" not in record:
        _refuse(path, number, place, _shown(line))
    return record


def _refuse(path: str, number: int, place: int, found: str) -> NoReturn:
    where = f"line {number} (byte {place})"
    raise InputError(
        f"{path}: expected the file of a study, found {found} in {where}; {MEND}"
    ) from None


def _shown(text: bytes) -> str:
    """The beginning of bytes, in one line."""
    if not text.strip(b"\0\n"):
        return f"{len(text.strip())} zero bytes"
    return repr(text[:SHOWN])[1:] + ("..." if len(text) > SHOWN else "")


def _cut_torn_line(file: int, path: Path) -> None:
    """Cut off what follows the last end of a line, which is kept in a file beside it."""
    size = os.fstat(file).st_size
    keep = _last_end(file, size)
    if keep == size:
        return
    begin = os.pread(file, len(_BEGIN), keep)
    if keep == 0 and begin != _BEGIN[: len(begin)]:
        # No record was ever here: it is no study that a crash has left.
        _refuse(str(path), 1, 0, _shown(os.pread(file, BLOCK, 0)))
    kept = free_name(path.with_name(f"{path.name}.cut-{keep}"))
    with blaming(kept), open(kept, "xb") as copy:
        for start in range(keep, size, BLOCK):
            copy.write(os.pread(file, BLOCK, start))
        copy.flush()
        os.fsync(copy.fileno())
    os.ftruncate(file, keep)
    log.warning("%s: its last record, of %d bytes, was cut short by a crash or a full disk; it is "
                "taken off and kept in %s", path, size - keep, kept.name)  # fmt: skip


def _last_end(file: int, size: int) -> int:
    """The byte after the last end of a line."""
    keep = size
    while keep:
        start = max(0, keep - 4096)
        found = os.pread(file, keep - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        keep = start
    return 0
