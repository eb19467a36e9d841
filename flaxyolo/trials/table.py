"""The table of a study, for people and for programs: a pure function of its standings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from flaxyolo.base.files import replace_file
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import INTERRUPTED, Record
from flaxyolo.spec import to_dict
from flaxyolo.trials.standings import Standings

SCORE_COLUMNS = {
    "mAP": "map",
    "mAP50": "map_50",
    "mAP_s": "map_small",
    "mAP_m": "map_medium",
    "mAP_l": "map_large",
}
COST_COLUMNS = {
    "p50 ms": ("latency_ms_p50", ".2f"),
    "p95 ms": ("latency_ms_p95", ".2f"),
    "FPS": ("fps", ".0f"),
    "MiB": ("vram_mib", ".1f"),
    "train MiB": ("train_vram_mib", ".0f"),
    "params": ("params", ",d"),
    "GFLOPs": ("gflops", ".3f"),
    "px": ("image_size", "d"),
}


@dataclass(frozen=True, eq=False)
class Report:
    """Standings with what they are about."""

    standings: Standings
    data: str
    told: tuple[str, ...] = ()
    """What the table does not show: the funnel, the finalists, how the advice did; a line each."""

    def caption(self) -> str:
        """Budget, device, dtype, batch size and data: without them the figures mean nothing."""
        costs = (record.cost for record in self.standings.records)
        cost = next((cost for cost in costs if cost), None)
        where = (
            "nothing was measured"
            if cost is None
            else f"{cost.device}, {cost.dtype}, batch {cost.batch_size}"
        )
        return f"Budget: {self.standings.budget.describe()}; {where}; data: {self.data}"


def rows(standings: Standings) -> list[dict[str, Any]]:
    """A plain dict per trial, best first; the keys of `cost` and `scores` are those of the
    commands `measure` and `evaluate`."""
    return [
        {
            "number": record.number,
            "state": record.state,
            "reason": record.reason,
            "stage": record.stage,
            "finalist": record.finalist,
            "seed": record.seed,
            "origin": record.origin,
            "predicted_ms": record.predicted_ms,
            "objective": record.objective,
            "epochs": record.epochs,
            "spec": None if record.spec is None else to_dict(record.spec),
            "cost": None if record.cost is None else record.cost.to_dict(),
            "scores": None if record.scores is None else record.scores.to_dict(),
            "history": [point.to_dict() for point in record.history],
            "seconds": dict(record.seconds),
            "params": dict(record.params),
        }
        for record in standings.ranked
    ]


def flat_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One flat row per trial, for plots and data frames."""
    return [
        {
            "number": record.number,
            "state": record.state,
            "note": note(record),
            "objective": record.objective,
            "epochs": record.epochs,
            "over_budget": record.over_budget or record.refuted,
            **{key: getattr(record.scores, key, None) for key in SCORE_COLUMNS.values()},
            **{key: getattr(record.cost, key, None) for key, _ in COST_COLUMNS.values()},
        }
        for record in records
    ]


def cells(standings: Standings) -> tuple[list[str], list[list[str]]]:
    """Headings and the text of every cell; n/a is a score of a size without objects."""
    headings = ["trial", *SCORE_COLUMNS, *COST_COLUMNS, "note"]
    table = []
    for row in flat_rows(standings.ranked):
        scored = row["objective"] is not None
        line = [str(row["number"])]
        for key in SCORE_COLUMNS.values():
            value = row[key]
            line.append(f"{value:.3f}" if value is not None else "n/a" if scored else "-")
        for key, form in COST_COLUMNS.values():
            line.append("-" if row[key] is None else format(row[key], form))
        table.append([*line, row["note"]])
    return headings, table


def note(record: Record) -> str:
    """What became of a trial, in words, and why it was tried if it was not drawn."""
    return f"{record.origin}: {_fate(record)}" if record.origin else _fate(record)


def outcome(record: Record, budget: Budget) -> str:
    """What became of a trial, with its figures, in a line; the latency is the budget's."""
    parts = [note(record)]
    if record.scores is not None and record.objective is not None:
        parts += [
            f"mAP {record.scores.map or 0.0:.3f}",
            f"mAP50 {record.scores.map_50 or 0.0:.3f}",
        ]
    if record.cost is not None:
        parts.append(f"{budget.latency_of(record.cost):.2f} ms {budget.latency_stat}")
    return ", ".join(parts)


def _fate(record: Record) -> str:
    if record.state == "waiting" and record.paused is not None:
        return f"paused after {record.paused} epochs"
    if record.state == "complete":
        return f"complete, {record.epochs} epochs"
    if record.state == "fail" and record.reason != INTERRUPTED:
        return f"failed: {record.reason or 'no reason stored'}"
    return record.reason or record.state


def table(report: Report) -> Table:
    """The table for a terminal, best first."""
    headings, lines = cells(report.standings)
    shown = Table(box=box.SIMPLE_HEAD, caption=report.caption(), caption_justify="left")
    for heading in headings:
        if heading == "note":
            shown.add_column(heading, overflow="fold", min_width=20)
        else:
            shown.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        shown.add_row(*line)
    return shown


def markdown(report: Report) -> str:
    """The table as Markdown, best first."""
    headings, lines = cells(report.standings)
    rule = ["---:"] * (len(headings) - 1) + ["---"]
    body = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table_lines = [f"| {' | '.join(line)} |" for line in (headings, rule, *body)]
    told = ["", *(f"- {line}" for line in report.told)]
    return "\n".join([report.caption(), "", *table_lines, *(told if report.told else []), ""])


def write(report: Report, folder: Path) -> None:
    """Write `trials.md` and `trials.json`, each whole or not at all."""
    replace_file(folder / "trials.md", markdown(report))
    replace_file(folder / "trials.json", json.dumps(rows(report.standings), indent=1) + "\n")
