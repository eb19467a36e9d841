"""The page's pictures of the compared networks: scores by size with intervals, and learning."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxyolo.base.markup import Markup, element
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import Record
from flaxyolo.search.finalists import pooled_reach
from flaxyolo.trials.findings import Findings
from flaxyolo.trials.networks import Network
from flaxyolo.trials.page_axes import WIDTH, Axes, Number, line, svg, text, ticks, widened
from flaxyolo.trials.page_front import ROLES, role

ROW, HEAD = 22, 26
SIZES = {
    "map": "mAP, all sizes",
    "map_small": "mAP_s, small objects",
    "map_medium": "mAP_m, medium objects",
    "map_large": "mAP_l, large objects",
}
NAMES = {"baseline": "baseline", "YOLOv8 scaled": "YOLOv8 scaled"}
GAINS = {"box": "box_gain", "cls": "class_gain", "dfl": "dfl_gain"}


def short_name(network: Network) -> str:
    """A network in a few words."""
    what = NAMES.get(network.control or "", "")
    return f"trial {network.number}" + (f", {what}" if what else "")


def row_name(network: Network, findings: Findings) -> str:
    """The same, and of the winner that it is."""
    wins = role(network, findings) == "winner" and not network.control
    return f"trial {network.number}, winner" if wins else short_name(network)


def interval_of(network: Network, key: str, findings: Findings) -> tuple[float, float] | None:
    """Where a score lies over the validation images, the mean over its runs; they share these."""
    stored = [findings.intervals.get(run.run or "") for run in network.scored]
    known = [one.intervals[key] for one in stored if one is not None and key in one.intervals]
    if not known:
        return None
    low, high = np.mean(np.array(known), axis=0).tolist()
    return low, high


def seeds_reach(findings: Findings, key: str) -> float | None:
    """Half the width of one run's interval at 95 % over seeds, pooled over what is compared."""
    groups = [np.array(_values(one, key)) for one in findings.compared]
    reach, freedom = pooled_reach([group for group in groups if len(group)])
    return reach if freedom else None


def sizes_chart(findings: Findings) -> Markup | None:
    """A row for each compared network and size; None where nothing is scored."""
    shown = {key: name for key, name in SIZES.items()
             if any(one.scores.get(key) is not None for one in findings.compared)}  # fmt: skip
    if not shown:
        return None
    left, right = 138, 54
    ends = [high for key in shown for one in findings.compared
            if (high := _end(one, key, findings)) is not None]  # fmt: skip
    most = min(1.0, 1.08 * max(ends)) or 1.0
    width = WIDTH - left - right

    def place(value: float) -> float:
        return left + width * min(max(value / most, 0.0), 1.0)

    parts: list[Markup] = []
    down = 0.0
    for key, name in shown.items():
        parts.append(text(name, 0, down + 16, class_="label strong"))
        down += HEAD
        for one in findings.compared:
            parts.append(_size_row(one, key, findings, place, down))
            down += ROW
        down += 8
    steps = ticks(0.0, most)
    grid = [line(place(value), HEAD - 4, place(value), down, class_="grid") for value in steps]
    grid += [text(f"{value:g}", place(value), down + 14, class_="tick middle") for value in steps]
    return svg(down + 22, "average precision by size of objects", grid, parts)


def _size_row(one: Network, key: str, findings: Findings, place: Any, top: Number) -> Markup:
    middle, value = top + ROW / 2, one.scores.get(key)
    kind = role(one, findings)
    parts: list[Markup] = [text(row_name(one, findings), 0, middle + 4, class_="tick start")]
    if value is None:
        parts.append(text("no such object", place(0) + 6, middle + 4, class_="tick start"))
        return element("g", parts)
    known = interval_of(one, key, findings)
    said = f"{short_name(one)}: {value:.3f}"
    if known is not None:
        low, high = known
        parts.append(line(place(low), middle, place(high), middle, class_=f"band {kind}"))
        said += f", 95 % over the images {low:.3f} to {high:.3f}"
    reach = seeds_reach(findings, key)
    if reach is not None:
        wide = reach / np.sqrt(len(_values(one, key)))
        for end in (value - wide, value + wide):
            parts.append(line(place(end), middle - 6, place(end), middle + 6, class_="whisker"))
        parts.append(line(place(value - wide), middle, place(value + wide), middle,
                          class_="whisker"))  # fmt: skip
        said += f", ± {wide:.3f} over seeds"
    for each in _values(one, key) if len(one.scored) > 1 else []:
        parts.append(element("circle", cx=place(each), cy=middle, r=2.5, class_="seed"))
    parts.append(element("circle", cx=place(value), cy=middle, r=5, class_=f"dot {kind}"))
    parts.append(text(f"{value:.3f}", WIDTH, middle + 4, class_="tick strong end"))
    return element("g", element("title", said), parts)


def _values(network: Network, key: str) -> list[float]:
    found = [getattr(run.scores, key) for run in network.scored]
    return [value for value in found if value is not None]


def _end(network: Network, key: str, findings: Findings) -> float | None:
    known = interval_of(network, key, findings)
    return known[1] if known is not None else network.scores.get(key)


def learning_charts(findings: Findings) -> list[tuple[str, Markup]]:
    """The objective by epoch, and the loss by epoch, each with its heading."""
    lines = [_Run(network, run) for network in findings.standings.networks
             for run in _whole_runs(network)]  # fmt: skip
    scores = [(each, [(p.epoch, p.objective) for p in each.points if p.objective is not None])
              for each in lines]  # fmt: skip
    gains = findings.facts.get("training", {})
    losses = [(each, [(p.epoch, _loss(p, gains)) for p in each.points if p.loss]) for each in lines]
    charts = []
    for name, y_label, found in (
        ("Score in validation", "objective", scores),
        ("Loss in training", "loss, with its gains", losses),
    ):
        known = [(each, points) for each, points in found if points]
        if known:
            charts.append((name, _lines_chart(name, y_label, known, findings)))
    return charts


class _Run:
    """A training with what belongs to one line: a candidate's epochs and those of its full run."""

    def __init__(self, network: Network, run: Record):
        self.network = network
        before = network.candidate.history if _goes_on(network, run) else ()
        first = run.history[0].epoch if run.history else 0
        self.points: tuple[CurvePoint, ...] = (
            *(point for point in before if point.epoch < first),
            *run.history,
        )


def _goes_on(network: Network, run: Record) -> bool:
    """Whether a full run is the candidate's own, trained on."""
    return run is not network.candidate and run.run == network.candidate.run


def _whole_runs(network: Network) -> Sequence[Record]:
    runs = [run for run in network.runs if run.history]
    own = network.candidate
    return runs if any(_goes_on(network, run) for run in runs) else [own, *runs]


def _loss(point: CurvePoint, gains: Mapping[str, Any]) -> float:
    return sum(value * gains.get(GAINS.get(name, ""), 1.0) for name, value in point.loss.items())


def _lines_chart(
    name: str,
    y_label: str,
    found: Sequence[tuple[_Run, list[tuple[int, Any]]]],
    findings: Findings,
) -> Markup:
    last = max(points[-1][0] for _, points in found)
    values = [value for _, points in found for _, value in points]
    axes = Axes((0.0, 1.04 * max(last, 1)), widened([0.0, *values], zero=True), height=250)
    parts = [axes.grid("epoch", y_label, whole=True)]
    # What is compared lies on top.
    for each, points in sorted(found, key=lambda one: _rank(role(one[0].network, findings))):
        kind = role(each.network, findings)
        said = ", ".join(f"{value:.3f} after epoch {epoch}" for epoch, value in points)
        marks = [element("circle", cx=axes.at(*point)[0], cy=axes.at(*point)[1], r=3,
                         class_=f"dot {kind}") for point in points]  # fmt: skip
        title = element("title", f"{short_name(each.network)}: {said}")
        parts.append(element("g", title, axes.path(points, class_=f"curve {kind}"), marks))
    return svg(axes.height, f"{name} by epoch", parts)


def _rank(kind: str) -> int:
    return -list(ROLES).index(kind)


def bars(rows: Sequence[tuple[str, Number, str]], most: Number = 1.0, kind: str = "") -> Markup:
    """Rows of a name, a bar of its share of `most`, and the figure in words."""
    return element("div", [
        element("div", element("span", name, class_="name"),
                element("span", element("i", class_=kind or None,
                                        style=f"width:{100 * min(value / most, 1.0):.1f}%"),
                        class_="track"),
                element("span", said, class_="value"), class_="bar")
        for name, value, said in rows
    ], class_="bars")  # fmt: skip
