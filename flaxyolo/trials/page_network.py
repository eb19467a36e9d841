"""The winner, drawn from its spec: backbone, neck and head, a row for each level."""

from flaxyolo.base.markup import Markup, element
from flaxyolo.spec import LEVEL_STRIDES, DetectorSpec, StageSpec, stem_stride
from flaxyolo.trials.page_axes import Number, line, svg, text

WIDE = 420
BACKBONE, NECK, HEAD = (0, 168), (198, 98), (326, 94)
"""Left edge and width of the three columns."""
HIGH, STEP = 64, 80
"""Height of a box, and from one to the next."""
LONGEST = 25
"""Letters that fit into a line of the backbone's boxes."""
SHORT = 14


def network_drawing(spec: DetectorSpec) -> Markup:
    """The network from the image at the top to the coarsest level."""
    backbone = spec.backbone
    widest = max(stage.width for stage in backbone.stages)
    parts: list[Markup] = [_heads()]
    top = 22.0
    stride = stem_stride(backbone.stem)
    said = [f"stem · stride {stride} · {backbone.stem_width} ch",
            f"{backbone.stem} on {spec.image_size} x {spec.image_size} px"]  # fmt: skip
    parts.append(_box(BACKBONE, top, said, backbone.stem_width / widest, "stem"))
    rows: dict[int, float] = {}
    levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
    for place, (stage, stride) in enumerate(zip(backbone.stages, backbone.strides, strict=True)):
        parts.append(_arrow(BACKBONE[1] / 2, top + HIGH, BACKBONE[1] / 2, top + STEP))
        top += STEP
        level = levels.get(stride)
        last = place == len(backbone.stages) - 1
        context = backbone.context if last and backbone.context != "none" else None
        if level is not None:
            rows[level] = top
        name = f"C{level}" if level is not None else "stage"
        said = _stage_lines(name, stride, stage, context, backbone.context_place)
        parts.append(_box(BACKBONE, top, said, stage.width / widest, "stage"))
    parts.append(_levels(spec, rows))
    label = f"network with {len(backbone.stages)} stages and {len(spec.neck.levels)} levels"
    return svg(top + HIGH + 4, label, parts, width=WIDE, class_="network")


def described(spec: DetectorSpec) -> list[tuple[str, str]]:
    """What the drawing has no room for: a name and its value."""
    neck, head, backbone = spec.neck, spec.head, spec.backbone
    passes = f", {neck.repeats} times" if neck.repeats > 1 else ""
    box = f"dfl with {head.bins} bins" if head.box == "dfl" else head.box
    found = [
        ("Input", f"{spec.image_size} x {spec.image_size} px, {spec.num_classes} classes"),
        ("Neck", f"{neck.kind}{passes}, {neck.upsample} up-sampling"),
        ("Head", f"{head.depth} deep, box {box}, {spec.box_width} and {spec.class_width} channels"
                 f"{', shared by all levels' if head.shared else ''}"
                 f"{', one to one beside (no NMS)' if head.one_to_one else ''}"
                 f"{', with objectness' if head.objectness else ''}"),
        ("Attention", _attention(spec)),
        ("Norm and activation", f"{spec.norm}, {spec.activation}"),
    ]  # fmt: skip
    rates = {
        "drop path": backbone.drop_path,
        "drop block": backbone.drop_block,
        "spatial dropout": backbone.spatial_dropout,
    }
    dropped = ", ".join(f"{name} {rate:g}" for name, rate in rates.items() if rate)
    return [*found, ("In training", dropped)] if dropped else found


def _attention(spec: DetectorSpec) -> str:
    levels = spec.neck.levels
    found = [
        *((f"C{level}", stage.attention) for stage, level in _with_levels(spec)),
        *((f"P{level}", name) for level, name in zip(levels, spec.neck.attentions, strict=True)),
        *((f"head of P{level}", name)
          for level, name in zip(levels, spec.head_attentions, strict=True)),
    ]  # fmt: skip
    return ", ".join(f"{where} {name}" for where, name in found if name != "none") or "none"


def _with_levels(spec: DetectorSpec) -> list[tuple[StageSpec, int]]:
    names = {stride: level for level, stride in LEVEL_STRIDES.items()}
    both = zip(spec.backbone.stages, spec.backbone.strides, strict=True)
    return [(stage, names.get(stride, 1)) for stage, stride in both]


def _stage_lines(
    name: str, stride: int, stage: StageSpec, context: str | None, place: str
) -> list[str]:
    more = []
    if stage.attention != "none":
        more.append(stage.attention)
    if stage.downsample != "conv":
        more.append(f"down {stage.downsample}")
    if context:
        more.append(f"{context} {place}")
    lines = [f"{name} · stride {stride} · {stage.width} ch", f"{stage.depth} x {stage.block}"]
    return [*lines, ", ".join(more)] if more else lines


def _levels(spec: DetectorSpec, rows: dict[int, float]) -> Markup:
    """Neck and head of every level, and the arrows between them."""
    neck, parts = spec.neck, []
    widest = max(*spec.neck_widths, 1)
    left, right = NECK[0] + 26, NECK[0] + NECK[1] - 26
    for place, level in enumerate(neck.levels):
        top, middle = rows[level], rows[level] + HIGH / 2
        width = spec.neck_widths[place]
        said = [f"P{level} · {width} ch", f"{neck.depth} x {neck.blocks[place]}"]
        if neck.attentions[place] != "none":
            said.append(neck.attentions[place])
        parts.append(_box(NECK, top, said, width / widest, "neck", SHORT))
        cells = spec.image_size // LEVEL_STRIDES[level]
        parts.append(_box(HEAD, top, ["box + class", f"{cells} x {cells} cells"], None, "head", 13))
        parts.append(_arrow(BACKBONE[1], middle, NECK[0], middle))
        parts.append(_arrow(NECK[0] + NECK[1], middle, HEAD[0], middle))
        if place:
            above = rows[level - 1] + HIGH
            parts.append(_arrow(left, top, left, above))
            if neck.kind != "fpn":
                parts.append(_arrow(right, above, right, top))
    return element("g", parts)


def _heads() -> Markup:
    names = (("backbone", BACKBONE), ("neck", NECK), ("head", HEAD))
    return element("g", [text(name, left + wide / 2, 12, class_="label middle")
                         for name, (left, wide) in names])  # fmt: skip


def _box(
    column: tuple[int, int],
    top: Number,
    said: list[str],
    share: Number | None,
    kind: str,
    longest: int = LONGEST,
) -> Markup:
    """A box with up to three lines; the bar at its foot is its width among the others'."""
    left, wide = column
    # Two lines stand in the middle, three fill it.
    first = top + (18 if len(said) > 2 else 25)
    lines = [
        text(_short(one, longest), left + 10, first + 15 * place,
             class_="boxed strong" if not place else "boxed")
        for place, one in enumerate(said)
    ]  # fmt: skip
    full = element("title", ", ".join(said))
    rectangle = element("rect", x=left + 0.5, y=top + 0.5, width=wide - 1, height=HIGH - 1, rx=7,
                        class_=f"part {kind}")  # fmt: skip
    bar = None if share is None else element(
        "rect", x=left + 5, y=top + HIGH - 7, width=max(4.0, share * (wide - 10)), height=3,
        rx=1.5, class_=f"width {kind}")  # fmt: skip
    return element("g", full, rectangle, bar, lines)


def _short(said: str, longest: int) -> str:
    return said if len(said) <= longest else f"{said[: longest - 1]}…"


def _arrow(x1: Number, y1: Number, x2: Number, y2: Number) -> Markup:
    """An arrow straight across, up or down."""
    length = abs(x2 - x1) + abs(y2 - y1)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    tip_x, tip_y = x2 - 2 * dx, y2 - 2 * dy
    back_x, back_y = tip_x - 6 * dx, tip_y - 6 * dy
    corners = ((tip_x, tip_y), (back_x - 3.5 * dy, back_y + 3.5 * dx),
               (back_x + 3.5 * dy, back_y - 3.5 * dx))  # fmt: skip
    head = element("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners))
    return element("g", line(x1 + 2 * dx, y1 + 2 * dy, back_x, back_y), head, class_="arrow")
