"""The table of a study, for people and for programs: a pure function of its standings."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from flaxyolo.base.files import replace_file
from flaxyolo.base.words import many
from flaxyolo.cost.budget import LIMITS, MEMORIES, Budget
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.record import FINAL, INTERRUPTED, Record
from flaxyolo.search.finalists import leads
from flaxyolo.spec import to_dict
from flaxyolo.trials.networks import Network
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


BUSY = " !"
"""Behind a latency that was taken on a busy machine."""


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
            else f"{cost.device}, {cost.engine}, {cost.dtype}, batch {cost.batch_size}"
            f"{cost.elsewhere()}"
        )
        busy = any(network.shown.cost.busy for network in self.standings.networks
                   if network.shown.cost)  # fmt: skip
        mark = "; !: taken on a busy machine" if busy else ""
        return f"Budget: {self.standings.budget.describe()}; {where}; data: {self.data}{mark}"


def rows(standings: Standings) -> list[dict[str, Any]]:
    """A plain dict for each network, best first; the keys of `cost` and `scores` are those of the
    commands `measure` and `evaluate`."""
    return [
        {
            "number": network.number,
            "state": network.state,
            "note": network.note(),
            "origin": network.candidate.origin,
            "control": network.control,
            "lead": _leads(standings) if network.best and network.best is standings.best else None,
            "predicted_ms": network.candidate.predicted_ms,
            "objective": network.objective,
            "half_width": network.half_width,
            "objective_se": network.objective_se,
            "epochs": network.epochs,
            "spec": _plain(network.candidate.spec and to_dict(network.candidate.spec)),
            "cost": _plain(network.shown.cost and network.shown.cost.to_dict()),
            "scores": network.scores or None,
            "seconds": network.seconds,
            "params": dict(network.candidate.params),
            "runs": [_run_row(run) for run in (network.candidate, *network.runs)],
        }
        for network in standings.ranked
    ]


def _leads(standings: Standings) -> list[dict[str, Any]]:
    return [asdict(lead) for lead in leads(standings.finalists, standings.records)]


def _run_row(record: Record) -> dict[str, Any]:
    return {
        "run": record.run,
        "stage": record.stage,
        "seed": record.seed,
        "state": record.state,
        "reason": record.reason,
        "objective": record.objective,
        "objective_se": record.objective_se,
        "epochs": record.epochs,
        "cost": _plain(record.cost and record.cost.to_dict()),
        "scores": _plain(record.scores and record.scores.to_dict()),
        "history": [point.to_dict() for point in record.history],
        "seconds": dict(record.seconds),
    }


def _plain(value: dict[str, Any] | None) -> dict[str, Any] | None:
    return value or None


def flat_rows(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """One flat row for each network, for plots and data frames."""
    return [
        {
            "number": network.number,
            "state": network.state,
            "note": network.note(),
            "objective": network.objective,
            "half_width": network.half_width,
            "objective_se": network.objective_se,
            "epochs": network.epochs,
            "over_budget": network.over_budget,
            "busy": network.shown.cost is not None and network.shown.cost.busy,
            **{key: network.scores.get(key) for key in SCORE_COLUMNS.values()},
            **{key: getattr(network.shown.cost, key, None) for key, _ in COST_COLUMNS.values()},
        }
        for network in networks
    ]


def cells(standings: Standings) -> tuple[list[str], list[list[str]]]:
    """Headings and the text of every cell; n/a is a score of a size without objects.

    SE is the objective's standard error over the validation images; ± is over seeds.
    """
    headings = ["trial", "objective", "SE", *SCORE_COLUMNS, *COST_COLUMNS, "note"]
    table = []
    # What waits has no figures yet.
    begun = [network for network in standings.ranked if network.state != "waiting"]
    for row in flat_rows(begun):
        value, wide = row["objective"], row["half_width"]
        told = "-" if value is None else f"{value:.3f}" + (f" ± {wide:.3f}" if wide else "")
        error = row["objective_se"]
        line = [str(row["number"]), told, "-" if error is None else f"{error:.3f}"]
        for key in SCORE_COLUMNS.values():
            score = row[key]
            line.append(f"{score:.3f}" if score is not None else "-" if value is None else "n/a")
        for key, form in COST_COLUMNS.values():
            mark = BUSY if key == "latency_ms_p95" and row["busy"] else ""
            line.append("-" if row[key] is None else format(row[key], form) + mark)
        table.append([*line, row["note"]])
    return headings, table


def best_found(network: Network) -> str:
    """The best network with its scores, the mean over its runs."""
    origin, wide = network.candidate.origin, network.half_width
    scores = {name: network.scores.get(key) for name, key in SCORE_COLUMNS.items()}
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if value is not None)
    runs = len(network.scored)
    return (
        f"Best: trial {network.number}" + (f" ({origin})" if origin else "") + f", {told}; "
        f"objective {network.objective or 0:.3f}" + (f" ± {wide:.3f}" if wide else "")
        + f", {many(runs, 'seed')} of {many(network.epochs, 'epoch')}"
    )  # fmt: skip


def costs(cost: Measurement, budget: Budget) -> str:
    """What the best network costs, each limit with its share."""
    known, parts = budget.known(cost), []
    for name, value in known.items():
        size, unit, decimals = LIMITS[name]
        limit = budget.limits[name]
        stat = f" {budget.latency_stat}" if name == "latency_ms" else ""
        where = f" on {cost.memory_device}" if cost.memory_device and name in MEMORIES else ""
        parts.append(f"{value / size:.{decimals}f} of {limit / size:g} {unit}{stat}{where} "
                     f"({value / limit:.0%})")  # fmt: skip
    parts += [f"{cost.params:,} parameters", f"{cost.gflops:.2f} GFLOPs", f"{cost.image_size} px"]
    busy = f", on a busy machine ({cost.busyness()})" if cost.busy else ""
    return f"It takes {', '.join(parts)}{busy}"


def note(record: Record) -> str:
    """What became of a run, in words, and why it was tried if it was not drawn."""
    return f"{record.origin}: {_fate(record)}" if record.origin else _fate(record)


def outcome(record: Record, budget: Budget) -> str:
    """What became of a run, with its figures, in a line; the latency is the budget's."""
    # Whose run it is of which seed is said before the line.
    parts = [f"full run {_fate(record)}" if record.stage == FINAL else note(record)]
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
        return f"paused after {many(record.paused, 'epoch')}"
    if record.state == "complete":
        return f"complete, {many(record.epochs, 'epoch')}"
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
    lead = [] if report.standings.lead is None else [f"{report.standings.lead}.", ""]
    told = ["", *(f"- {line}" for line in report.told)]
    text = [*lead, report.caption(), "", *table_lines, *(told if report.told else []), ""]
    return "\n".join(text)


def write(report: Report, folder: Path) -> None:
    """Write `trials.md` and `trials.json`, each whole or not at all."""
    replace_file(folder / "trials.md", markdown(report))
    replace_file(folder / "trials.json", json.dumps(rows(report.standings), indent=1) + "\n")
