"""The top of the page: what was asked, what came of it, and the figures that come first."""

from flaxyolo.base.markup import Markup, element
from flaxyolo.base.words import percent
from flaxyolo.trials.answer import nothing_found, nothing_learnt, open_line
from flaxyolo.trials.findings import Findings


def question(findings: Findings) -> str:
    """What was asked, in a sentence."""
    budget, engine = findings.standings.budget, findings.facts.get("engine")
    on = f", measured on {engine}" if engine and budget.latency_ms is not None else ""
    source = findings.facts.get("source", "the data")
    return f"Which detector is best for {source} with {budget.describe()}{on}?"


def answer(findings: Findings) -> str:
    """What came of it, in a sentence."""
    standings, best = findings.standings, findings.best
    record = standings.best
    if best is None or record is None:
        line = nothing_found(standings)
        return f"{line[0].upper()}{line[1:]}."
    if standings.nothing_learnt:
        epochs = findings.facts.get("schedule", {}).get("epochs", record.epochs)
        source = findings.facts.get("source", "")
        return f"{nothing_learnt(record, standings.budget, source, epochs)[0]}."
    scores = [f"{name} {value:.3f}" for name, key in (("mAP", "map"), ("mAP50", "map_50"))
              if (value := best.scores.get(key)) is not None]  # fmt: skip
    origin = f" ({best.candidate.origin})" if best.candidate.origin else ""
    told = f"Trial {best.number}{origin}, with {' and '.join(scores)}"
    if findings.cost is None:
        return f"{told}."
    latency = standings.budget.latency_of(findings.cost)
    limit = standings.budget.latency_ms
    share = f", {percent(latency / limit)} of the budget" if limit else ""
    return f"{told}, in {latency:.2f} ms {standings.budget.latency_stat}{share}."


def sure(findings: Findings) -> str | None:
    """How sure that is, and what may be ahead but for a busy machine."""
    lines = (findings.standings.lead, open_line(findings.standings))
    return " ".join(f"{line}." for line in lines if line) or None


def tiles(findings: Findings) -> Markup | None:
    """The figures of the best that come first."""
    best, cost = findings.best, findings.cost
    if best is None:
        return None
    names = {"mAP": "map", "mAP50": "map_50", "mAP_s": "map_small", "mAP_m": "map_medium",
             "mAP_l": "map_large"}  # fmt: skip
    found = [(f"{value:.3f}", name) for name, key in names.items()
             if (value := best.scores.get(key)) is not None]  # fmt: skip
    if cost is not None:
        stat = findings.standings.budget.latency_stat
        latency = findings.standings.budget.latency_of(cost)
        found += [
            (f"{latency:.2f} ms", f"latency, {stat}"),
            (f"{cost.fps:,.0f}", "images / s"),
            (f"{cost.params / 1e6:.3g} M", "parameters"),
            (f"{cost.gflops:.3g}", "GFLOPs"),
            (f"{cost.image_size} px", "input"),
        ]
    return element("div", [element("div", element("b", value), name, class_="tile")
                           for value, name in found], class_="tiles")  # fmt: skip
