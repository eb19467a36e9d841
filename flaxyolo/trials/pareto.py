"""The Pareto front of accuracy and latency over the trials of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from flaxyolo.base.charts import DPI, save_figure


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (latency, accuracy) points that no other beats, fastest first.

    A point is beaten by one that is at least as fast and as accurate, and better in one of them;
    of equal points the first is on the front.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    chosen, highest = [], float("-inf")
    for index in order:
        if points[index][1] > highest:
            chosen.append(index)
            highest = points[index][1]
    return chosen


def scored(rows: Sequence[Mapping[str, Any]], latency: str) -> list[Mapping[str, Any]]:
    """The rows that have a latency and an objective, first trial first."""
    both = [row for row in rows if row[latency] is not None and row["objective"] is not None]
    return sorted(both, key=lambda row: row["number"])


def front_rows(
    rows: Sequence[Mapping[str, Any]], latency: str = "latency_ms_p95"
) -> list[Mapping[str, Any]]:
    """The rows on the front, fastest first; `latency` is the key of theirs."""
    both = scored(rows, latency)
    return [both[i] for i in front([(row[latency], row["objective"]) for row in both])]


def markdown(
    rows: Sequence[Mapping[str, Any]],
    *,
    latency: str = "latency_ms_p95",
    winner: int | None = None,
) -> list[str]:
    """The front as lines of a Markdown table, fastest first; none where no trial has a score."""
    chosen = front_rows(rows, latency)
    if not chosen:
        return []
    lines = [
        f"| trial | {latency.rpartition('_')[2]} ms | objective | mAP | px | params | what |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in chosen:
        interval = row.get("interval")
        spread = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
        accuracy = "n/a" if row["map"] is None else f"{row['map']:.3f}"
        what = [fate(row), *(["**winner**"] if row["number"] == winner else [])]
        cells = [
            str(row["number"]),
            f"{row[latency]:.2f}",
            f"{row['objective']:.3f}{spread}",
            accuracy,
            str(row["image_size"]),
            f"{row['params']:,d}",
            ", ".join(what),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def fate(row: Mapping[str, Any]) -> str:
    """Over the budget, stopped after so many epochs, or trained to the end, in words."""
    over = ["over the budget"] if row["over_budget"] else []
    ended = "complete" if is_complete(row) else f"stopped after {row['epochs']} epochs"
    return ", ".join([ended, *over])


def is_complete(row: Mapping[str, Any]) -> bool:
    """Whether a trial was trained to the end."""
    return str(row["state"]).lower().startswith("complete")


def draw_front(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    latency: str = "latency_ms_p95",
    budget_ms: float | None = None,
    objective: str = "sum of mAP over object sizes",
    winner: int | None = None,
) -> None:
    """Every trial with a score, the front as a line of steps, the budget and the winner.

    Filled dots were trained to the end, hollow ones stopped; what is over the budget is red. A
    row's `interval` is drawn where it has one.
    """
    figure = Figure(figsize=(9, 5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    both = scored(rows, latency)
    groups: dict[tuple[bool, str], list[Mapping[str, Any]]] = {}
    for row in sorted(both, key=lambda row: (bool(row["over_budget"]), -row["epochs"])):
        groups.setdefault((bool(row["over_budget"]), fate(row)), []).append(row)
    longest = max((row["epochs"] for row in both), default=1)
    for (over, name), group in groups.items():
        # The longer it was trained, the darker.
        shade = 0.4 + 0.4 * group[0]["epochs"] / max(longest, 1)
        colour: Any = colormaps["Reds" if over else "Blues"](shade)
        axes.scatter(
            [row[latency] for row in group],
            [row["objective"] for row in group],
            s=34,
            facecolors=[colour] if is_complete(group[0]) else "none",
            edgecolors=[colour],
            linewidths=1.4,
            label=name,
        )
    for row in both:
        if row.get("interval") is not None:
            low, high = row["interval"]
            axes.errorbar(
                row[latency], row["objective"],
                yerr=[[row["objective"] - low], [high - row["objective"]]],
                color="0.3", linewidth=1.2, capsize=5, zorder=1.5,
            )  # fmt: skip
    chosen = front_rows(rows, latency)
    if chosen:
        ends = [*(row[latency] for row in chosen), max(row[latency] for row in both)]
        heights = [*(row["objective"] for row in chosen), chosen[-1]["objective"]]
        axes.step(
            ends, heights, where="post", color="0.25", linewidth=1, zorder=1, label="Pareto front"
        )
    if budget_ms is not None:
        axes.axvline(budget_ms, color="tab:red", linestyle="--", label=f"budget {budget_ms:g} ms")
    for row in both:
        if row["number"] == winner:
            at = [row[latency]], [row["objective"]]
            axes.scatter(
                *at, marker="*", s=260, color="gold", edgecolor="black", zorder=3,
                label=f"winner: trial {winner}",
            )  # fmt: skip
    for row in chosen:
        # Nothing lies above and left of a point on the front.
        axes.annotate(
            str(row["number"]), (row[latency], row["objective"]), xytext=(-6, 5),
            textcoords="offset points", horizontalalignment="right", fontsize=8, zorder=4,
        )  # fmt: skip
    axes.set_xlabel(f"latency {latency.rpartition('_')[2]} of detect, ms")
    axes.set_ylabel(f"objective: {objective}")
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    save_figure(figure, path)
