"""The table of an ablation: Markdown for people, JSON and CSV for programs."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxyolo.ablation.analysis import (
    BETTER,
    COSTS,
    METRICS,
    NO_EVIDENCE,
    WORSE,
    Analysis,
    ArmAnalysis,
    Spread,
)
from flaxyolo.base.files import replace_file


def markdown(analysis: Analysis, title: str = "Ablation") -> str:
    """The table with what one may conclude; scores in points (hundredths)."""
    parts = [f"# {title}", _about(analysis), "## Verdicts", _verdicts(analysis)]
    parts += ["## What one may conclude, and what not", conclusions(analysis)]
    parts += ["## Scores", _scores(analysis), "## Cost", _cost(analysis)]
    if any(one.errors for one in analysis.arms):
        parts += ["## Where the errors are", _errors(analysis)]
    return "\n\n".join(parts) + "\n"


def conclusions(analysis: Analysis) -> str:
    """A paragraph each of what the figures allow to say and what not."""
    found = {word: _named(analysis, word) for word in (BETTER, WORSE, NO_EVIDENCE)}
    may = []
    for word in (BETTER, WORSE):
        for one in found[word]:
            assert one.comparison is not None
            may.append(
                f"**{one.arm.name}** is {word} than the baseline in mAP50-95, by "
                f"{_points(abs(one.comparison.difference))} points (the difference's 95 % "
                f"interval is {_interval(one.comparison.low, one.comparison.high)}): it stands "
                "over seeds, after Holm's correction over "
                f"{_count(len(analysis.arms) - 1, 'arm')}, and over the choice of the images."
            )
    if not may:
        may.append("No arm is shown to be better or worse than the baseline.")
    may.append(
        "If no arm had any effect, and the noise is alike in all, at most one such ablation in "
        "twenty would call some arm different."
    )
    may_not = []
    if silent := found[NO_EVIDENCE]:
        smallest = [f"{_points(one.detectable or 0.0)} ({one.arm.name})" for one in silent]
        may_not.append(
            "*No evidence* is not *equal*: an effect smaller than this many points would have "
            f"been missed more often than once in five times: {', '.join(smallest)}."
        )
        may_not += [f"{one.arm.name}: {one.verdict.reason}." for one in silent if one.verdict]
    may_not.append(
        "The verdicts are of mAP50-95 only, for this baseline, this data and this schedule, with "
        "one change at a time: they do not say what two changes do together, nor what a longer "
        "schedule or other data would show. Differences of other scores and of sizes are "
        "described, not tested."
    )
    if joint := [one.arm.name for one in analysis.arms if one.arm.joint]:
        may_not.append(
            f"Of a joint arm ({', '.join(joint)}) nothing says which of its changes did it."
        )
    may_not.append(_sharper(analysis))
    lines = ["One may say:", "", *(f"- {line}" for line in may), ""]
    return "\n".join([*lines, "One may not say:", "", *(f"- {line}" for line in may_not if line)])


def plain(analysis: Analysis) -> dict[str, Any]:
    """Everything, for JSON."""
    return analysis.to_dict()


def flat_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """One flat row per arm, for CSV and data frames; scores are shares of one."""
    rows = []
    for one in analysis.arms:
        row: dict[str, Any] = {
            "arm": one.arm.name,
            "changes": json.dumps(one.arm.changes),
            "joint": one.arm.joint,
            "seeds": len(analysis.seeds),
        }
        for key, spread in [*one.scores.items(), ("gap", one.gap)]:
            row[f"{key}_mean"] = spread and spread.mean
            row[f"{key}_std"] = spread and spread.std
        for key in METRICS:
            other = (one.differences or {}).get(key)
            row[f"{key}_difference"] = other and other.difference
            row[f"{key}_low"], row[f"{key}_high"] = (other and other.low), (other and other.high)
        for key in ("map", "map_50"):
            ends = (one.image_intervals or {}).get(key, (None, None))
            row[f"{key}_images_low"], row[f"{key}_images_high"] = ends
        row["p"] = one.comparison and one.comparison.p
        row["p_holm"] = one.comparison and one.comparison.holm
        row["detectable"] = one.detectable
        row["verdict"] = one.verdict and one.verdict.word
        row["reason"] = one.verdict and one.verdict.reason
        rows.append({**row, **one.cost})
    return rows


def csv_text(analysis: Analysis) -> str:
    """The flat rows as CSV; an empty cell is what is not there."""
    rows = flat_rows(analysis)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(analysis: Analysis, folder: Path, title: str = "Ablation") -> None:
    """Write `ablation.md`, `ablation.json` and `ablation.csv`, each whole or not at all."""
    replace_file(folder / "ablation.md", markdown(analysis, title))
    replace_file(folder / "ablation.json", json.dumps(plain(analysis), indent=1) + "\n")
    replace_file(folder / "ablation.csv", csv_text(analysis))


def _about(analysis: Analysis) -> str:
    seeds = ", ".join(map(str, analysis.seeds))
    compared = analysis.comparisons
    lines = [
        f"Baseline: {analysis.baseline.arm.name}. {_count(len(analysis.seeds), 'seed')} "
        f"({seeds}), {_count(analysis.images, 'validation image')}. Scores in points "
        "(hundredths), mean ± standard deviation over seeds. Every arm shares split, order and "
        "augmentation with the baseline, seed by seed.",
        "",
        f"Noise of one run: {_points(compared.noise)} points of mAP50-95 (what arm and seed "
        f"leave over, pooled, {compared.freedom} degrees of freedom). Smallest effect that the "
        f"seeds can show (5 % after Holm's first step, power 80 %): "
        f"{_points(compared.detectable)} points.",
    ]
    for note in analysis.notes:
        lines += ["", f"Note: {note}."]
    return "\n".join(lines)


def _verdicts(analysis: Analysis) -> str:
    headings = ["arm", "changes", "mAP50-95", "difference (95 %)", "images (95 %)", "p (Holm)"]
    rows = []
    for one in analysis.arms:
        line = [one.arm.name, _changes(one.arm.changes), _spread(one.scores["map"])]
        if one.comparison is None:
            rows.append([*line, "", "", "", "", "baseline"])
            continue
        assert one.image_intervals is not None
        assert one.verdict is not None
        compared = one.comparison
        rows.append(
            [
                *line,
                f"{_signed(compared.difference)} ({_interval(compared.low, compared.high)})",
                _interval(*one.image_intervals["map"]),
                f"{compared.holm:.2g}",
                _points(one.detectable or 0.0),
                f"{_bold(one.verdict.word)}: {one.verdict.reason}",
            ]
        )
    table = _table([*headings, "detectable", "verdict"], rows)
    return (
        f"{table}\n\n*difference*: paired over seeds, its interval for that arm alone; *images*: "
        f"bootstrap of the same difference over the validation images, {analysis.resamples:,} "
        "resamples; *detectable*: the smallest effect that both would have shown, power 80 %. "
        "Better or worse is said only where p after Holm is below 0.05 and the images' interval "
        "leaves out 0."
    )


def _scores(analysis: Analysis) -> str:
    rows = [
        [one.arm.name, *(_spread(one.scores[key]) for key in METRICS), _spread(one.gap, sign=True)]
        for one in analysis.arms
    ]
    table = _table(["arm", *METRICS.values(), "train - val"], rows)
    return f"{table}\n\n*train - val*: mAP50-95 on training images less that on validation images."


def _cost(analysis: Analysis) -> str:
    rows = []
    for one in analysis.arms:
        line = [one.arm.name]
        for key, (_, form) in COSTS.items():
            value = one.cost[key]
            line.append("-" if value is None else format(value, form))
        rows.append(line)
    table = _table(["arm", *(name for name, _ in COSTS.values())], rows)
    measured = "; ".join(analysis.conditions)
    warning = "" if len(analysis.conditions) == 1 else ": not alike, so not to be compared"
    return f"{table}\n\nMedian over the seeds; {measured}{warning}."


def _errors(analysis: Analysis) -> str:
    """AP that each kind costs, in points, and its change against the baseline."""
    kinds = list((analysis.baseline.errors or {}).get("cost", {}))
    rows = []
    for one in analysis.arms:
        costs = (one.errors or {}).get("cost", {})
        first = (analysis.baseline.errors or {}).get("cost", {})
        line = [one.arm.name]
        for kind in kinds:
            value, before = costs.get(kind), first.get(kind)
            if value is None:
                line.append("n/a")
            elif one.comparison is None or before is None:
                line.append(_points(value))
            else:
                line.append(f"{_points(value)} ({_signed(value - before)})")
        rows.append(line)
    return _table(["arm", *kinds], rows)


def _sharper(analysis: Analysis) -> str:
    share = analysis.noise_by_images
    if share is None:
        return ""
    told = f"{100 * share:.0f} % of the noise lies in which images each run happens to get right"
    if share > 0.5:
        return f"{told}: more validation images would make this ablation sharper, and more seeds."
    return f"{told}: more seeds would make this ablation sharper, more images hardly."


def _named(analysis: Analysis, word: str) -> list[ArmAnalysis]:
    return [one for one in analysis.arms if one.verdict is not None and one.verdict.word == word]


def _changes(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}: {value}" for path, value in changes.items()) or "-"


def _spread(spread: Spread | None, *, sign: bool = False) -> str:
    if spread is None:
        return "n/a"
    mean = _signed(spread.mean) if sign else _points(spread.mean)
    return f"{mean} ± {_points(spread.std)}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _interval(low: float, high: float) -> str:
    return f"{_signed(low)} to {_signed(high)}"


def _bold(word: str) -> str:
    return word if word == NO_EVIDENCE else f"**{word}**"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    texts = {"arm", "changes", "verdict"}
    rule = ["---" if heading in texts else "---:" for heading in headings]
    body = [[cell.replace("|", "\\|") for cell in line] for line in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *body))
