"""The table of a study, for people and for programs: a pure function of its results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from flaxyolo.base.files import replace_file
from flaxyolo.search.results import INTERRUPTED, TrialResult, merit
from flaxyolo.search.spending import FINAL
from flaxyolo.spec import to_dict

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


@dataclass(frozen=True)
class Report:
    """Results with what they are about: the data, and the budget in words."""

    results: tuple[TrialResult, ...]
    data: str
    budget: str
    told: tuple[str, ...] = ()
    """What the table does not show: the funnel, the finalists, how the advice did; a line each."""

    def caption(self) -> str:
        """Budget, device, dtype, batch size and data: without them the figures mean nothing."""
        cost = next((result.cost for result in self.results if result.cost), None)
        where = (
            "nothing was measured"
            if cost is None
            else f"{cost.device}, {cost.dtype}, batch {cost.batch_size}"
        )
        return f"Budget: {self.budget}; {where}; data: {self.data}"


def ranked(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Best first: complete by objective, then by epochs reached, then by latency."""

    def place(result: TrialResult) -> tuple[Any, ...]:
        latency = float("inf") if result.cost is None else result.cost.latency_ms_p95
        if result.state == "complete":
            return (0 if result.stage == FINAL else 0.5, *merit(result))
        if result.state in ("fail", "running", "waiting"):
            return (4, result.number, 0.0)
        if result.duplicate_of is not None:
            return (3, result.number, 0.0)
        if result.over_budget:
            return (2, latency, 0.0)
        return (1, -result.epochs, -(result.objective or 0.0))

    return sorted(results, key=place)


def rows(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """A plain dict per trial, best first; the keys of `cost` and `scores` are those of the
    commands `measure` and `evaluate`."""
    return [
        {
            "number": result.number,
            "state": result.state,
            "reason": result.reason,
            "stage": result.stage,
            "finalist": result.finalist,
            "seed": result.seed,
            "origin": result.origin,
            "predicted_ms": result.predicted_ms,
            "objective": result.objective,
            "epochs": result.epochs,
            "spec": None if result.spec is None else to_dict(result.spec),
            "cost": None if result.cost is None else result.cost.to_dict(),
            "scores": None if result.scores is None else dict(result.scores),
            "history": [dict(row) for row in result.history],
            "seconds": dict(result.seconds),
            "params": dict(result.params),
        }
        for result in ranked(results)
    ]


def flat_rows(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """One flat row per trial, best first, for plots and data frames."""
    return [
        {
            "number": result.number,
            "state": result.state,
            "note": note(result),
            "objective": result.objective,
            "epochs": result.epochs,
            "over_budget": result.over_budget or result.refuted,
            **{key: (result.scores or {}).get(key) for key in SCORE_COLUMNS.values()},
            **{key: getattr(result.cost, key, None) for key, _ in COST_COLUMNS.values()},
        }
        for result in ranked(results)
    ]


def cells(results: Sequence[TrialResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and the text of every cell; n/a is a score of a size without objects."""
    headings = ["trial", *SCORE_COLUMNS, *COST_COLUMNS, "note"]
    table = []
    for row in flat_rows(results):
        scored = row["objective"] is not None
        line = [str(row["number"])]
        for key in SCORE_COLUMNS.values():
            value = row[key]
            line.append(f"{value:.3f}" if value is not None else "n/a" if scored else "-")
        for key, form in COST_COLUMNS.values():
            line.append("-" if row[key] is None else format(row[key], form))
        table.append([*line, row["note"]])
    return headings, table


def note(result: TrialResult) -> str:
    """What became of a trial, in words, and why it was tried if it was not drawn."""
    return f"{result.origin}: {_fate(result)}" if result.origin else _fate(result)


def outcome(result: TrialResult) -> str:
    """What became of a trial, with its figures, in a line."""
    parts = [note(result)]
    if result.scores is not None and result.objective is not None:
        parts += [
            f"mAP {result.scores['map'] or 0.0:.3f}",
            f"mAP50 {result.scores['map_50'] or 0.0:.3f}",
        ]
    if result.cost is not None:
        parts.append(f"{result.cost.latency_ms_p95:.2f} ms p95")
    return ", ".join(parts)


def _fate(result: TrialResult) -> str:
    if result.state == "waiting" and result.paused is not None:
        return f"paused after {result.paused} epochs"
    if result.state == "complete":
        return f"complete, {result.epochs} epochs"
    if result.state == "fail" and result.reason != INTERRUPTED:
        return f"failed: {result.reason or 'no reason stored'}"
    return result.reason or result.state


def table(report: Report) -> Table:
    """The table for a terminal, best first."""
    headings, lines = cells(report.results)
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
    headings, lines = cells(report.results)
    rule = ["---:"] * (len(headings) - 1) + ["---"]
    body = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table_lines = [f"| {' | '.join(line)} |" for line in (headings, rule, *body)]
    told = ["", *(f"- {line}" for line in report.told)]
    return "\n".join([report.caption(), "", *table_lines, *(told if report.told else []), ""])


def write(report: Report, folder: Path) -> None:
    """Write `trials.md` and `trials.json`, each whole or not at all."""
    replace_file(folder / "trials.md", markdown(report))
    replace_file(folder / "trials.json", json.dumps(rows(report.results), indent=1) + "\n")
