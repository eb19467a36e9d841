"""What early scores say about the end: rank correlations over the networks of a table.

Reads a file of make_table.py. After a ninth and a third of the schedule (or --at), mAP, the
objective, the validation loss, the training loss, of that the boxes' part, the merit by which a
sweep tells fresh networks apart, and a linear blend of them are held against the objective at the
end: Spearman's and Kendall's correlations with 95 % intervals by bootstrap over networks, losses
with their sign turned. The blend is a ridge of z-scores, of each network by the others. Where a
table was made with `--inherit`, the same is told of the runs that begin with the first network's
weights, after each of their epochs, against the same end, that of the run from fresh weights, and
against their own last epoch; "inherited" is the share that a network takes over, and is part of the
blend there. `lost` is what a rung costs that keeps the best third by the score: how much less the
best of these has at the end than the best of all.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau, spearmanr

from benchmarks import trained
from flaxyolo.search.funnel import DEFAULTS, in_band, merits

RESAMPLES = 1000
RIDGE = 1.0
KEPT = 3
"""One in so many goes on."""
INHERITED = "inherited"
SCORES = {"mAP": ("map", 1), "objective": ("objective", 1), "validation loss": ("val_loss", -1),
          "training loss": ("loss", -1), "box loss": ("box", -1)}  # fmt: skip
"""Key and sign of each score."""
BLEND = "blend"
MERIT = "merit"
LEAST = 4
"""Networks that a correlation takes."""


class Row(NamedTuple):
    """One score after some epochs against the end."""

    epoch: int
    score: str
    spearman: float
    spearman_interval: tuple[float, float]
    kendall: float
    kendall_interval: tuple[float, float]
    lost: float


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings, and the networks that were trained to the end, with their first seed's curve."""
    settings, networks = trained.read(path)
    rows = [{**row, "curve": next(iter(row[trained.CURVES].values()))}
            for row in networks.values() if row[trained.CURVES]]  # fmt: skip
    return settings, [row for row in rows if settings["epochs"] in scored_epochs(row)]


def scored_epochs(row: dict[str, Any]) -> set[int]:
    """Epochs after which a network was scored."""
    return {point["epoch"] for point in row["curve"] if "objective" in point}


def inherited(rows: list[dict[str, Any]], end: int) -> list[dict[str, Any]]:
    """The networks that have a run from the first one's weights, as if its epochs had come before
    the end of the run from fresh weights."""
    return [
        {
            **row,
            "share": row[INHERITED]["share"],
            "curve": [
                *row[INHERITED]["curve"],
                *(point for point in row["curve"] if point["epoch"] == end),
            ],
        }
        for row in rows
        if row.get(INHERITED, {}).get("curve")
    ]


def shipped(begun: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of `inherited` without the end of those from fresh weights."""
    return [{**row, "curve": row[INHERITED]["curve"]} for row in begun]


def columns(
    rows: list[dict[str, Any]], epoch: int, end: int
) -> tuple[dict[str, Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]:
    """The scores after an epoch, higher is better, and the objective at the end."""
    points = [{point["epoch"]: point for point in row["curve"]} for row in rows]
    scores = {
        name: np.array([sign * (by_epoch[epoch].get(key) or 0.0) for by_epoch in points], float)
        for name, (key, sign) in SCORES.items()
    }
    final = np.array([by_epoch[end]["objective"] for by_epoch in points])
    begun = all("share" in row for row in rows)
    if begun:
        scores[INHERITED] = np.array([row["share"] for row in rows])
    told = list(scores.values())
    if not begun:
        first = np.array([by_epoch[1].get("box", np.nan) for by_epoch in points], float)
        scores[MERIT] = merits(scores["objective"], -scores["box loss"], first)
    return scores | {BLEND: blend(np.stack(told, 1), final)}, final


def blend(
    features: Float[np.ndarray, "n f"], final: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """What a ridge of the z-scores of the others expects of each network."""
    expected = np.zeros(len(final))
    for place in range(len(final)):
        others = np.delete(features, place, 0), np.delete(final, place)
        mean, spread = others[0].mean(0), np.maximum(others[0].std(0), 1e-12)
        known, mine = (others[0] - mean) / spread, (features[place] - mean) / spread
        weights = np.linalg.solve(
            known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ others[1]
        )
        expected[place] = others[1].mean() + mine @ weights
    return expected


def judge(score: Float[np.ndarray, " n"], final: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """The correlations with their intervals, and what is lost by keeping a third."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(final), size=(RESAMPLES, len(final)))
    both = np.array([correlations(score[rows], final[rows]) for rows in drawn])
    low, high = np.percentile(both, [2.5, 97.5], axis=0).tolist()
    spearman, kendall = correlations(score, final)
    kept = np.argsort(-score, kind="stable")[: -(-len(score) // KEPT)]
    return {
        "spearman": spearman,
        "spearman_interval": (low[0], high[0]),
        "kendall": kendall,
        "kendall_interval": (low[1], high[1]),
        "lost": float(final.max() - final[kept].max()),
    }


def correlations(
    score: Float[np.ndarray, " n"], final: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Spearman's and Kendall's; 0 where all are equal on a side, which tells nothing."""
    if np.ptp(score) == 0 or np.ptp(final) == 0:
        return 0.0, 0.0
    return float(spearmanr(score, final).statistic), float(kendalltau(score, final).statistic)


def judged(rows: list[dict[str, Any]], at: list[int], end: int) -> list[Row]:
    """The table of some networks; SystemExit where they are too few."""
    if len(rows) < LEAST:
        raise SystemExit(f"expected at least {LEAST} networks trained to the end, got {len(rows)}")
    found = []
    for epoch in at:
        if not all(epoch in scored_epochs(row) for row in rows):
            raise SystemExit(
                f"epoch {epoch} was not scored in every network; name others with --at"
            )
        scores, final = columns(rows, epoch, end)
        found += [Row(epoch, name, **judge(score, final)) for name, score in scores.items()]
    return found


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| after epoch | score | Spearman | 95 % | Kendall | 95 % | lost |",
        "|---:|---|---:|---|---:|---|---:|",
    ]
    for row in rows:
        parts = [str(row.epoch), row.score]
        for value, (low, high) in (
            (row.spearman, row.spearman_interval),
            (row.kendall, row.kendall_interval),
        ):
            parts += [f"{value:.2f}", f"{low:.2f} to {high:.2f}"]
        lines.append(f"| {' | '.join([*parts, f'{row.lost:.3f}'])} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables of all networks and of those in the band."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--at", type=int, nargs="+", help="epochs (a ninth and a third)")
    parser.add_argument("--budget-ms", type=float, nargs="+", default=[],
                        help="also of those measured in the band under each")  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    settings, rows = read(arguments.file)
    end = settings["epochs"]
    at = arguments.at or sorted({max(1, round(end / 9)), max(1, round(end / 3))})
    if settings.get("inherit"):
        # The same networks both ways; the first has nothing to inherit.
        rows = [row for row in rows if INHERITED in row]
    inside = [row for row in rows if row["in_band"]]
    groups = {"all": (rows, at, end), "in the band": (inside, at, end)}
    measured = [row for row in rows if "cost" in row]
    times = np.array([row["cost"]["latency_ms_p95"] for row in measured])
    for ms in arguments.budget_ms:
        band = [measured[place] for place in in_band(times, ms, DEFAULTS.band)]
        groups[f"under {ms:g} ms"] = band, at, end
    if settings.get("inherit"):
        begun = inherited(rows, end)
        later = sorted(set.intersection(*map(scored_epochs, begun)) - {end}) if begun else []
        groups[INHERITED] = (begun, later, end)
        groups["inherited, against its own end"] = (shipped(begun), later[:-1], later[-1])
    result: dict[str, Any] = {"settings": settings}
    for name, (group, epochs, last) in groups.items():
        if name == "in the band" and len(group) in (len(rows), *range(LEAST)):
            continue
        found = judged(group, epochs, last)
        print(f"{name}: {len(group)} networks, against {settings['objective']} after {last} epochs")
        print(f"{table(found)}\n")
        result[name] = {"networks": len(group), "rows": [row._asdict() for row in found]}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
