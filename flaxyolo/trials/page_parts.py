"""The parts of the page, in their order: each makes its HTML of the findings, or None."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from flaxyolo.base import cli
from flaxyolo.base.markup import Markup, element, joined
from flaxyolo.base.words import many, percent
from flaxyolo.cost.budget import LIMITS
from flaxyolo.cost.engine import JAX_ENGINE
from flaxyolo.trials.findings import Findings
from flaxyolo.trials.networks import Network
from flaxyolo.trials.page_charts import bars, interval_of, learning_charts, row_name, sizes_chart
from flaxyolo.trials.page_errors import (
    confusion_chart,
    kinds_bars,
    mistakes_gallery,
    photograph,
    precision_chart,
)
from flaxyolo.trials.page_front import chips, front_chart, role
from flaxyolo.trials.page_network import described, network_drawing
from flaxyolo.trials.table import cells

KINDS = ("copied", "sliced", "grown", "fresh")
"""What becomes of a layer that begins with another detector's."""
TIMES = ("accent", "baseline", "family", "grown", "fresh", "over", "other")
"""Colours of the phases that took longest."""


def winner(findings: Findings) -> Markup | None:
    """The network drawn, and what it began with."""
    best = findings.best
    spec = None if best is None else best.candidate.spec or best.shown.spec
    if best is None or spec is None:
        return None
    drawn = element("div", network_drawing(spec), element(
        "p", "Bars at the foot of a box are its channels; the neck takes C levels and gives P "
        "levels.", class_="small"), class_="card")  # fmt: skip
    rows = [*described(spec), ("Inherited", _inherited(best))]
    facts = element("div", element("h3", "In words"), definitions(rows), _begun(best),
                    class_="card")  # fmt: skip
    beside = element("div", facts, class_="column")
    return element("div", drawn, beside, class_="cards")


def _inherited(best: Network) -> str:
    record = best.shown
    if record.inherited is None:
        return "nothing: it began with fresh weights, or the study did not store it"
    told = f"it began {record.inherited:.0%} as the parent ended"
    if record.mended is not None:
        told += f"; its fresh layers, fitted to the parent's features, missed {record.mended:.0%}"
    return told


def _begun(best: Network) -> Markup | None:
    shares = best.shown.begun
    if not shares:
        return None
    kinds = [(kind, shares[kind]) for kind in KINDS if shares.get(kind)]
    return joined(
        element("p", "Parameters by what became of their layer at the start:", class_="small",
                style="margin:16px 0 8px"),
        stack([(kind, share, f"var(--{kind})", f"{share:.0%}") for kind, share in kinds]),
    )  # fmt: skip


def front(findings: Findings) -> Markup | None:
    """Accuracy against latency, and how much of the budget is used."""
    chart = front_chart(findings)
    used = _budget_use(findings)
    if chart is None and used is None:
        return None
    left = None if chart is None else element("div", chart, class_="card")
    return element("div", left, used, class_="cards")


def _budget_use(findings: Findings) -> Markup | None:
    """What the compared take of each limit, and where the time went."""
    budget = findings.standings.budget
    parts: list[Markup] = []
    for name, limit in budget.limits.items():
        size, unit, decimals = LIMITS[name]
        rows = []
        for one in findings.compared:
            cost = findings.cost if one is findings.best and findings.cost else one.shown.cost
            value = None if cost is None else budget.known(cost).get(name)
            if value is not None:
                said = f"{value / size:.{decimals}f} {unit}, {percent(value / limit)}"
                rows.append((row_name(one, findings), value / limit, said))
        if rows:
            stat = f", {budget.latency_stat}" if name == "latency_ms" else ""
            parts += [element("h3", f"Use of the budget: {limit / size:g} {unit}{stat}"),
                      bars(rows, max(1.0, *(share for _, share, _ in rows)))]  # fmt: skip
    if parts and findings.confirmed:
        note = ("The winner's figures here and above were measured once more at the end, in a "
                "fresh process; picture and table hold those of its training.")  # fmt: skip
        parts.append(element("p", note, class_="small"))
    card = element("div", parts, class_="card") if parts else None
    seconds = _seconds(findings)
    return element("div", card, seconds, class_="column") if card or seconds else None


def _seconds(findings: Findings) -> Markup | None:
    spent: dict[str, float] = {}
    for record in findings.standings.records:
        for phase, seconds in record.seconds.items():
            spent[phase] = spent.get(phase, 0.0) + seconds
    total = sum(spent.values())
    if not total:
        return None
    ranked = sorted(spent.items(), key=lambda pair: -pair[1])
    colours = [*TIMES, *["other"] * len(ranked)]
    rows = [(phase, seconds / total, f"var(--{colour})", cli.duration(seconds))
            for (phase, seconds), colour in zip(ranked, colours, strict=False)
            if seconds >= 0.005 * total]  # fmt: skip
    note = ("In all trials together, by the workers' clocks; the parent's training and pre-flight "
            "come on top.")  # fmt: skip
    return element("div", element("h3", f"Where the time went: {cli.duration(total)}"),
                   stack(rows), element("p", note, class_="small", style="margin-top:12px"),
                   class_="card")  # fmt: skip


def compared(findings: Findings) -> Markup | None:
    """Scores by size with intervals, and how sure the order is."""
    chart = sizes_chart(findings)
    if chart is None:
        return None
    notes = ["A dot is the mean over the seeds of a network."]
    if any(interval_of(one, "map", findings) for one in findings.compared):
        notes.append("A band is where it lies with 95 % over the validation images (bootstrap).")
    if any(one.half_width for one in findings.compared):
        notes.append("Whiskers are the 95 % interval over seeds, their spread pooled; small rings "
                     "are single seeds.")  # fmt: skip
    rows = []
    for one in findings.compared:
        value, wide, error = one.objective, one.half_width, one.objective_se
        if value is not None:
            told = f"{value:.3f}" + (f" ± {wide:.3f} over seeds" if wide else "")
            told += f", SE {error:.3f} over images" if error is not None else ""
            rows.append((row_name(one, findings), told))
    lines = element("ul", [element("li", f"{line}.") for line in findings.told], class_="told")
    text = element("div", element("h3", f"Objective: {findings.standings.objective.text}"),
                   definitions(rows), class_="card")  # fmt: skip
    said = element("div", element("h3", "How the search went"), lines, class_="card")
    left = element("div", chart, element("p", " ".join(notes), class_="small",
                                         style="margin-top:12px"), class_="card")  # fmt: skip
    beside = element("div", text, said if findings.told else None, class_="column")
    return element("div", left, beside, class_="cards")


def tried(findings: Findings) -> Markup | None:
    """The table of all networks, and how they learnt."""
    headings, lines = cells(findings.standings)
    if not lines:
        return None
    best = findings.best
    number = None if best is None or findings.standings.nothing_learnt else str(best.number)
    rows = [
        element("tr", _noted("td", row), class_="winner" if row[0] == number else None)
        for row in lines
    ]
    heads = element("thead", element("tr", _noted("th", headings)))
    table = element("div", element("table", heads, element("tbody", rows)), class_="wide",
                    tabindex="0", role="region", aria_label="all networks")  # fmt: skip
    curves = [element("div", element("h3", name), chart, class_="card")
              for name, chart in learning_charts(findings)]  # fmt: skip
    note = _lines_legend(findings)
    charts = element("div", curves, class_="cards", style="margin-top:18px") if curves else None
    return joined(table, charts, note if curves else None)


def _noted(name: str, row: Sequence[str]) -> list[Markup]:
    """Cells of a row, its last, what became of it, behind the first."""
    first, *figures, note = row
    return [element(name, first), element(name, note, class_="note"),
            *(element(name, one) for one in figures)]  # fmt: skip


def _lines_legend(findings: Findings) -> Markup:
    there = {role(one, findings) for one in findings.standings.networks if one.epochs}
    return element("p", chips(there), class_="legend")


def mattered(findings: Findings) -> Markup | None:
    """Which parameters mattered, and why that is to be taken with care."""
    found = findings.importance
    if found is None:
        return None
    if not found.shares:
        line = (f"{many(found.networks, 'network')} inside the budget with a score: too few to "
                "tell which parameters mattered; more --trials tell more.")  # fmt: skip
        return element("div", element("p", line), class_="card")
    rows = [(name, share, f"{share:.0%}") for name, share in found.shares.items() if share >= 0.005]
    small = len(found.shares) - len(rows)
    rest = f" {many(small, 'more parameter')} below 0.5 %." if small else ""
    caveat = (
        f"Optuna's PED-ANOVA over the parameters that varied, of {many(found.networks, 'network')} "
        f"after epoch {found.epoch}, the last that all of them were scored at.{rest} With so few "
        "networks, which the search did not draw at random, it is a hint of where to look and no "
        "proof: parameters that were changed together share what they did, and an ablation "
        "(python -m flaxyolo.ablate --around) tests one at a time."
    )
    return element("div", bars(rows, max(share for _, share, _ in rows)),
                   element("p", caveat, class_="small", style="margin-top:14px"),
                   class_="card")  # fmt: skip


def errors(findings: Findings) -> Markup | None:
    """Curves, confusion, kinds of errors with images, and what the best finds."""
    cards: list[Markup] = []
    chart = None if findings.curves is None else precision_chart(findings.curves)
    if chart is not None:
        cards.append(element("div", element("h3", "Precision against recall"), chart,
                             class_="card"))  # fmt: skip
    if findings.confusion is not None:
        cards.append(element("div", element("h3", "Confusion"), confusion_chart(findings.confusion),
                             class_="card"))  # fmt: skip
    if findings.errors is not None:
        cards.append(element("div", element("h3", "Kinds of errors"), kinds_bars(findings.errors),
                             class_="card span"))  # fmt: skip
    if findings.mistakes:
        cards.append(element("div", element("h3", "The worst of each kind"),
                             mistakes_gallery(findings.mistakes, findings.errors),
                             class_="card span"))  # fmt: skip
    picture = None if findings.picture is None else photograph(
        findings.picture, "validation images with what the best detector finds")  # fmt: skip
    if picture is not None:
        heading = element("h3", "What it finds in validation images")
        sheet = element("div", picture, class_="sheet")
        cards.append(element("div", heading, sheet, class_="card span"))
    return element("div", cards, class_="cards") if cards else None


def advice(findings: Findings) -> Markup | None:
    """What the data advised, and whether it held."""
    words = {True: ("held", "held"), False: ("did not hold", "not"), None: ("not tested", "open")}
    lines = [element("li", element("span", words[one.held][0],
                                   class_=f"verdict {words[one.held][1]}"),
                     f"{one.advice}: {one.why}") for one in findings.verdicts]  # fmt: skip
    verdicts = element("div", element("h3", "What became of it"),
                       element("ul", lines, class_="told"), class_="card")  # fmt: skip
    made = () if findings.conditions is None else findings.conditions.advice
    given = element("div", element("h3", "What the data advised"), element("div", [
        element("div", element("code", one.key), element("b", _value(one.value)),
                element("span", one.why, element("small", one.source)))
        for one in made
    ], class_="advice"), class_="card")  # fmt: skip
    return joined(verdicts if lines else None, given if made else None) or None


def _value(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def repeat(findings: Findings) -> Markup:
    """Everything needed to make it again."""
    facts, made, cost = findings.facts, findings.conditions, findings.cost
    training = facts.get("training", {})
    schedule = facts.get("schedule", {})
    measured = "" if not findings.confirmed else ", measured again in a fresh process"
    engine = facts.get("engine", JAX_ENGINE.describe())
    rows: list[tuple[str, Any]] = [
        ("Data", facts.get("source")),
        ("Fingerprint of the data", facts.get("fingerprint")),
        ("Budget", findings.standings.budget.describe()),
        ("Measured on", f"{engine}, one image in, boxes out, NMS included{measured}"),
        ("Device", facts.get("device")),
        ("Conditions of the latency", None if cost is None else cost.conditions()),
        ("Memory on", facts.get("target")),
        ("Objective", findings.standings.objective.text),
        ("Space", facts.get("space")),
        ("Plan", None if made is None else made.spending.describe()),
        ("Epochs", f"{schedule.get('short_epochs')} of a candidate, {schedule.get('epochs')} of a "
                   "full run" if schedule else None),
        ("Parent", f"{many(facts['parent_epochs'], 'epoch')}, then all begin with its weights"
                   if facts.get("parent_epochs") else None),
        ("First weights", facts.get("init") and f"a checkpoint, fingerprint {facts['init']}"),
        ("Teacher", facts.get("teacher") and f"a checkpoint, fingerprint {facts['teacher']}"),
        ("Seed", made.seed if made is not None else training.get("seed")),
        ("Workers", None if made is None else made.workers),
        ("Last command began", None if made is None else made.began),
        ("Versions", _versions(findings)),
    ]  # fmt: skip
    known = [(name, str(value)) for name, value in rows if value is not None]
    command = None if made is None else element("pre", made.command)
    recipe = element("details", element("summary", "The training recipe of a candidate"),
                     element("pre", json.dumps(training, indent=1)))  # fmt: skip
    return element("div", command, definitions(known), recipe if training else None, class_="card")


def _versions(findings: Findings) -> str | None:
    made, cost = findings.conditions, findings.cost
    found = made.versions if made is not None else cost.versions if cost is not None else {}
    return ", ".join(f"{name} {number}" for name, number in found.items()) or None


def missing(findings: Findings) -> Markup | None:
    """What the page cannot tell, and why."""
    if not findings.missing:
        return None
    lines = element("ul", [element("li", f"{line}.") for line in findings.missing], class_="told")
    return element("section", element("h2", "Not on this page"),
                   element("div", lines, class_="card small"), id="missing")  # fmt: skip


def definitions(rows: Sequence[tuple[str, str]]) -> Markup:
    """Names and what they are."""
    return element("dl", [joined(element("dt", name), element("dd", value))
                          for name, value in rows])  # fmt: skip


def stack(rows: Sequence[tuple[str, float, str, str]]) -> Markup:
    """A bar of shares, each with a name, a colour and a figure in words."""
    pieces = [element("i", style=f"width:{100 * share:.2f}%;--c:{colour}", title=f"{name} {said}")
              for name, share, colour, said in rows]  # fmt: skip
    names = [element("span", element("i", class_="chip square", style=f"--c:{colour}"),
                     f"{name} {said}") for name, _, colour, said in rows]  # fmt: skip
    return joined(element("div", pieces, class_="stack"), element("p", names, class_="legend"))


PARTS: tuple[tuple[str, str, Callable[[Findings], Markup | None]], ...] = (
    ("winner", "The winner", winner),
    ("front", "Accuracy against latency", front),
    ("compared", "How it compares", compared),
    ("errors", "Where it errs", errors),
    ("tried", "What was tried", tried),
    ("mattered", "Which parameters mattered", mattered),
    ("advice", "The advice of the data", advice),
    ("repeat", "To make it again", repeat),
)
"""Id, title and content, in the order of the page."""
