"""What a command hands over to its workers: a file of plain data, which runs nothing.

Images and weights are not in it. A worker reads them where the command has read them, and makes
sure that they are the same.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic.dataclasses import dataclass

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file
from flaxyolo.crew.alive import workers_folder
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.spec import STRICT, parse, to_dict
from flaxyolo.weights.transfer import Source, read_source

T = TypeVar("T")

TASK_FILE = "task.json"
FORMER = "task.pickle"
"""Of versions before, which is never read: a pickle may run anything."""


@dataclass(frozen=True, config=STRICT)
class NamedData:
    """A data set by where it is."""

    name: str
    """As `--data` takes it."""
    fingerprint: str

    @classmethod
    def of(cls, data: Dataset) -> "NamedData":
        """That of a data set."""
        return cls(data.name, data.fingerprint)

    def read(self) -> Dataset:
        """The data set; InputError where it is another one by now."""
        data = read_dataset(self.name)
        if data.fingerprint != self.fingerprint:
            raise InputError(f"{self.name}: expected the data that the command has read, found "
                             "others: they were changed since; start it once more")  # fmt: skip
        return data


@dataclass(frozen=True, config=STRICT)
class NamedDetector:
    """A detector by where its checkpoint is."""

    path: Path
    fingerprint: str

    @classmethod
    def of(cls, source: Source | None) -> "NamedDetector | None":
        """That of a detector that was read, if there is one."""
        return None if source is None else cls(source.path, source.fingerprint)

    def read(self) -> Source:
        """The detector; InputError where it is another one by now."""
        source = read_source(self.path)
        if source.fingerprint != self.fingerprint:
            raise InputError(f"{self.path}: expected the detector that the command has read, found "
                             "another: it was changed since; start it once more")  # fmt: skip
        return source


def write_task(folder: Path, task: Any) -> None:
    """Write a dataclass where the workers of a folder find it."""
    workers = workers_folder(folder)
    replace_file(workers / TASK_FILE, json.dumps(to_dict(task), indent=1))
    (workers / FORMER).unlink(missing_ok=True)


def read_task(folder: Path, kind: type[T]) -> T:
    """What was written there, checked against its type; InputError in a line where it is not."""
    path = folder / "workers" / TASK_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: expected what the command left there, found nothing; start it "
                         "once more") from None  # fmt: skip
    except (ValueError, RecursionError):
        raise InputError(f"{path}: expected JSON, found something else; start the command once "
                         "more, which writes it anew") from None  # fmt: skip
    return parse(kind, content, str(path))
