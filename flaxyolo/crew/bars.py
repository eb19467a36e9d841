"""The bars of a command that watches worker processes: one in all, and one for each of them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from flaxyolo.base import cli
from flaxyolo.crew.leases import workers_folder


class Bars:
    """Shown in a terminal only; `columns` come between the bar and the time."""

    def __init__(self, folder: Path, workers: int, columns: tuple[ProgressColumn, ...] = ()):
        self.folder = folder
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *columns,
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=cli.CONSOLE,
            disable=not cli.CONSOLE.is_terminal,
        )
        self.total = self.bar.add_task("starting", total=1, left="", best="")
        self.rows = [
            self.bar.add_task(f"worker {index}", total=1, left="", best="")
            for index in range(workers)
        ]

    @property
    def hidden(self) -> bool:
        """Whether there is no terminal to draw in."""
        return self.bar.disable

    def __enter__(self) -> "Bars":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def draw(
        self, description: str, done: int, of: int, named: Callable[[int], str], **fields: Any
    ) -> None:
        """Bring all bars up to date; `named` says what the trial of a number is called."""
        self.bar.update(self.total, description=description, completed=done, total=of, **fields)
        for index, row in enumerate(self.rows):
            status = self._status(index)
            trial = status.get("trial")
            what = f"worker {index}: " + ("" if trial is None else f"{named(trial)}, ")
            what += status.get("name", "starting")
            if status.get("total"):
                what += f", epoch {int(status['done']) + 1} of {status['total']}"
            self.bar.update(
                row,
                description=what,
                completed=status.get("done", 0),
                total=status.get("total") or 1,
            )

    def _status(self, index: int) -> dict[str, Any]:
        path = workers_folder(self.folder) / f"status-{index}.json"
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
