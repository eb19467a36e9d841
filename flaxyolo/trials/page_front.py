"""The page's picture of accuracy against latency, whose points say what they are."""

from collections.abc import Collection

from flaxyolo.base.markup import Markup, element
from flaxyolo.trials.findings import Findings
from flaxyolo.trials.networks import Network
from flaxyolo.trials.page_axes import WIDTH, Axes, Number, Point, line, svg, text, widened
from flaxyolo.trials.pareto import fate

FAR = 2.5
"""Times the slowest network that a budget may be, to be inside the picture."""
RADIUS = 5.5
LETTER = 7.5
"""About the width of a figure of a label."""
ROLES = {
    "winner": "winner",
    "baseline": "baseline",
    "family": "YOLOv8 scaled",
    "other": "others tried",
    "over": "over the budget",
}
"""What a network is on the page, by the class that colours it, and in words."""


def role(network: Network, findings: Findings) -> str:
    """The class that colours a network alike in every picture."""
    best = findings.best
    if best is not None and network.number == best.number and not findings.standings.nothing_learnt:
        return "winner"
    if network.over_budget:
        return "over"
    return {"baseline": "baseline", "YOLOv8 scaled": "family"}.get(network.control or "", "other")


def chips(roles: Collection[str]) -> list[Markup]:
    """The colours of these roles with their names."""
    return [
        element("span", element("i", class_=f"chip {key}"), name)
        for key, name in ROLES.items()
        if key in roles
    ]


def told(network: Network, findings: Findings) -> str:
    """A network in a line."""
    standings = findings.standings
    parts = [f"trial {network.number}: {network.note()}"]
    if network.objective is not None:
        wide = network.half_width
        parts.append(f"objective {network.objective:.3f}" + (f" ± {wide:.3f}" if wide else ""))
    parts += [
        f"{name} {value:.3f}"
        for name, key in (("mAP", "map"), ("mAP50", "map_50"))
        if (value := network.scores.get(key)) is not None
    ]
    if (cost := network.shown.cost) is not None:
        latency = standings.latency(network.shown)
        parts.append(f"{latency:.2f} ms {standings.budget.latency_stat}")
        parts.append(f"{cost.params / 1e6:.3g} M parameters, {cost.image_size} px")
    if network.over_budget:
        parts.append("over the budget")
    return "; ".join(parts)


def front_chart(findings: Findings) -> Markup | None:
    """Every network with a score, the front as steps, the budget; None without a score."""
    standings = findings.standings
    if not standings.scored:
        return None
    at = {one.number: (standings.latency(one.shown), one.objective or 0.0)
          for one in standings.scored}  # fmt: skip
    budget = standings.budget.latency_ms
    slowest = max(latency for latency, _ in at.values())
    near = budget is not None and budget <= FAR * slowest
    across = [slowest, budget] if near and budget is not None else [slowest]
    highs = [value + (one.half_width or 0.0) for one, (_, value) in
             zip(standings.scored, at.values(), strict=True)]  # fmt: skip
    low = min(value for _, value in at.values())
    axes = Axes(widened([0.0, *across], zero=True, share=0.06),
                widened([low, *highs], zero=low < 0.5 * max(highs)))  # fmt: skip
    stat = standings.budget.latency_stat
    parts = [axes.grid(f"latency {stat} of one image with NMS, ms", "objective")]
    if near and budget is not None:
        parts.append(_budget_line(axes, budget))
    if standings.front:
        steps = [at[one.number] for one in standings.front]
        corners = [steps[0]]
        for before, after in zip(steps, [*steps[1:], (axes.x[1], steps[-1][1])], strict=True):
            corners += [(after[0], before[1]), after]
        parts.append(axes.path(corners, class_="front"))
    parts += [_whisker(axes, one, at[one.number]) for one in standings.scored if one.half_width]
    # The winner last, so that it lies on top.
    order = sorted(standings.scored, key=lambda one: role(one, findings) == "winner")
    parts += [_dot(axes, one, at[one.number], findings) for one in order]
    parts += _labels(axes, at)
    picture = svg(axes.height, f"objective against latency of {len(at)} networks", parts)
    far = budget is not None and not near
    note = f"The budget of {budget:g} ms lies far to the right." if far else None
    said = element("p", note, class_="small") if note else None
    return element("div", picture, _legend(findings), _readout(findings), said, class_="hover")


def _readout(findings: Findings) -> Markup:
    best = findings.best
    first = told(best, findings) if best is not None else "Point at a network, or tap it."
    return element("p", first, class_="readout", aria_live="polite")


def _legend(findings: Findings) -> Markup:
    """The roles that occur, and what hollow means."""
    items = chips({role(one, findings) for one in findings.standings.scored})
    hollow = any(one.state != "complete" for one in findings.standings.scored)
    if hollow:
        items.append(element("span", element("i", class_="chip hollow"), "stopped earlier"))
    return element("p", items, class_="legend")


def _dot(axes: Axes, one: Network, point: Point, findings: Findings) -> Markup:
    x, y = axes.at(*point)
    said = told(one, findings)
    kind = role(one, findings)
    hollow = " hollow" if one.state != "complete" else ""
    radius = RADIUS + 2.5 * (kind == "winner")
    # The unseen ring makes it easy to tap.
    return element(
        "g",
        element("title", f"{said} ({fate(one)})"),
        element("circle", cx=x, cy=y, r=14, class_="touch"),
        element("circle", cx=x, cy=y, r=radius, class_=f"dot {kind}{hollow}"),
        tabindex="0",
        class_="point",
        data_told=said,
    )


def _whisker(axes: Axes, one: Network, point: Point) -> Markup:
    wide = one.half_width or 0.0
    (x, low), (_, high) = axes.at(point[0], point[1] - wide), axes.at(point[0], point[1] + wide)
    return line(x, low, x, high, class_="whisker")


def _budget_line(axes: Axes, budget: Number) -> Markup:
    x, low = axes.at(budget, axes.y[0])
    _, high = axes.at(budget, axes.y[1])
    said = f"budget {budget:g} ms"
    side, place = ("end", x - 6) if x > 0.6 * WIDTH else ("start", x + 6)
    name = text(said, place, low - 8, class_=f"tick over {side}")
    return element("g", line(x, low, x, high, class_="limit"), name)


def _labels(axes: Axes, at: dict[int, Point]) -> list[Markup]:
    """The number of each trial beside its point, where there is room for it."""
    points = [axes.at(*point) for point in at.values()]
    taken: list[tuple[Number, Number, Number]] = []
    labels = []
    for number, point in at.items():
        x, y = axes.at(*point)
        wide = LETTER * len(str(number))
        for across, up in ((0, -11), (0, 20), (12, 4), (-12, 4)):
            left = x + across - (wide / 2 if not across else wide if across < 0 else 0)
            box = left, y + up - 9, wide
            if not any(_over(box, other) for other in taken) and not any(
                box[0] - 7 < px < box[0] + wide + 7 and box[1] - 5 < py < box[1] + 15
                for px, py in points
                if (px, py) != (x, y)
            ):
                taken.append(box)
                labels.append(text(str(number), left, y + up, class_="tick mark"))
                break
    return labels


def _over(one: tuple[Number, Number, Number], other: tuple[Number, Number, Number]) -> bool:
    apart = one[0] + one[2] < other[0] or other[0] + other[2] < one[0]
    return not apart and abs(one[1] - other[1]) < 11
