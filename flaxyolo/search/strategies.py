"""Search strategies over a table of known results: the funnel, and what it is compared with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optuna
from jaxtyping import Float, Int
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from flaxyolo.search.funnel import DEFAULTS, in_band
from flaxyolo.search.known import Known
from flaxyolo.search.simulation import Simulation
from flaxyolo.search.surrogate import one_scale

PENALTIES = 10.0 ** np.arange(-2, 3)
"""Of the plain ridge; leave-one-out chooses."""


class Search(NamedTuple):
    """One search: what it may spend, and its draws."""

    known: Known
    budget_ms: float
    runs: int
    finalists: int
    rng: np.random.Generator


Strategy = Callable[[Search], Int[np.ndarray, " k"]]
"""Returns the rows that it trained fully."""


def funnel(search: Search) -> Int[np.ndarray, " k"]:
    """Ours: cheap runs proposed in the band, and the best of them trained fully."""
    return Simulation(
        search.known,
        search.budget_ms,
        runs=search.runs,
        finalists=search.finalists,
        rng=search.rng,
    ).run()


def random_full(search: Search) -> Int[np.ndarray, " k"]:
    """Random networks in the budget, all trained fully."""
    rows = np.flatnonzero(search.known.latency_ms <= search.budget_ms)
    return search.rng.permutation(rows)[: search.runs]


def random_band_full(search: Search) -> Int[np.ndarray, " k"]:
    """Random networks in the band under the budget, all trained fully."""
    rows = in_band(search.known.latency_ms, search.budget_ms, DEFAULTS.band)
    return search.rng.permutation(rows)[: search.runs]


def cheap_only(search: Search) -> Int[np.ndarray, " k"]:
    """Random cheap runs in the band, and the best of them trained fully."""
    return _best_cheap(search, random_band_full(search))


def _best_cheap(search: Search, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " k"]:
    return rows[np.argsort(-search.known.cheap[rows], kind="stable")[: search.finalists]]


def slowest_that_fits(search: Search) -> Int[np.ndarray, " k"]:
    """The network with the greatest latency in the budget, trained fully."""
    latency = search.known.latency_ms
    return np.array([np.where(latency <= search.budget_ms, latency, -np.inf).argmax()])


def ridge(search: Search) -> Int[np.ndarray, " k"]:
    """Cheap runs in the band, every second by the best score that a plain ridge predicts."""
    known, tried = search.known, []
    scaled = one_scale(known.features)
    rest = in_band(known.latency_ms, search.budget_ms, DEFAULTS.band)
    while len(tried) < search.runs and len(rest):
        if len(tried) < search.runs / 2:
            place = int(search.rng.integers(len(rest)))
        else:
            place = int(ridge_scores(scaled[tried], known.cheap[tried], scaled[rest]).argmax())
        tried.append(int(rest[place]))
        rest = np.delete(rest, place)
    return _best_cheap(search, np.array(tried))


def ridge_scores(
    features: Float[np.ndarray, "m f"],
    scores: Float[np.ndarray, " m"],
    others: Float[np.ndarray, "n f"],
) -> Float[np.ndarray, " n"]:
    """Ridge with an intercept; the penalty has the least error when each run is left out."""
    centre, mean = features.mean(0), scores.mean()
    left, _, right = np.linalg.svd(features - centre, full_matrices=False)
    singular = np.linalg.norm((features - centre) @ right.T, axis=0)
    seen = left.T @ (scores - mean)
    best, weights = np.inf, np.zeros(features.shape[1])
    for penalty in PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = (left**2) @ shrunk + 1 / len(scores)
        residual = (scores - mean - left @ (shrunk * seen)) / np.maximum(1 - leverage, 1e-3)
        error = float((residual**2).mean())
        if error < best:
            best = error
            weights = right.T @ (singular / (singular**2 + penalty) * seen)
    return (others - centre) @ weights + mean


def tpe(search: Search) -> Int[np.ndarray, " k"]:
    """Optuna's TPE alone over the networks in the budget, all trained fully.

    A draw that is no line of the table, or was one before, stands for the nearest that is left.
    """
    known = search.known
    rest = np.flatnonzero(known.latency_ms <= search.budget_ms)
    kinds: dict[str, BaseDistribution] = {}
    for place, numeric in enumerate(known.ordered):
        most = int(known.codes[rest, place].max())
        values = tuple(range(int(known.codes[:, place].max()) + 1))
        kind = IntDistribution(0, most) if numeric else CategoricalDistribution(values)
        if not kind.single():
            kinds[str(place)] = kind
    sampler = optuna.samplers.TPESampler(seed=int(search.rng.integers(2**31)))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    columns = np.array([int(name) for name in kinds], int)
    numeric = np.array([known.ordered[place] for place in columns], bool)
    spans = np.maximum(np.ptp(known.codes[:, columns], axis=0), 1)
    tried = []
    while len(tried) < search.runs and len(rest):
        trial = study.ask(kinds)
        drawn = np.array([trial.params[name] for name in kinds], int)
        apart = known.codes[rest][:, columns] - drawn
        distance = np.where(numeric, np.abs(apart) / spans, apart != 0).sum(1)
        nearest = np.flatnonzero(distance == distance.min())
        place = int(search.rng.choice(nearest))
        row = int(rest[place])
        params = {name: int(known.codes[row, int(name)]) for name in kinds}
        # The trial as asked is left behind; the one that counts has the parameters of the row.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        value = float(known.full[row])
        study.add_trial(optuna.create_trial(params=params, distributions=kinds, value=value))
        tried.append(row)
        rest = np.delete(rest, place)
    return np.array(tried)


STRATEGIES: dict[str, Strategy] = {
    "funnel": funnel,
    "random_full": random_full,
    "random_band_full": random_band_full,
    "tpe": tpe,
    "slowest_that_fits": slowest_that_fits,
    "ridge": ridge,
    "cheap_only": cheap_only,
}
