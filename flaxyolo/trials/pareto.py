"""The picture of accuracy against latency: every trial, the front, the budget and the winner."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from flaxyolo.base.charts import DPI, save_figure
from flaxyolo.crew.record import Record
from flaxyolo.trials.standings import Standings


def fate(record: Record) -> str:
    """Over the budget, stopped after so many epochs, or trained to the end, in words."""
    over = ["over the budget"] if is_over_budget(record) else []
    ended = "complete" if record.state == "complete" else f"stopped after {record.epochs} epochs"
    return ", ".join([ended, *over])


def is_over_budget(record: Record) -> bool:
    """Whether it is over the budget, or was in a fresh process."""
    return record.over_budget or record.refuted


def draw_front(standings: Standings, path: Path) -> None:
    """Every measured trial, the front as a line of steps, the budget and the winner.

    Filled dots were trained to the end, hollow ones stopped; what is over the budget is red. What
    has no score yet is marked at the lower edge.
    """
    figure = Figure(figsize=(9, 5), dpi=DPI, layout="constrained")
    axes: Any = figure.subplots()
    budget = standings.budget
    _draw_scored(axes, standings)
    _draw_unscored(axes, standings)
    if standings.front:
        _draw_steps(axes, standings)
    if budget.latency_ms is not None:
        told = f"budget {budget.latency_ms:g} ms"
        axes.axvline(budget.latency_ms, color="tab:red", linestyle="--", label=told)
    best = None if standings.nothing_learnt else standings.best
    if best is not None and best.cost and best.objective is not None:
        axes.scatter(
            [standings.latency(best)],
            [best.objective],
            marker="*",
            s=260,
            color="gold",
            edgecolor="black",
            zorder=3,
            label=f"winner: trial {best.number}",
        )
    axes.set_xlabel(f"latency {budget.latency_stat} of detect, ms")
    axes.set_ylabel(f"objective: {standings.objective.text}")
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_scored(axes: Any, standings: Standings) -> None:
    """A dot for each trial with a score, the longer trained the darker."""
    groups: dict[tuple[bool, str], list[Record]] = {}
    for record in sorted(standings.scored, key=lambda each: (is_over_budget(each), -each.epochs)):
        groups.setdefault((is_over_budget(record), fate(record)), []).append(record)
    longest = max((record.epochs for record in standings.scored), default=1)
    for (over, name), group in groups.items():
        shade = 0.4 + 0.4 * group[0].epochs / max(longest, 1)
        colour: Any = colormaps["Reds" if over else "Blues"](shade)
        axes.scatter(
            [standings.latency(record) for record in group],
            [record.objective for record in group],
            s=34,
            facecolors=[colour] if group[0].state == "complete" else "none",
            edgecolors=[colour],
            linewidths=1.4,
            label=name,
        )


def _draw_unscored(axes: Any, standings: Standings) -> None:
    """A tick at the lower edge, whatever the objectives are, for each that was only measured."""
    unscored = [record for record in standings.records if record.cost and record.objective is None]
    if unscored:
        axes.plot(
            [standings.latency(record) for record in unscored],
            [0.02] * len(unscored),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="|",
            markersize=10,
            color="0.5",
            label="not trained",
        )


def _draw_steps(axes: Any, standings: Standings) -> None:
    """The front as a line of steps, with the number of each trial on it."""
    ends = [*map(standings.latency, standings.front), max(map(standings.latency, standings.scored))]
    heights = [record.objective for record in standings.front]
    axes.step(
        ends,
        [*heights, heights[-1]],
        where="post",
        color="0.25",
        linewidth=1,
        zorder=1,
        label="Pareto front",
    )
    for record in standings.front:
        # Nothing lies above and left of a point on the front.
        axes.annotate(
            str(record.number),
            (standings.latency(record), record.objective),
            xytext=(-6, 5),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=8,
            zorder=4,
        )
