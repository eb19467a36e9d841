"""The epochs of a run as lines, as a table for other programs, and as a curve."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flaxyolo.base.charts import DPI, save_figure
from flaxyolo.base.files import replace_file

LOSSES = ("box", "cls", "dfl")
TAUGHT = ("taught_cls", "taught_box", "taught_features")
"""Of a run with a teacher."""
SCORES = {"map": "mAP50-95", "map_50": "mAP50"}


@dataclass(frozen=True)
class Record:
    """The epochs of a run, a JSON line each; an epoch done again replaces its line."""

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """All epochs so far, in order."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def clear(self) -> None:
        """Forget all epochs, those of a run that began here before."""
        self.path.unlink(missing_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch, dropping what an interrupted run wrote from it on."""
        kept = [old for old in self.rows() if old["epoch"] < row["epoch"]]
        replace_file(self.path, "".join(json.dumps(r) + "\n" for r in [*kept, row]))


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A line for each epoch; a score is empty where the epoch was not evaluated."""
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue())


def draw_curve(rows: Sequence[dict[str, Any]], path: Path, title: str = "") -> None:
    """Losses and average precision against the epochs."""
    figure = Figure(figsize=(9, 3.8), dpi=DPI, layout="constrained")
    parts: Any = figure.subplots(1, 2)
    left, right = parts
    taught = any(TAUGHT[0] in row for row in rows)
    for name in LOSSES + TAUGHT * taught:
        left.plot([r["epoch"] for r in rows], [r[name] for r in rows], ".-", label=name)
    left.set(xlabel="epoch", ylabel="mean loss, before gains")
    # None where there was nothing to score.
    scored = [row for row in rows if row.get("map") is not None]
    for key, name in SCORES.items():
        right.plot([r["epoch"] for r in scored], [r[key] for r in scored], ".-", label=name)
    right.set(xlabel="epoch", ylabel="average precision, validation")
    right.set_ylim(bottom=0)
    right.set_xlim(left.get_xlim())
    for axes in parts:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
