"""Axes of the page's charts: from figures to places in an SVG, with ticks and a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any

from flaxyolo.base.markup import Markup, element

Number = int | float
Point = tuple[Number, Number]

WIDTH = 400
"""Units of a chart's width; it is as wide as its card, so its text is about 12 px on any screen."""


@dataclass(frozen=True)
class Axes:
    """A rectangle of an SVG, and which figures its sides stand for."""

    x: Point
    y: Point
    height: int = 300
    left: int = 48
    right: int = 14
    top: int = 14
    bottom: int = 44

    def at(self, x: Number, y: Number) -> tuple[float, float]:
        """Where a point lies."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        wide, high = WIDTH - self.left - self.right, self.height - self.top - self.bottom
        return self.left + across * wide, self.top + (1 - up) * high

    def grid(self, x_label: str, y_label: str, *, whole: bool = False) -> Markup:
        """Lines and figures at round steps, and what the axes are; `whole` has no half epochs."""
        low, high = self.height - self.bottom, self.top
        parts: list[Markup] = []
        for value in ticks(*self.x, whole=whole):
            across, _ = self.at(value, self.y[0])
            parts.append(line(across, low, across, high, class_="grid"))
            parts.append(text(f"{value:g}", across, low + 16, class_="tick middle"))
        for value in ticks(*self.y):
            _, up = self.at(self.x[0], value)
            parts.append(line(self.left, up, WIDTH - self.right, up, class_="grid"))
            parts.append(text(f"{value:g}", self.left - 6, up + 4, class_="tick end"))
        middle = (low + high) / 2
        turned = f"rotate(-90 12 {middle:.1f})"
        parts.append(text(x_label, (self.left + WIDTH - self.right) / 2, self.height - 8,
                          class_="label middle"))  # fmt: skip
        parts.append(text(y_label, 12, middle, class_="label middle", transform=turned))
        return element("g", parts)

    def path(self, points: Sequence[Point], **attributes: Any) -> Markup:
        """A line through points."""
        told = "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.at(*point) for point in points))
        return element("path", d=f"M{told}", fill="none", **attributes)


def svg(
    height: Number, label: str, *inside: Any, width: Number = WIDTH, **attributes: Any
) -> Markup:
    """A picture that is as wide as there is room; `label` says what it shows."""
    return element("svg", *inside, viewBox=f"0 0 {width:g} {height:g}", role="img",
                   aria_label=label, **attributes)  # fmt: skip


def text(said: str, x: Number, y: Number, **attributes: Any) -> Markup:
    """Words at a place."""
    return element("text", said, x=float(x), y=float(y), **attributes)


def line(x1: Number, y1: Number, x2: Number, y2: Number, **attributes: Any) -> Markup:
    """A straight line."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", **{name: float(value) for name, value in ends.items()}, **attributes)


def ticks(low: Number, high: Number, *, whole: bool = False) -> list[float]:
    """Round figures from `low` to `high`, about five."""
    if not (isfinite(low) and isfinite(high)) or high <= low:
        return []
    rough = (high - low) / 5
    size = 10.0 ** floor(log10(rough))
    step = next(times * size for times in (1, 2, 5, 10) if times * size >= rough)
    step = max(1.0, step) if whole else step
    first = -(-low // step)
    count = int((high - first * step) / step + 1e-9) + 1
    return [round((first + place) * step, 10) for place in range(count)]


def widened(
    values: Sequence[Number], *, zero: bool = False, share: Number = 0.08
) -> tuple[float, float]:
    """A range a little wider than the values; `zero` begins at 0."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = min(0.0, low) if zero else low
    room = share * (high - low) or 0.1 * abs(high) or 1.0
    return (low if zero else low - room), high + room
