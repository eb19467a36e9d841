"""What a study and its trials are, in Markdown: notes for those who look at them in a browser."""

from collections.abc import Sequence

from flaxyolo.base.words import many
from flaxyolo.cost.budget import Budget
from flaxyolo.search.finalists import verdict
from flaxyolo.search.results import Importance
from flaxyolo.spec import LEVEL_STRIDES, DetectorSpec
from flaxyolo.trials.networks import Network
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import COST_COLUMNS, SCORE_COLUMNS, Report, best_found, costs

SHOWN = 6
"""Parameters that are named, at most."""
HOW_TO_READ = (
    "A trial is a network; its runs with several seeds are folded into it.",
    "**Complete** trials were trained as far as the sweep trains any, and their value is the mean "
    "over their seeds; only these are in the plots of values and parameters.",
    "**Pruned** trials stopped before, so they have no value to compare by; the curve of "
    "intermediate values shows how far they came, and their note why they stopped.",
    "**Constraints** are the share by which a limit is overstepped: 0 or less is inside.",
    "Where some trials are not complete, the **Contour** of optuna-dashboard (0.21) draws values "
    "at the parameters of other trials: look at Slice and Rank, or at Optuna's own plots.",
)


def study_note(standings: Standings, data: str) -> str:
    """The answer, what it is about, and how to read the page."""
    best = standings.best
    lines = [f"## {answer(standings)}", ""]
    if best is not None and not standings.nothing_learnt:
        network = next(one for one in standings.networks if one.number == best.trial)
        cost = network.shown.cost
        told = [best_found(network), cost and costs(cost, standings.budget)]
        told += [standings.lead, *verdict(standings.finalists)]
        lines += [f"- {line}" for line in told if line]
    lines += [
        "",
        f"The value is {code(standings.objective.text)}. {Report(standings, data).caption()}.",
        "",
        "### How to read it",
        "",
        *(f"- {line}" for line in HOW_TO_READ),
        "",
    ]
    return "\n".join(lines)


def mattered(found: Importance) -> str:
    """Which parameters mattered, and of how many networks that is known."""
    if not found.shares:
        told = f"{many(found.networks, 'network')} with a score: too few to tell."
    else:
        most = sorted(found.shares.items(), key=lambda item: -item[1])[:SHOWN]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in most)
        told = (
            f"{shares} (PED-ANOVA, {many(found.networks, 'network')} after epoch {found.epoch}). "
            "Few networks make this a hint, not a finding; the page's own figure counts complete "
            "trials alone, controls too, some of whose parameters are not those of their network."
        )
    return f"\n### Which parameters mattered\n\n{told}\n"


def answer(standings: Standings) -> str:
    """The study in a few words."""
    best, tried = standings.best, many(len(standings.networks), "network")
    if best is None:
        return f"No network has its outcome yet, of {tried}"
    if standings.nothing_learnt:
        return f"Nothing has learnt yet: trial {best.trial} is first of {tried}"
    return f"Trial {best.trial} is the best of {tried}"


def trial_note(network: Network, standings: Standings) -> str:
    """One network: what became of it, its scores and cost, its beginning, and what it is."""
    best = standings.best is not None and standings.best.trial == network.number
    heading = f"## Trial {network.number}" + (": the best" if best else "")
    parts = [heading, f"{network.note()}.", *_objective(network), *_figures(network)]
    cost = network.shown.cost
    if cost is not None:
        parts.append(_budget_line(network, standings.budget))
    parts += _beginning(network)
    if network.candidate.spec is not None:
        parts += ["### The network", spec_text(network.candidate.spec)]
    if network.shown.run is not None:
        parts.append(f"Its run is in {code(f'trials/{network.shown.run}')}.")
    return "\n\n".join(parts) + "\n"


def _objective(network: Network) -> list[str]:
    value, wide, error = network.objective, network.half_width, network.objective_se
    if value is None:
        return []
    runs = many(len(network.scored), "run")
    told = f"Objective **{value:.3f}**" + (f" ± {wide:.3f} (95 %, over seeds)" if wide else "")
    told += f" after {many(network.epochs, 'epoch')}, the mean of {runs}"
    return [told + (f"; standard error over images {error:.3f}." if error else ".")]


def _figures(network: Network) -> list[str]:
    tables = []
    scores = {name: network.scores.get(key) for name, key in SCORE_COLUMNS.items()}
    if network.scores:
        cells = ["n/a" if value is None else f"{value:.3f}" for value in scores.values()]
        tables.append(_table(list(scores), cells))
    cost = network.shown.cost
    if cost is not None:
        known = {name: (getattr(cost, key), form) for name, (key, form) in COST_COLUMNS.items()}
        cells = ["-" if value is None else format(value, form) for value, form in known.values()]
        tables.append(_table(list(known), cells))
    return tables


def _budget_line(network: Network, budget: Budget) -> str:
    cost = network.shown.cost
    assert cost is not None, "it was measured"
    where = "**over** the budget" if network.over_budget else "inside the budget"
    shares = budget.known(cost)
    told = ", ".join(
        f"{value / budget.limits[name]:.0%} of {name.replace('_', ' ')}"
        for name, value in shares.items()
    )
    busy = f"; measured on a busy machine: {cost.busyness()}" if cost.busy else ""
    return f"It is {where} ({budget.describe()}): {told}{busy}. On {cost.conditions()}."


def _beginning(network: Network) -> list[str]:
    record = network.candidate
    if record.inherited is None:
        return ["It began with fresh weights, as far as is known."] if network.epochs else []
    told = (
        f"Its first weights were {record.inherited:.0%} near to those of the detector it began from"
    )
    if record.mended is not None:
        told += f"; fresh layers were fitted to that one's features and missed {record.mended:.0%}"
    return [f"{told}."]


def spec_text(spec: DetectorSpec) -> str:
    """A detector in words: its stages as a table, then neck and head."""
    backbone, neck, head = spec.backbone, spec.neck, spec.head
    lines = [
        "| | stride | blocks | width | attention |",
        "|---|---|---|---|---|",
        f"| stem | | {backbone.stem} | {backbone.stem_width} | |",
    ]
    for stage, stride in zip(backbone.stages, backbone.strides, strict=True):
        level = next((f"C{k}" for k, each in LEVEL_STRIDES.items() if each == stride), "stage")
        blocks = f"{stage.depth} x {stage.block}"
        lines.append(
            f"| {level} | {stride} | {blocks} | {stage.width} | {_or_no(stage.attention)} |"
        )
    levels = ", ".join(f"P{level}" for level in neck.levels)
    boxes = f"{head.box}, {head.reg_max} bins" if head.reg_max else head.box
    suppression = "one box an object, without NMS" if head.one_to_one else "with NMS"
    lines += [
        "",
        f"- Input: {spec.image_size} px, {many(spec.num_classes, 'class')}",
        f"- Context: {_or_no(backbone.context)}",
        f"- Neck: {neck.kind} over {levels}, {neck.depth} x {_joined(neck.block)}",
        f"- Head: {many(head.depth, 'layer')}, boxes as {boxes}, {suppression}",
        f"- Norm {spec.norm}, activation {spec.activation}",
    ]
    return "\n".join(lines)


def code(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return f"`{text}`"


def _or_no(name: str) -> str:
    return "-" if name == "none" else name


def _joined(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def _table(headings: list[str], cells: list[str]) -> str:
    rule = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, cells))
