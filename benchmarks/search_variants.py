"""What would make the search better? Changes of its decisions, one at a time, on a trained table.

Each change is played against the search as it is, in as many epochs of training, on the same
networks with the same luck of seeds (`benchmarks.replay_trained`); the number of candidates follows
from the epochs. Told is what the change gains, in the objective and in standard deviations of it
among the networks in the band, with 95 % intervals by bootstrap over families and networks.
`--fixed` is what a candidate costs beside its training, compiled and measured as it is, in epochs.

    python -m benchmarks.search_variants benchmarks/tables/digits.jsonl --epochs 120 240
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.landscape import SEEDS, Landscape, enough, landscape, resampled
from benchmarks.replay_trained import FINALISTS
from benchmarks.trained import read
from flaxyolo.base.files import replace_file
from flaxyolo.crew.record import CHEAP, Record
from flaxyolo.search import funnel, schedule, simulation
from flaxyolo.search.earlier import Scored, scored_candidates
from flaxyolo.search.funnel import DEFAULTS, in_band
from flaxyolo.search.simulation import Simulation
from flaxyolo.search.spending import Spending, rungs

USUAL = "as it is"
EPOCHS = (120, 240)
MOST = 60
"""Candidates of a search."""
MATCHED = 12
"""Searches for each budget that tell how many epochs so many candidates take."""


class Variant(NamedTuple):
    """A change of what the search decides."""

    names: dict[str, Any]
    """Of modules' functions and numbers, with what stands in for them."""
    rungs: tuple[int, ...] = ()
    """Epochs after which candidates wait for each other; empty: as usual."""
    finalists: int = FINALISTS
    seeds: int = SEEDS
    mean_box: bool = False
    """Whether the box losses are those of all epochs so far."""
    elsewhere: bool = False
    """Whether another table is what other data have shown."""


@dataclass(frozen=True)
class OtherRungs(Spending):
    """What a search may spend, with rungs of its own."""

    others: tuple[int, ...] = ()

    @property
    def rungs(self) -> tuple[int, ...]:
        return self.others


def settings(**changed: Any) -> dict[str, Any]:
    """The functions of the funnel with other settings."""
    other = replace(DEFAULTS, **changed)
    return {
        "simulation.propose": partial(funnel.propose, settings=other),
        "schedule.promoted": partial(funnel.promoted, settings=other),
        "schedule.merits": partial(funnel.merits, settings=other),
        "schedule.next_finalists": partial(funnel.next_finalists, settings=other),
    }


def by_score(scores: Float[np.ndarray, " n"], *_: Any) -> np.ndarray:
    """The score alone."""
    return scores


def by_box(scores: Float[np.ndarray, " n"], box: Float[np.ndarray, " n"], *_: Any) -> np.ndarray:
    """The box loss alone."""
    return -box if np.isfinite(box).all() else scores


def with_merits(
    found: Sequence[Record], short_epochs: int, *, unscored: bool = False
) -> list[Scored]:
    """Scored candidates whose scores before the end are merits, as far apart as the scores were."""
    scored = scored_candidates(found, short_epochs, unscored=unscored)
    by_number = {each.number: each for each in found}
    for share in {each.share for each in scored if each.share < 1}:
        places = [place for place, each in enumerate(scored) if each.share == share]
        if len(places) < 2:
            continue
        points = [by_number[scored[place].number].point_at(round(share * short_epochs))
                  for place in places]  # fmt: skip
        scores = np.array([scored[place].score for place in places])
        boxes = np.array([point.loss.get("box", math.nan) for point in points if point], float)
        firsts = [by_number[scored[place].number].point_at(1) for place in places]
        first = np.array([point.loss.get("box", math.nan) if point else math.nan
                          for point in firsts], float)  # fmt: skip
        merit = funnel.merits(scores, boxes, first)
        spread = scores.std() or DEFAULTS.least_score
        merit = scores.mean() + spread * (merit - merit.mean()) / (merit.std() or 1.0)
        for place, value in zip(places, merit.tolist(), strict=True):
            scored[place] = scored[place]._replace(score=value)
    return scored


def learning_from_merits() -> dict[str, Any]:
    """What has the surrogate see merits before the end."""
    return {f"{module}.scored_candidates": with_merits for module in ("simulation", "schedule")}


def all_go_on(scores: Float[np.ndarray, " n"], *_: Any, **__: Any) -> Bool[np.ndarray, " n"]:
    """No candidate is stopped before its end."""
    return np.isfinite(scores)


def shares(end: int) -> tuple[int, ...]:
    """A sixth, two ninths, a third and a half of a schedule, and its end."""
    return (*(round(end * share) for share in (1 / 6, 2 / 9, 1 / 3, 1 / 2)), end)


def variants(epochs: int) -> dict[str, Variant]:
    """The changes, by name, in schedules of so many epochs."""
    sixth, two_ninths, third, half, end = shares(epochs)
    return {
        USUAL: Variant({}),
        "surrogate learns from merits": Variant(learning_from_merits()),
        "the same, and rungs by mean box": Variant(learning_from_merits(), mean_box=True),
        "rungs by mean box": Variant({}, mean_box=True),
        "rungs by mean box alone": Variant({"schedule.merits": by_box}, mean_box=True),
        "never at random": Variant(settings(explore=0.0)),
        "one in three at random": Variant(settings(explore=0.34)),
        "band from 0.85 of the budget": Variant(settings(band=(0.85, 1.0))),
        "band from 0.5 of the budget": Variant(settings(band=(0.5, 1.0))),
        "rungs by the score alone": Variant({"schedule.merits": by_score}),
        "rungs by the box loss alone": Variant({"schedule.merits": by_box}),
        "rungs by score and box loss alike": Variant(settings(merit=(0.5, 0.0, 0.5))),
        "a half goes on": Variant({"schedule.REDUCTION": 2}),
        "no rung at a ninth": Variant({}, (third, end)),
        "no rung at a ninth, a half goes on": Variant({"schedule.REDUCTION": 2}, (third, end)),
        "rungs at a sixth and a half": Variant({}, (sixth, half, end)),
        "the same, by the score alone": Variant({"schedule.merits": by_score}, (sixth, half, end)),
        "a rung at two ninths": Variant({}, (two_ninths, end)),
        "the same, a half goes on": Variant({"schedule.REDUCTION": 2}, (two_ninths, end)),
        "rungs at two ninths and a half": Variant({}, (two_ninths, half, end)),
        "all to the end": Variant({"schedule.promoted": all_go_on}),
        "finalists by their own score": Variant(settings(trust=1.0)),
        "finalists by the surrogate": Variant(settings(trust=0.0)),
        "surrogate after 6": Variant(settings(first=6)),
        "one finalist": Variant({}, finalists=1),
        "two finalists": Variant({}, finalists=2),
        "five finalists": Variant({}, finalists=5),
        "one seed": Variant({}, seeds=1),
        "two seeds": Variant({}, seeds=2),
        "two finalists, two seeds": Variant({}, finalists=2, seeds=2),
    }


@contextmanager
def standing_in(names: dict[str, Any]) -> Iterator[None]:
    """Inside, these names of modules are something else."""
    modules = {"simulation": simulation, "schedule": schedule}
    with ExitStack() as stack:
        for name, value in names.items():
            module, _, attribute = name.partition(".")
            stack.enter_context(patch.object(modules[module], attribute, value))
        yield


def landscape_of(path: Path, before: Path | None = None) -> tuple[dict[str, Any], Landscape]:
    """A table with what its networks show at every rung of a change."""
    end = read(path).settings["epochs"]
    return landscape(path, tuple(sorted({*rungs(end), *shares(end)})), before)


class Played(NamedTuple):
    """What one search has come to."""

    shipped: float
    epochs: int
    """Of training."""
    tried: int
    """Candidates."""


def play(
    land: Landscape, variant: Variant, budget_ms: float, candidates: int, key: Sequence[int]
) -> Played:
    """One search, with the luck of this key."""
    rng = np.random.default_rng(key)
    known = land.shown(rng, mean_box=variant.mean_box)
    own = variant.rungs or rungs(land.rungs[-1])
    at = [land.rungs.index(rung) for rung in own]
    known = known._replace(
        rungs=own,
        curves=known.curves[:, at],
        boxes=None if known.boxes is None else known.boxes[:, at],
        errors=None if known.errors is None else known.errors[:, at],
    )
    with standing_in(variant.names):
        search = Simulation(
            known, budget_ms, runs=candidates, finalists=variant.finalists, rng=rng,
            elsewhere=[land.elsewhere] if variant.elsewhere else [],
        )  # fmt: skip
        search.spending = replace(search.spending, seeds=search.spending.seeds[: variant.seeds])
        search.spending = OtherRungs(**vars(search.spending), others=own)
        search.run()
    tried = sum(record.stage == CHEAP for record in search.records)
    shipped = float(land.curves.objective[search.chosen(), -1])
    return Played(shipped, search.trained_epochs(), tried)


def candidates_for(
    land: Landscape,
    variant: Variant,
    budgets: Sequence[float],
    epochs: int,
    seed: int,
    fixed: float = 0.0,
) -> int:
    """The most candidates that take no more than so many epochs on average, each with `fixed` ones
    beside those it is trained for."""
    low, high = 3, MOST + 1
    while high - low > 1:
        middle = (low + high) // 2
        played = [
            play(land, variant, ms, middle, (seed, 7, place, again))
            for place, ms in enumerate(budgets)
            for again in range(MATCHED)
        ]
        taken = np.mean([each.epochs + fixed * each.tried for each in played])
        low, high = (middle, high) if taken <= epochs else (low, middle)
    return low


def quality(
    land: Landscape,
    variant: Variant,
    budgets: Sequence[float],
    candidates: int,
    repeats: int,
    seed: int,
) -> Float[np.ndarray, "b r"]:
    """What searches ship, under each budget."""
    return np.array(
        [
            [
                play(land, variant, ms, candidates, (seed, place, again)).shipped
                for again in range(repeats)
            ]
            for place, ms in enumerate(budgets)
        ]
    )


def spreads(land: Landscape, budgets: Sequence[float]) -> Float[np.ndarray, " b"]:
    """Standard deviation of the objective among the networks in each band."""
    truth = land.curves.objective[:, -1]
    return np.array([truth[in_band(land.latency_ms, ms, DEFAULTS.band)].std() for ms in budgets])


def main() -> None:
    """Print and keep what each change gains."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--budget-ms", type=float, nargs="+", help="others than the table's")
    parser.add_argument("--epochs", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--fixed", type=float, default=0.0, help="epochs' worth of each candidate")
    parser.add_argument("--repeats", type=int, default=60, help="searches for each budget")
    parser.add_argument("--tables", type=int, default=60, help="resampled, for intervals")
    parser.add_argument("--each", type=int, default=4, help="searches on each of these, a budget")
    parser.add_argument("--before", type=Path, help="a table of other data: experience")
    parser.add_argument("--only", nargs="+", help="names of changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    told, land = landscape_of(arguments.table, arguments.before)
    budgets = arguments.budget_ms or told["budget_ms"]
    if not enough(land, budgets):
        raise SystemExit(f"{arguments.table}: too few networks in a band of {budgets} ms")
    chosen = variants(land.rungs[-1])
    if land.elsewhere:
        chosen["another table as experience"] = Variant({}, elsewhere=True)
    if arguments.only:
        chosen = {name: chosen[name] for name in (USUAL, *arguments.only)}
    rng = np.random.default_rng(arguments.seed)
    others: list[Landscape] = []
    while len(others) < arguments.tables:
        drawn = resampled(land, rng)
        if enough(drawn, budgets):
            others.append(drawn)
    rows: list[dict[str, Any]] = []
    print("| epochs | change | candidates | gain, objective | gain, SD of band | 95 % |"
          "\n|---:|---|---:|---:|---:|---|")  # fmt: skip
    for epochs in arguments.epochs:
        counts = {
            name: candidates_for(land, variant, budgets, epochs, arguments.seed, arguments.fixed)
            for name, variant in chosen.items()
        }
        played: Callable[..., Any] = partial(quality, budgets=budgets)
        usual = played(land, chosen[USUAL], candidates=counts[USUAL], repeats=arguments.repeats,
                       seed=arguments.seed)  # fmt: skip
        again = [
            played(one, chosen[USUAL], candidates=counts[USUAL], repeats=arguments.each, seed=place)
            for place, one in enumerate(others)
        ]
        for name, variant in chosen.items():
            row: dict[str, Any] = {"epochs": epochs, "change": name, "candidates": counts[name]}
            if name == USUAL:
                row["shipped"] = usual.mean(1).tolist()
                print(f"| {epochs} | {name} | {counts[name]} | | | |", flush=True)
                rows.append(row)
                continue
            mine = played(land, variant, candidates=counts[name], repeats=arguments.repeats,
                          seed=arguments.seed)  # fmt: skip
            gain = (mine - usual).mean(1)
            row |= {"objective": float(gain.mean()),
                    "spreads": float((gain / spreads(land, budgets)).mean())}  # fmt: skip
            ends = ""
            if others:
                gains = [
                    float(((played(one, variant, candidates=counts[name], repeats=arguments.each,
                                   seed=place) - before).mean(1) / spreads(one, budgets)).mean())
                    for place, (one, before) in enumerate(zip(others, again, strict=True))
                ]  # fmt: skip
                row["spreads_interval"] = np.percentile(gains, [2.5, 97.5]).tolist()
                ends = "{:+.2f} to {:+.2f}".format(*row["spreads_interval"])
            rows.append(row)
            print(f"| {epochs} | {name} | {counts[name]} | {row['objective']:+.3f} "
                  f"| {row['spreads']:+.2f} | {ends} |", flush=True)  # fmt: skip
    if arguments.json:
        result = {"table": str(arguments.table), "networks": len(land.features),
                  "budget_ms": budgets, "fixed": arguments.fixed, "date": time.strftime("%Y-%m-%d"),
                  "rows": rows}  # fmt: skip
        replace_file(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
