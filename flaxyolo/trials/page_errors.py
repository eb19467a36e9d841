"""The page's pictures of how good the best detector is: curves, confusion, kinds of errors."""

import base64

import cv2
import numpy as np

from flaxyolo.base.markup import Markup, element, joined
from flaxyolo.base.words import many
from flaxyolo.scoring.confusion import BACKGROUND, Confusion
from flaxyolo.scoring.curves import Curves, Line
from flaxyolo.scoring.error_kinds import ErrorKinds
from flaxyolo.scoring.mistakes import Mistake
from flaxyolo.trials.page_axes import WIDTH, Axes, svg, text
from flaxyolo.trials.page_charts import bars

DRAWN_CLASSES = 10
"""Classes with a curve of their own: those of most objects."""
NUMBERED_CLASSES = 16
"""Classes up to which the cells of the matrix hold their count."""
MATRIX_CLASSES = 60
"""Classes up to which the matrix is drawn; beyond, the most confused pairs are listed."""
LONGEST_NAME = 18
QUALITY = 82
KINDS = {
    "classification": "found, and taken for another class",
    "localisation": "right class, box too far off",
    "both": "wrong class, and box too far off",
    "duplicate": "found a second time",
    "background": "nothing is there",
    "missed": "not found at all",
}


def precision_chart(curves: Curves) -> Markup | None:
    """Precision against recall, of all classes and of those with most objects."""
    if not curves.overall.recall:
        return None
    axes = Axes((0.0, 1.0), (0.0, 1.0), height=320)
    ranked = sorted((one for one in curves.classes if one.recall), key=lambda one: -one.objects)
    most = ranked[:DRAWN_CLASSES] if len(curves.classes) > 1 else []
    lines = [_curve(axes, one, place, len(most)) for place, one in enumerate(most)]
    lines.append(_curve(axes, curves.overall, None, len(most)))
    best = curves.best
    mark = None
    if best is not None and best.recall is not None and best.precision is not None:
        x, y = axes.at(best.recall, best.precision)
        mark = element("circle", cx=x, cy=y, r=5, class_="dot winner")
    at = f"recall, IoU at least {curves.min_iou:g}"
    picture = svg(axes.height, "precision against recall", axes.grid(at, "precision"), lines, mark)
    items = [element("span", element("i", class_="chip line ink"), "all")]
    items += [
        element("span", element("i", class_="chip line", style=_hue(place, len(most))),
                short(one.name))
        for place, one in enumerate(most)
    ]  # fmt: skip
    return joined(picture, element("p", items, class_="legend"), _best_line(curves, len(ranked)))


def _best_line(curves: Curves, classes: int) -> Markup:
    parts = []
    best = curves.best
    if best is not None and best.f1 is not None:
        parts.append(f"F1 of all classes is largest, {best.f1:.2f}, with detections from a score "
                     f"of {curves.best_score:.2g} on: precision {best.precision or 0:.2f}, recall "
                     f"{best.recall or 0:.2f}.")  # fmt: skip
    if classes > DRAWN_CLASSES:
        parts.append(f"The {DRAWN_CLASSES} classes of most objects of {classes} are drawn.")
    return element("p", " ".join(parts), class_="small")


def _curve(axes: Axes, one: Line, place: int | None, count: int) -> Markup:
    points = list(zip((0.0, *one.recall), (one.precision[0], *one.precision), strict=True))
    title = element("title", f"{one.name}: {many(one.objects, 'object')}")
    if place is None:
        return element("g", title, axes.path(points, class_="curve all"))
    return element("g", title, axes.path(points, class_="curve hue", style=_hue(place, count)))


def _hue(place: int, count: int) -> str:
    return f"--h:{(20 + 360 * place / max(count, 1)) % 360:.0f}"


def confusion_chart(confusion: Confusion) -> Markup:
    """The matrix, each row in shares of its objects; of very many classes the worst pairs."""
    classes = len(confusion.class_names)
    at = (f"From a score of {confusion.min_score:g} and an IoU of {confusion.min_iou:g} on. Rows "
          "are objects, columns what they were taken for.")  # fmt: skip
    if classes > MATRIX_CLASSES:
        rows = [element("tr", *(element("td", cell) for cell in
                                (pair.truth, pair.found, f"{pair.count:,}", f"{pair.share:.0%}")))
                for pair in confusion.pairs()]  # fmt: skip
        heads = element("tr", *(element("th", name) for name in
                                ("object", "taken for", "count", "share")))  # fmt: skip
        return element("div", element("table", heads, rows), class_="wide")
    names = [*map(short, confusion.class_names), BACKGROUND]
    longest = 6.3 * max(map(len, names)) + 10
    left, top = min(longest, 124.0), min(longest, 124.0)
    cell = (WIDTH - left) / len(names)
    counts = confusion.matrix
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(11.5, 0.8 * cell)
    parts = []
    for place, name in enumerate(names):
        middle = (place + 0.5) * cell
        across = left + middle + size / 3
        small = f"font-size:{size:.1f}px"
        turned = f"translate({across:.1f} {top - 6:.1f}) rotate(-90)"
        parts.append(text(name, left - 6, top + middle + size / 3, class_="tick end", style=small))
        parts.append(text(name, 0, 0, class_="tick start", style=small, transform=turned))
    numbered = classes <= NUMBERED_CLASSES
    for (row, column), count in np.ndenumerate(counts):
        x, y = left + column * cell, top + row * cell
        share = float(shares[row, column])
        said = f"{names[row]} taken for {names[column]}: {count:,} ({share:.0%})"
        shade = element("rect", x=x, y=y, width=cell - 1, height=cell - 1, class_="cell",
                        style=f"--v:{0.06 + 0.94 * share:.2f}")  # fmt: skip
        number = None
        if numbered and count:
            small = min(size, 1.5 * cell / len(str(count)))
            number = text(str(count), x + cell / 2, y + cell / 2 + small / 3,
                          class_=f"middle cellcount {'on' if share > 0.5 else ''}",
                          style=f"font-size:{small:.1f}px")  # fmt: skip
        parts.append(element("g", element("title", said), shade, number))
    picture = svg(top + len(names) * cell, "confusion matrix", parts)
    return joined(picture, element("p", at, class_="small"))


def kinds_bars(errors: ErrorKinds) -> Markup:
    """What each kind of error costs, most first."""
    ranked = sorted(errors.kinds.items(), key=lambda one: -(one[1].cost or 0.0))
    most = max((kind.cost or 0.0 for _, kind in ranked), default=0.0) or 1.0
    rows = [
        (name, kind.cost or 0.0,
         f"{many(kind.count, 'error')}" if kind.cost is None else f"{100 * kind.cost:.1f} points")
        for name, kind in ranked
    ]  # fmt: skip
    reached = "" if errors.map_50 is None else f" AP50 is {100 * errors.map_50:.1f}."
    note = f"Points of AP50 that mending one kind alone would gain (TIDE).{reached}"
    return joined(bars(rows, most, "errors"), element("p", note, class_="small"))


def mistakes_gallery(mistakes: tuple[Mistake, ...], errors: ErrorKinds | None) -> Markup:
    """The worst errors, kind by kind, the most costly kind first."""
    groups: dict[str, list[Mistake]] = {}
    for one in mistakes:
        groups.setdefault(one.kind, []).append(one)
    costs = {} if errors is None else {name: kind.cost or 0 for name, kind in errors.kinds.items()}
    parts = []
    for kind, found in sorted(groups.items(), key=lambda one: -costs.get(one[0], 0)):
        count = "" if errors is None else f", {errors.kinds[kind].count:,} in all"
        head = element("h4", kind, element("small", f"{KINDS[kind]}{count}"))
        shown = [element("figure", _jpeg(one.jpeg, one.text),
                         element("figcaption", one.text, element("small", one.where)))
                 for one in found]  # fmt: skip
        parts.append(element("div", head, element("div", shown, class_="crops"), class_="kind"))
    legend = element("p", element("span", element("i", class_="chip found"), "found"),
                     element("span", element("i", class_="chip there"), "object"),
                     class_="legend")  # fmt: skip
    return joined(legend, element("div", parts, class_="kinds"))


def photograph(png: bytes, said: str) -> Markup | None:
    """A picture inside the page; None where the bytes are no picture."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    options = [int(cv2.IMWRITE_JPEG_QUALITY), QUALITY]
    jpeg = base64.b64encode(cv2.imencode(".jpg", image, options)[1].tobytes()).decode()
    high, wide = image.shape[:2]
    return _jpeg(jpeg, said, width=wide, height=high)


def short(name: str) -> str:
    """A class's name as far as there is room."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _jpeg(content: str, said: str, **size: int) -> Markup:
    return element("img", src=f"data:image/jpeg;base64,{content}", alt=said, **size)
