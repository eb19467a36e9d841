"""The runs of a study in one unit, and which of them the surrogate is given."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Runs(NamedTuple):
    """What was trained in one study, a row for each score; rows of equal features are one run.

    A run has a row for its last score at least. One that went through several rungs may have a row
    for each of them, which tells how the scores of two rungs compare.
    """

    features: Float[np.ndarray, "m f"]
    """In the columns of the candidates."""
    scores: Float[np.ndarray, " m"]
    """Higher is better, in any unit; NaN where a run has begun and has no score yet."""
    shares: Float[np.ndarray, " m"]
    """Share of the short schedule that the score was taken at; scores compare within a share."""


class Own(NamedTuple):
    """One study's runs, one row each, with scores of all shares in one unit: mean 0, variance 1."""

    features: Float[np.ndarray, "r f"]
    scores: Float[np.ndarray, " r"]
    shares: Float[np.ndarray, " r"]
    """Of the last score."""
    noise: Float[np.ndarray, " r"]
    """Variance against that of a score at the greatest share: a short run tells less."""
    rows: Int[np.ndarray, " r"]
    """Row of the last score in `Runs`."""
    waiting: Float[np.ndarray, "w f"]
    """Runs that have no score yet."""
    centre: float
    unit: float
    """A score at the greatest share is `centre + unit * score`."""


def in_one_unit(runs: Runs) -> Own:
    """The last score of each run, comparable with those that stopped at another share.

    Runs with a score at two shares tie their scales together: they get the same mean and spread at
    both. So the few that went on keep their lead, which they lose where each share is brought to
    one scale by itself. Where no run has both, those that went on are put above the others.
    """
    names = [features.tobytes() for features in runs.features]
    known = np.isfinite(runs.scores)
    level: dict[bytes, float] = {}
    last: dict[bytes, int] = {}
    centre, unit = 0.0, 1.0
    for share in np.unique(runs.shares[known]):
        rows = np.flatnonzero(known & (runs.shares == share))
        scores = runs.scores[rows]
        common = [place for place, row in enumerate(rows) if names[row] in level]
        before = np.array([level[names[rows[place]]] for place in common])
        if not level:
            centre, unit = float(scores.mean()), float(scores.std()) or unit
        elif common:
            if np.ptp(before) > 0 and np.ptp(scores[common]) > 0:
                unit = float(scores[common].std() / before.std())
            centre = float(scores[common].mean() - unit * before.mean())
        else:
            centre = float(scores.mean() - unit * max(level.values()))
        level |= {names[row]: (runs.scores[row] - centre) / unit for row in rows}
        last |= {names[row]: int(row) for row in rows}
    rows = np.array(sorted(last.values()), int)
    scores = np.array([level[names[row]] for row in rows])
    mean, spread = (float(scores.mean()), float(scores.std()) or 1.0) if len(rows) else (0.0, 1.0)
    shares = runs.shares[rows]
    waiting = {name: row for row, name in enumerate(names) if name not in last}
    return Own(
        features=runs.features[rows],
        scores=(scores - mean) / spread,
        shares=shares,
        noise=shares.max(initial=0.0) / shares,
        rows=rows,
        waiting=runs.features[np.array(list(waiting.values()), int)],
        centre=centre + unit * mean,
        unit=unit * spread,
    )


def thinned(study: Own, most: int) -> Own:
    """At most so many runs, evenly spaced from the worst to the best."""
    count = len(study.scores)
    if count <= most:
        return study
    return select(study, np.argsort(study.scores)[np.linspace(0, count - 1, most).astype(int)])


def fitted_on(own: Own, most: int) -> Int[np.ndarray, " k"]:
    """Places of at most so many runs of a study, by which the surrogate is fitted.

    A quarter are the best of those that went furthest, a quarter the last, which are near what is
    tried now, and the rest are spread evenly from the worst to the best. They follow from the
    study alone, so that every worker fits the same.
    """
    count = len(own.scores)
    if count <= most:
        return np.arange(count)
    ranked = np.lexsort((own.scores, own.shares))
    some = most // 4
    kept = {*ranked[-some:].tolist(), *range(count - some, count)}
    rest = np.array([place for place in np.argsort(own.scores) if place not in kept], int)
    spread = rest[np.linspace(0, len(rest) - 1, most - len(kept)).astype(int)]
    return np.array(sorted(kept | set(spread.tolist())), int)


def select(own: Own, keep: Int[np.ndarray, " k"]) -> Own:
    """Some of the runs with scores; those that wait all stay."""
    return own._replace(
        features=own.features[keep],
        scores=own.scores[keep],
        shares=own.shares[keep],
        noise=own.noise[keep],
        rows=own.rows[keep],
    )
