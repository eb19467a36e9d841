"""A small surrogate for the scores of a few dozen runs: a Gaussian process that picks its own form.

Its kernel is a sum of a linear part (Bayesian ridge) and a Matern part of smoothness 5/2, after
features are brought to one scale. How smooth, how linear and how noisy the scores are is not
chosen: every form of a coarse grid is fitted, its amplitude worked out from the scores, and the
forms are averaged by their marginal likelihood. So few points cannot mislead an optimiser, the
spread holds what is not known about the form itself, and a fit is a dozen small eigenproblems
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections
2.2, 2.3 and 5.2).

Notation, with m scores known, c candidates, k forms of the kernel and v amounts of noise:
  targets    y, m: the scores, centred, in their own unit
  kernels    K, k x m x (m + c): covariances before the amplitude, and `own` k(x, x) of candidates
  values     l and `vectors` U, of K = U diag(l) U'; `turned` is U' in units of each score's noise
  inverse    1 / (l + s2), k x v x m, for each variance s2 of NOISE
  seen       U'y, and `cross` U'K of the candidates
  amplitude  a2, k x v: the factor of K and s2; `share` the weight of each form
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Length scales of the Matern part, in root mean square distances between two candidates."""
LINEAR = (0.0, 0.5, 0.9)
"""Shares of the linear part in the variance."""
NOISE = (0.01, 0.05, 0.2)
"""Variances of the noise, in variances of the scores."""
LIKENESS = (0.0, 0.5, 0.9)
"""Correlations between two studies of the same data; only fitted where there are several."""
PRIOR_COUNT = 4.0
"""Scores that the prior of the amplitude counts for (inverse gamma, around the scores' own)."""
FARTHEST = 4.0
"""Standard deviations at which a feature is cut off, so that no outlier bends the linear part."""


class Fit(NamedTuple):
    """Predicted scores of candidates: mean and standard deviation, in the unit of the scores."""

    mean: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"]


def one_scale(features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n g"]:
    """Features with mean 0 and variance 1; columns of one value are dropped, unknown becomes 0.

    Columns of 0 and 1 are not stretched: a family that is rare would be far from all others.
    """
    known = np.isfinite(features)
    count = np.maximum(known.sum(0), 1)
    values = np.where(known, features, 0.0)
    centred = np.where(known, values - values.sum(0) / count, 0.0)
    spread = np.sqrt((centred**2).sum(0) / count)
    binary = ((values == 0) | (values == 1)).all(0)
    varies = spread > 1e-9 * np.abs(values).max(0, initial=0.0)
    scaled = centred[:, varies] / np.where(binary, 1.0, spread)[varies]
    return np.clip(scaled, -FARTHEST, FARTHEST)


def squared_distances(
    scaled: Float[np.ndarray, "m g"], others: Float[np.ndarray, "n g"], mean: float
) -> Float[np.ndarray, "m n"]:
    """Squared distances in units of their mean."""
    squares = (scaled**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * scaled @ others.T
    return np.maximum(squares, 0.0) / mean


def mean_squared_distance(scaled: Float[np.ndarray, "n g"]) -> float:
    """The mean over pairs of rows, or 1 where all rows are alike."""
    return 2 * float(scaled.var(0).sum()) or 1.0


def matern(squares: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """The Matern kernel of smoothness 5/2 at squared distances in length scales."""
    root = np.sqrt(5 * squares)
    return (1 + root + root**2 / 3) * np.exp(-root)


def predict(
    features: Float[np.ndarray, "n f"],
    rows: Int[np.ndarray, " m"],
    scores: Float[np.ndarray, " m"],
    at: Int[np.ndarray, " c"],
    *,
    noise: Float[np.ndarray, " m"] | None = None,
    study: Int[np.ndarray, " n"] | None = None,
) -> Fit:
    """Scores that candidates `at` would have, from those of `rows`; both index `features`.

    `noise` is how much noisier than others a score is, and `study` tells studies apart, whose
    scores are alike but not the same. Without scores every candidate gets the prior, 0 and 1.
    """
    if len(rows) == 0:
        return Fit(np.zeros(len(at)), np.ones(len(at)))
    centre, unit = float(scores.mean()), float(scores.std())
    if unit <= 1e-12 * max(1.0, abs(centre)):
        return Fit(np.full(len(at), centre), np.zeros(len(at)))
    targets = (scores - centre) / unit
    root = np.ones(len(rows)) if noise is None else np.sqrt(noise)
    kernels, own = _kernels(one_scale(features), rows, at, study)
    # In units of each score's noise the noise is the same for all, and so one eigendecomposition
    # serves every amount of it.
    inner = kernels[:, :, : len(rows)] / (root[:, None] * root)
    values, vectors = np.linalg.eigh(inner)
    turned = vectors.transpose(0, 2, 1) / root
    seen, cross = turned @ targets, turned @ kernels[:, :, len(rows) :]
    inverse = 1 / (np.maximum(values, 0.0)[:, None] + np.array(NOISE)[:, None])
    # The amplitude of each form has its posterior mean; integrating it out weighs the forms.
    count = len(rows) + PRIOR_COUNT
    amplitude = ((inverse * seen[:, None] ** 2).sum(2) + PRIOR_COUNT) / count
    likelihood = np.log(inverse).sum(2) / 2 - count / 2 * np.log(amplitude)
    share = np.exp(likelihood - likelihood.max())
    share /= share.sum()
    means = (inverse * seen[:, None]) @ cross
    variances = np.maximum(own[:, None] - inverse @ cross**2, 1e-9) * amplitude[..., None]
    mean = np.einsum("kv,kvc->c", share, means)
    second = np.einsum("kv,kvc->c", share, variances + means**2)
    return Fit(centre + unit * mean, unit * np.sqrt(np.maximum(second - mean**2, 0.0)))


def _kernels(
    scaled: Float[np.ndarray, "n g"],
    rows: Int[np.ndarray, " m"],
    at: Int[np.ndarray, " c"],
    study: Int[np.ndarray, " n"] | None,
) -> tuple[Float[np.ndarray, "k m mc"], Float[np.ndarray, "k c"]]:
    """For every form without its noise: rows against rows and candidates, and their own variance.

    The mean of the scores is unknown too: a variance of 1 on all entries stands for it.
    """
    mean = mean_squared_distance(scaled)
    both = np.concatenate([rows, at])
    squares = squared_distances(scaled[rows], scaled[both], mean)
    # Halved variance in the mean distance makes the linear part's mean variance 1.
    straight = scaled[rows] @ scaled[both].T / (mean / 2)
    straight_own = (scaled[at] ** 2).sum(1) / (mean / 2)
    curved = {length: matern(squares / length**2) for length in LENGTHS}
    several = study is not None and len(np.unique(study[both])) > 1
    kernels, own = [], []
    for length, linear, likeness in product(LENGTHS, LINEAR, LIKENESS if several else (1.0,)):
        kernel = (1 - linear) * curved[length] + linear * straight
        if several and study is not None:
            kernel = kernel * np.where(study[rows][:, None] == study[both][None], 1.0, likeness)
        kernels.append(kernel + 1.0)
        own.append((1 - linear) + linear * straight_own + 1.0)
    return np.stack(kernels), np.stack(own)
