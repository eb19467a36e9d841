"""The picture of accuracy against latency: every trial, the front, the budget and the winner."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from flaxyolo.base.charts import DPI, save_figure
from flaxyolo.trials.networks import Network
from flaxyolo.trials.standings import Standings


def fate(network: Network) -> str:
    """Over the budget, stopped after which epoch, or trained to the end, in words."""
    over = ["over the budget"] if network.over_budget else []
    whole = network.state == "complete"
    ended = "complete" if whole else f"stopped after epoch {network.epochs}"
    return ", ".join([ended, *over])


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
    if best is not None:
        _draw_winner(axes, standings, best.trial)
    axes.set_xlabel(f"latency {budget.latency_stat} of detect, ms")
    axes.set_ylabel(f"objective: {standings.objective.text}")
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_scored(axes: Any, standings: Standings) -> None:
    """A dot for each network with a score and its interval, the longer trained the darker."""
    groups: dict[tuple[bool, str], list[Network]] = {}
    for network in sorted(standings.scored, key=lambda one: (one.over_budget, -one.epochs)):
        groups.setdefault((network.over_budget, fate(network)), []).append(network)
    longest = max((network.epochs for network in standings.scored), default=1)
    for (over, name), group in groups.items():
        shade = 0.4 + 0.4 * group[0].epochs / max(longest, 1)
        colour: Any = colormaps["Reds" if over else "Blues"](shade)
        axes.scatter(
            [standings.latency(network.shown) for network in group],
            [network.objective for network in group],
            s=34,
            facecolors=[colour] if group[0].state == "complete" else "none",
            edgecolors=[colour],
            linewidths=1.4,
            label=name,
        )
    wide = [network for network in standings.scored if network.half_width]
    if wide:
        axes.errorbar(
            [standings.latency(network.shown) for network in wide],
            [network.objective for network in wide],
            yerr=[network.half_width for network in wide],
            linestyle="",
            color="0.3",
            linewidth=1.2,
            capsize=5,
            zorder=1.5,
        )


def _draw_unscored(axes: Any, standings: Standings) -> None:
    """A tick at the lower edge, whatever the objectives are, for each that was only measured."""
    unscored = [
        network.shown
        for network in standings.networks
        if network.shown.cost and network.objective is None
    ]
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


def _draw_winner(axes: Any, standings: Standings, number: int) -> None:
    for network in standings.scored:
        if network.number == number:
            axes.scatter(
                [standings.latency(network.shown)],
                [network.objective],
                marker="*",
                s=260,
                color="gold",
                edgecolor="black",
                zorder=3,
                label=f"winner: trial {number}",
            )


def _draw_steps(axes: Any, standings: Standings) -> None:
    """The front as a line of steps, with the number of each trial on it."""
    at = [standings.latency(network.shown) for network in standings.front]
    slowest = max(standings.latency(network.shown) for network in standings.scored)
    heights = [network.objective for network in standings.front]
    axes.step(
        [*at, slowest],
        [*heights, heights[-1]],
        where="post",
        color="0.25",
        linewidth=1,
        zorder=1,
        label="Pareto front",
    )
    for network, latency in zip(standings.front, at, strict=True):
        # Nothing lies above and left of a point on the front.
        axes.annotate(
            str(network.number),
            (latency, network.objective),
            xytext=(-6, 5),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=8,
            zorder=4,
        )
