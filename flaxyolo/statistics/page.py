"""The page of the command `stats`: one HTML file that needs no network, and its figures as PNG."""

import html
from collections.abc import Sequence
from pathlib import Path

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file
from flaxyolo.nn.nms import IOU_THRESHOLD
from flaxyolo.statistics.columns import percent
from flaxyolo.statistics.figures import FIGURES, SHOWN_CLASSES, draw, png, svg
from flaxyolo.statistics.resolution import Resolution
from flaxyolo.statistics.rules import Advice
from flaxyolo.statistics.summary import Statistics

NUMBERS = ("under_8", "under_16", "under_32")
HEADINGS = (
    ("px", ""),
    ("under 8 / 16 / 32 px", "share of boxes by their shorter side"),
    ("detail lost", "inside the median box / in the worst class, by scaling down and up again"),
    ("cells", "median along the shorter side at strides 4 / 8 / 16 / 32"),
    ("collisions", "boxes whose centre shares a cell with another, at strides 4 / 8 / 16 / 32"),
    ("longer side", "p95, in strides of 4 / 8 / 16 / 32"),
    ("no point", "boxes without an anchor point of stride 4 / 8 / 16 / 32 inside"),
    ("enlarged", "images smaller than the input"),
)


def write_page(statistics: Statistics, advice: Sequence[Advice], folder: Path) -> Path:
    """Write `index.html` and a PNG for each figure; returns the path of the page."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out: expected a folder, got {folder}, which is a file") from None
    values = {each.key: each.value for each in advice}
    figures = {}
    for name in drawn(statistics):
        figure = draw(name, statistics, values.get("image_size"))
        replace_file(folder / f"{name}.png", png(figure))
        figures[name] = svg(figure, name)
    path = folder / "index.html"
    replace_file(path, page(statistics, advice, figures))
    return path


def drawn(statistics: Statistics) -> list[str]:
    """The figures that have something to show."""
    return [name for name in FIGURES if SENTENCES[name][1](statistics) is not None]


def page(statistics: Statistics, advice: Sequence[Advice], figures: dict[str, str]) -> str:
    """The page as text; `figures` are SVG by name."""
    title = html.escape(statistics.data)
    text = PAGE.format(
        title=title,
        style=STYLE,
        tiles="".join(_tile(value, label) for value, label in tiles(statistics)),
        advice="".join(map(_advice, advice)),
        figures="".join(_figure(statistics, name, text) for name, text in figures.items()),
        table=_table(statistics),
        fingerprint=html.escape(statistics.fingerprint[:16]),
    )
    # A number and its sign stay in one line.
    return text.replace(" %", "&nbsp;%")


def tiles(statistics: Statistics) -> list[tuple[str, str]]:
    """The figures that come first: a value and what it is."""
    train, val = statistics.train, statistics.val
    found = [
        (f"{train.images:,}", "images to train on" + (f", {val.images:,} to score" if val else "")),
        (f"{train.boxes:,}", "boxes to train on" + (f", {val.boxes:,} to score" if val else "")),
        (f"{len(train.classes)}", "class" if len(train.classes) == 1 else "classes"),
    ]
    if train.small is not None:
        found.append((percent(train.small), "small objects"))
    if train.boxes_per_image is not None:
        found.append((f"{train.boxes_per_image.p50:.0f}", "boxes in the median image"))
    if train.crowd_boxes:
        found.append((f"{train.crowd_boxes:,}", "crowd boxes, left out"))
    if train.unread_images:
        found.append((f"{train.unread_images:,}", "images that could not be read"))
    return found


def resolution_rows(statistics: Statistics) -> list[list[str]]:
    """The cells of the table of input sizes, under HEADINGS."""
    rows = []
    for each in statistics.resolutions:
        levels = each.strides
        rows.append(
            [
                str(each.image_size),
                " / ".join(percent(getattr(each, name)) for name in NUMBERS),
                _lost(each),
                " / ".join(f"{level.cells.p50:.1f}" for level in levels),
                " / ".join(percent(level.collisions) for level in levels),
                " / ".join(f"{level.longer_side_p95:.1f}" for level in levels),
                " / ".join(percent(level.without_point) for level in levels),
                percent(each.enlarged),
            ]
        )
    return rows


def shown_value(value: object) -> str:
    """A value of advice in words."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _lost(resolution: Resolution) -> str:
    lost = resolution.detail_lost
    return "-" if lost is None else f"{percent(lost.median)} / {percent(lost.worst_class)}"


def _tile(value: str, label: str) -> str:
    return f"<div class=tile><b>{html.escape(value)}</b>{html.escape(label)}</div>"


def _advice(advice: Advice) -> str:
    parts = (advice.key, shown_value(advice.value), advice.why, advice.source)
    key, value, why, source = (html.escape(part) for part in parts)
    return (
        f"<li><span class=key>{key}</span><b>{value}</b>"
        f"<span>{why}<small>{source}</small></span></li>"
    )


def _figure(statistics: Statistics, name: str, picture: str) -> str:
    title, say = SENTENCES[name]
    text = html.escape(say(statistics) or "")
    return f"<figure><h3>{title}</h3>{picture}<figcaption>{text}</figcaption></figure>"


def _table(statistics: Statistics) -> str:
    heads = "".join(f"<th>{name}<small>{what}</small></th>" for name, what in HEADINGS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
        for row in resolution_rows(statistics)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _say_area(statistics: Statistics) -> str | None:
    side = statistics.train.box_side
    if side is None:
        return None
    return (
        f"The shorter side of a box is {side.p50:.0f} px in the middle, from {side.p5:.0f} (p5) to "
        f"{side.p95:.0f} px (p95) in the original images."
    )


def _say_sizes(statistics: Statistics) -> str | None:
    train = statistics.train
    if train.small is None or train.medium is None or train.large is None:
        return None
    return (
        f"{percent(train.small)} small, {percent(train.medium)} medium, {percent(train.large)} "
        "large, by COCO's limits of 32 and 96 px at the images' own size."
    )


def _say_ratio(statistics: Statistics) -> str | None:
    thin = statistics.train.thin
    if thin is None:
        return None
    return f"{percent(thin)} of the boxes are more than four times as long as wide."


def _say_image_sizes(statistics: Statistics) -> str | None:
    train = statistics.train
    if train.longest_side is None:
        return None
    sizes, side = train.different_image_sizes, train.longest_side
    if sizes == 1:
        size = train.image_sizes[0]
        return f"All training images are {size.width} x {size.height} px."
    return (
        f"{sizes} different sizes; the longest side is {side.p50:.0f} px in the middle, "
        f"{side.max:.0f} px at most."
    )


def _say_light(statistics: Statistics) -> str | None:
    level, spread = statistics.train.brightness, statistics.train.contrast
    if level is None or spread is None:
        return None
    return (
        f"The median image has a grey level of {level.p50:.0f} of 255 and a contrast of "
        f"{spread.p50:.0f}."
    )


def _say_blur(statistics: Statistics) -> str | None:
    blur = statistics.train.blur
    if blur is None:
        return None
    return f"Low is blurred: the median image has {blur.p50:.0f}, the lowest {blur.min:.0f}."


def _say_classes(statistics: Statistics) -> str | None:
    train = statistics.train
    if len(train.classes) == 1 and train.boxes:
        return "There is one class."
    if train.gini is None or train.imbalance_ratio is None:
        return None
    text = (
        f"{train.imbalance_ratio:.1f} boxes of the most frequent class for one of the rarest; "
        f"Gini {train.gini:.2f}."
    )
    missing = sum(not each.boxes for each in train.classes)
    if missing:
        text += " 1 class has no box." if missing == 1 else f" {missing} classes have no box."
    hidden = len(train.classes) - SHOWN_CLASSES
    return text + (" The most and the least frequent are shown." if hidden > 0 else "")


def _say_crowding(statistics: Statistics) -> str | None:
    crowding = statistics.train.crowding
    iou = crowding.largest_iou_same_class
    if iou is None:
        return None
    lost = {each.threshold: each.share for each in crowding.suppressed}
    text = (
        f"p95 is {iou.p95:.2f}; NMS at {IOU_THRESHOLD:g} would drop {percent(lost[IOU_THRESHOLD])} "
        "of the true boxes."
    )
    if lost[0.9]:
        text += f" {percent(lost[0.9])} lie above 0.9: perhaps labelled twice."
    return text


def _say_counts(statistics: Statistics) -> str | None:
    train, count = statistics.train, statistics.train.boxes_per_image
    if count is None or not train.boxes:
        return None
    return (
        f"Median {count.p50:.0f}, p95 {count.p95:.0f}, p99 {count.p99:.0f}, most {count.max:.0f}; "
        f"{train.images_without_boxes} images have none."
    )


def _say_levels(statistics: Statistics) -> str | None:
    if not statistics.resolutions:
        return None
    return (
        "The coarsest level of which a box still covers two cells; red boxes are too small even "
        "for P2, orange ones need it."
    )


def _say_under(statistics: Statistics) -> str | None:
    if not statistics.resolutions:
        return None
    return "Boxes whose shorter side is under 16 px cover less than two cells of P3."


def _say_collisions(statistics: Statistics) -> str | None:
    if not statistics.resolutions:
        return None
    return "Boxes whose centre shares a cell with another: at that level they compete for points."


SENTENCES = {
    "levels": ("Which level suits a box", _say_levels),
    "under": ("Boxes too small", _say_under),
    "collisions": ("Boxes in one cell", _say_collisions),
    "object_sizes": ("Small, medium, large", _say_sizes),
    "box_area": ("Area of boxes", _say_area),
    "aspect_ratio": ("Shape of boxes", _say_ratio),
    "boxes_per_image": ("Boxes per image", _say_counts),
    "crowding": ("Crowding", _say_crowding),
    "classes": ("Classes", _say_classes),
    "image_sizes": ("Image sizes", _say_image_sizes),
    "brightness_contrast": ("Brightness and contrast", _say_light),
    "blur": ("Blur", _say_blur),
}
"""Title of each figure, and what it means; the sentence is None where there is nothing to draw."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #66707c; --line: #d9dee4;
  --card: #ffffff; --back: #f4f6f8; --mark: #2f66c0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --muted: #9aa4af; --line: #39414a;
  --card: #1c2127; --back: #12161a; --mark: #7fb0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; }
h3 { font-size: 14px; margin: 0 0 6px; }
small { color: var(--muted); font-size: 12px; font-weight: normal; display: block; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; font-size: 13px; color: var(--muted); }
.tile b { display: block; font-size: 21px; color: var(--ink); }
ul { list-style: none; margin: 0; padding: 0; background: var(--card); border-radius: 8px;
  border: 1px solid var(--line); }
li { display: grid; grid-template-columns: 150px 110px 1fr; gap: 14px; padding: 9px 16px;
  border-top: 1px solid var(--line); align-items: baseline; }
li:first-child { border-top: 0; }
li b { color: var(--mark); overflow-wrap: anywhere; }
.key { color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
.figures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: 13px; color: var(--muted); margin-top: 6px; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { padding: 7px 9px; text-align: right; white-space: nowrap; vertical-align: bottom; }
th small { white-space: normal; }
th small:not(:empty) { min-width: 90px; }
td { border-top: 1px solid var(--line); }
@media (max-width: 640px) { li { grid-template-columns: 1fr auto; } li > :last-child {
  grid-column: 1 / -1; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: statistics</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><main><h1>{title}</h1><div class=tiles>{tiles}</div>
<h2>Advice</h2><ul>{advice}</ul>
<h2>Figures</h2><div class=figures>{figures}</div>
<h2>Input sizes</h2><div class=wide>{table}</div>
<p><small>Boxes of training, without crowd boxes; a box's side is its shorter one.
Data {fingerprint}.
</small></p></main></body></html>
"""
