"""What the funnel decides: which candidate is tried next, which goes on, which is trained fully.

Plain numbers in and out. A sweep and a replay of a table of known results call the same functions,
and so a table tells how good a sweep's decisions are. Every decision follows from what was run, so
any worker can make it; nothing is kept in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr

from flaxyolo.search.surrogate import Fit, predict
from flaxyolo.search.units import Own, Runs, fitted_on, in_one_unit, select, thinned


class Candidates(NamedTuple):
    """What may be tried next: not tried yet, and drawn from the space."""

    features: Float[np.ndarray, "n f"]
    """Of the architecture, log latency, zero-cost scores; in any unit, NaN where unknown."""
    latency_ms: Float[np.ndarray, " n"]
    """Predicted or measured."""


class Choice(NamedTuple):
    """A candidate to try."""

    place: int
    """Among the candidates."""
    origin: Literal["surrogate", "explore"]
    predicted: float | None
    """The score that the surrogate expects, in the unit of the scores with the greatest share."""


@dataclass(frozen=True)
class FunnelSettings:
    """How the funnel decides; none of it depends on the data, the device or the space."""

    band: tuple[float, float] = (0.7, 1.0)
    """Latency of the candidates, as shares of the budget."""
    first: int = 4
    """Runs with a score that the surrogate needs; until then candidates are drawn at random."""
    explore: float = 0.1
    """Share of the later candidates that is drawn at random all the same."""
    trust: float = 0.5
    """Weight of a run's own short score against the surrogate's for it, among finalists.

    What similar candidates share lasts into the full schedule, and luck and quirks of one do not.
    """
    least_score: float = 0.01
    """Score below which a network has learnt nothing; a rung that nobody passes stops nobody."""
    least_reliability: float = 0.5
    """Share of the variance of a rung's scores that is not noise, below which it tells nothing."""
    most_rows: int = 200
    """Scores of earlier studies that the surrogate is given in all."""
    guided: int = 40
    """Scores of the study itself from which on it does without what other data have shown."""
    most_own: int = 200
    """Runs of the study itself that it is given: a fit takes the cube of their number."""
    merit: tuple[float, float, float] = (0.1, 0.3, 0.6)
    """What score, box loss of the first epoch and box loss of the last so far weigh at a rung.

    Learnt by a ridge from 226 networks on three data sets, a ninth and a third into their schedule,
    of their places at its end. With what the others say, a set is ordered after a ninth by 0.75 as
    it ends (Spearman, mean of the bands of budgets; 0.58 by score and last box loss alike), after a
    third by 0.83 (0.68); benchmarks/early_merit.py.
    """


DEFAULTS = FunnelSettings()


def propose(
    candidates: Candidates,
    runs: Runs,
    *,
    budget_ms: float,
    turn: int,
    rng: np.random.Generator,
    earlier: Sequence[Runs] = (),
    elsewhere: Sequence[Runs] = (),
    settings: FunnelSettings = DEFAULTS,
) -> Choice:
    """The candidate to try as number `turn`, counted from 0, in the band under the budget.

    It is the one with the greatest expected improvement over the best score so far (Jones,
    Schonlau and Welch 1998), and every tenth turn a random one. Where no candidate is in the band,
    all that fit are considered, and without one that fits there is a ValueError. Runs of `earlier`
    studies of the same data count from the first turn on, each study in its own unit. Without any,
    runs of studies `elsewhere`, on other data, do; where the first few they led to all have the
    same score, they are no help, and turns are random until the study's own runs tell something.
    """
    places = in_band(candidates.latency_ms, budget_ms, settings.band)
    own = in_one_unit(runs)
    others = _telling(earlier, settings)
    of_no_help = len(own.scores) >= settings.first and not _tells(own, settings)
    if not others and not of_no_help and len(own.scores) < settings.guided:
        others = _telling(elsewhere, settings)
    if not (others or _tells(own, settings)) or _explores(turn, settings.explore):
        return Choice(int(rng.choice(places)), "explore", None)
    if not _tells(own, settings):
        # Too few to have a unit of their own beside earlier studies: they only take up their place.
        own = select(own, np.arange(0))._replace(
            waiting=np.concatenate([own.waiting, own.features])
        )
    few = select(own, fitted_on(own, settings.most_own))
    fit = _predict(candidates.features, places, few, others)
    best = float(own.scores.max()) if len(own.scores) else float(fit.mean.max())
    place = int(expected_improvement(fit.mean, fit.spread, best).argmax())
    value = own.centre + own.unit * float(fit.mean[place]) if len(own.scores) else None
    return Choice(int(places[place]), "surrogate", value)


def next_finalist(
    runs: Runs, taken: Sequence[int] = (), *, settings: FunnelSettings = DEFAULTS
) -> int:
    """The row of the run that is trained on the full schedule after those `taken`.

    Of the runs that went furthest it is the one with the best score, after half of what sets it
    apart from the surrogate's score for it is taken away. No full result is needed, so all may be
    asked for at once.
    """
    return next_finalists(runs, 1, taken, settings=settings)[0]


def next_finalists(
    runs: Runs, count: int, taken: Sequence[int] = (), *, settings: FunnelSettings = DEFAULTS
) -> list[int]:
    """So many of `next_finalist`, one after the other; ValueError where there are fewer."""
    own = in_one_unit(runs)
    names = [features.tobytes() for features in own.features]
    gone = {runs.features[row].tobytes() for row in taken}
    value, chosen = None, []
    while len(chosen) < count:
        left = np.array([name not in gone for name in names], bool)
        if not left.any():
            raise ValueError(f"no run with a score is left beside {len(gone)} taken")
        if value is None:
            value = _lasting(own, settings)
        furthest = left & (own.shares == own.shares[left].max())
        place = int(np.where(furthest, value, -np.inf).argmax())
        gone.add(names[place])
        chosen.append(int(own.rows[place]))
    return chosen


def _lasting(own: Own, settings: FunnelSettings) -> Float[np.ndarray, " r"]:
    """What of each run's score is expected to last into the full schedule."""
    known = fitted_on(own, settings.most_own)
    fit = predict(
        own.features, known, own.scores[known], np.arange(len(own.scores)), noise=own.noise[known]
    )
    return settings.trust * own.scores + (1 - settings.trust) * fit.mean


def in_band(
    latency_ms: Float[np.ndarray, " n"], budget_ms: float, band: tuple[float, float]
) -> Int[np.ndarray, " k"]:
    """Places of the candidates in the band, of all inside its upper end where there are none."""
    fits = latency_ms <= band[1] * budget_ms
    if not fits.any():
        raise ValueError(f"none of {len(latency_ms)} candidates is within {budget_ms:g} ms")
    inside = fits & (latency_ms >= band[0] * budget_ms)
    return np.flatnonzero(inside if inside.any() else fits)


def expected_improvement(
    mean: Float[np.ndarray, " n"], spread: Float[np.ndarray, " n"], best: float
) -> Float[np.ndarray, " n"]:
    """How far above `best` each is expected to be, counting those below as 0."""
    spread = np.maximum(spread, 1e-12)
    ahead = (mean - best) / spread
    density = np.exp(-(ahead**2) / 2) / np.sqrt(2 * np.pi)
    return spread * (ahead * ndtr(ahead) + density)


def promoted(
    scores: Float[np.ndarray, " n"],
    reduction: int = 3,
    *,
    noise: Float[np.ndarray, " n"] | None = None,
    merit: Float[np.ndarray, " n"] | None = None,
    round_up: bool = False,
    settings: FunnelSettings = DEFAULTS,
) -> Bool[np.ndarray, " n"]:
    """Which of all runs that ever reached a rung may go on: the best of every `reduction`.

    Asynchronous successive halving (arXiv 1810.05934): with n runs so far that is n // reduction
    of them, or the same rounded up when no more runs are to come; the best are those of the most
    `merit`, by default the score. Of equals the earlier row is first. A run whose score is NaN
    never goes on. A rung that tells nothing drops nobody, and all go on: while no score reaches
    `least_score`, and where the scores differ by no more than their `noise`, standard errors with
    NaN where unknown, accounts for.
    """
    known = np.isfinite(scores)
    if not (scores[known] >= settings.least_score).any():
        return known
    # Of fewer than a share the spread says little, unless no more are to come.
    enough = known.sum() >= (2 if round_up else max(2, reduction))
    if enough and noise is not None and reliability(scores, noise) < settings.least_reliability:
        return known
    count = ceil(len(scores) / reduction) if round_up else len(scores) // reduction
    order = np.argsort(-np.where(known, scores if merit is None else merit, -np.inf), kind="stable")
    ahead = np.zeros(len(scores), bool)
    ahead[order[:count]] = True
    return ahead & known


def merits(
    scores: Float[np.ndarray, " n"],
    box_loss: Float[np.ndarray, " n"],
    first_box_loss: Float[np.ndarray, " n"] | None = None,
    *,
    settings: FunnelSettings = DEFAULTS,
) -> Float[np.ndarray, " n"]:
    """What runs from fresh weights are told apart by at a rung, from most to least promising.

    The score and, turned round, the mean box losses of the epoch and of the first epoch, each in
    units of its spread and weighed as they tell of the end (`FunnelSettings.merit`). The box loss
    is 1 - CIoU whatever the network; the loss as a whole and its class term tell nothing of it.
    While no score reaches `least_score` the losses decide alone; where a box loss is NaN, the
    scores do. Without the first epoch's that of the epoch counts for both.
    """
    if len(scores) < 2 or not np.isfinite(box_loss).all():
        return scores
    if first_box_loss is None or not np.isfinite(first_box_loss).all():
        first_box_loss = box_loss
    known = np.isfinite(scores)
    learnt = bool((scores[known] >= settings.least_score).any())
    of_score, of_first, of_last = settings.merit
    told = of_score * _in_spreads(scores) if learnt else np.where(known, 0.0, np.nan)
    return told - of_first * _in_spreads(first_box_loss) - of_last * _in_spreads(box_loss)


def _in_spreads(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Less their mean, in units of their standard deviation; 0 where all are equal."""
    spread = float(np.nanstd(values))
    return (values - np.nanmean(values)) / spread if spread else 0 * values


def reliability(scores: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]) -> float:
    """The share of the scores' variance that their mean noise variance leaves over, 0 to 1.

    Only rows of a known score and noise count; 1 with fewer than two of them.
    """
    known = np.isfinite(scores) & np.isfinite(noise)
    if known.sum() < 2:
        return 1.0
    spread = float(scores[known].var(ddof=1))
    if not spread:
        return 0.0
    return max(0.0, 1 - float((noise[known] ** 2).mean()) / spread)


def _predict(
    features: Float[np.ndarray, "n f"], places: Int[np.ndarray, " k"], own: Own, others: list[Own]
) -> Fit:
    """Scores of candidates in the study's own unit.

    A run without a score yet counts as if it had the score that is expected for it, so that
    workers that ask in the meantime are sent elsewhere.
    """
    studies = [own, *others]
    count, sizes = len(features), [len(study.scores) for study in studies]
    stacked = np.concatenate([features, *(study.features for study in studies), own.waiting])
    study = np.repeat(np.arange(len(studies) + 2), [count, *sizes, len(own.waiting)])
    # Candidates and runs that wait belong to this study, which is number 0.
    study = np.where(study > len(studies), 0, np.maximum(study - 1, 0))
    rows = np.arange(count, count + sum(sizes))
    scores = np.concatenate([each.scores for each in studies])
    noise = np.concatenate([each.noise for each in studies])
    waiting = np.arange(count + sum(sizes), len(stacked))
    if len(waiting) and len(rows):
        expected = predict(stacked, rows, scores, waiting, noise=noise, study=study).mean
        rows = np.concatenate([rows, waiting])
        scores = np.concatenate([scores, expected])
        noise = np.concatenate([noise, np.ones(len(waiting))])
    return predict(stacked, rows, scores, places, noise=noise, study=study)


def _telling(studies: Sequence[Runs], settings: FunnelSettings) -> list[Own]:
    """Of other studies those that tell something, thinned to so many runs in all."""
    most = max(settings.first, settings.most_rows // max(1, len(studies)))
    thin = [thinned(in_one_unit(study), most) for study in studies]
    return [study for study in thin if _tells(study, settings)]


def _tells(study: Own, settings: FunnelSettings) -> bool:
    """Whether a study has enough different scores to go by."""
    return len(study.scores) >= settings.first and bool(np.ptp(study.scores) > 0)


def _explores(turn: int, share: float) -> bool:
    """Whether the whole number of random candidates so far rises with this turn."""
    return int((turn + 1) * share + 1e-9) > int(turn * share + 1e-9)
