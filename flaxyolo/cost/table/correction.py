"""From the sum of a network's pieces to its latency, learnt from whole networks.

A Bayesian linear regression (Rasmussen and Williams, 2006, section 2.1) whose far errors count
less.

Notation, with m measured networks and f features:
  features    X, m x f, and `logs` y, m: logarithms of latency over the sum of pieces
  prior       standard deviation of each slope before any network was measured
  noise       s2, m: variance of y, that of the pieces' sum included, times `doubt` of the far ones
  gain        X'/s2, f x m; `covariance` of the slopes, `slopes` their mean
  errors      y less what is expected without the network itself
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

FREEDOM = 2.0
"""Measured networks that `SPREAD`, the error before any has been, counts for."""
SPREAD = 0.2
OFFSET_SPREAD = 0.7
SLOPE_SPREAD = 0.15
SHARE_SPREAD = 0.3
"""How far, in logarithms, networks may be from the sum of their pieces before any is measured:
all of them, with their size, and with the share that each kind of piece has."""
ELSEWHERE_SPREAD = 2.0
"""`OFFSET_SPREAD` of another engine or machine than the pieces were timed on: a factor of 7."""
FAR = 2.0
"""Errors beyond so many spreads count the less the larger they are."""
ROUNDS = 5


class Corrected(NamedTuple):
    """Mean and standard deviation of the logarithm of each latency."""

    mean: Float64[np.ndarray, " n"]
    spread: Float64[np.ndarray, " n"]


class Correction:
    """A straight line through the logarithms, drawn towards "latency is the sum of the pieces".

    `parts` is the milliseconds of each kind of piece in each measured network, `variance` how
    uncertain the logarithm of their sum is, `latency_ms` what was measured.
    """

    def __init__(
        self,
        parts: Float64[np.ndarray, "n k"],
        variance: Float64[np.ndarray, " n"],
        latency_ms: Float64[np.ndarray, " n"],
        offset_spread: float = OFFSET_SPREAD,
    ):
        sums = parts.sum(1)
        self.centre = float(np.log(sums).mean()) if len(sums) else 0.0
        self.shares = (parts / sums[:, None]).mean(0) if len(sums) else np.zeros(parts.shape[1])
        self.freedom = FREEDOM + len(sums)
        self.prior = np.array([offset_spread, SLOPE_SPREAD, *[SHARE_SPREAD] * parts.shape[1]])
        features, logs = self._features(parts), np.log(latency_ms / sums)
        self.spread, doubt = SPREAD, np.ones(len(sums))
        for _ in range(ROUNDS):
            noise = (self.spread**2 + variance) * doubt
            gain = features.T / noise
            self.covariance = np.linalg.inv(gain @ features + np.diag(self.prior**-2))
            self.slopes = self.covariance @ gain @ logs
            # What each network would be expected to take if it had not been measured.
            leverage = np.einsum("nf,fg,gn->n", features, self.covariance, gain)
            self.errors = (logs - features @ self.slopes) / (1 - leverage)
            scale = np.sqrt(self.spread**2 + variance)
            doubt = np.maximum(1.0, np.abs(self.errors) / (FAR * scale))
            excess = float((self.errors**2 / doubt - variance).sum())
            pooled = (FREEDOM * SPREAD**2 + max(excess, 0.0)) / self.freedom
            self.spread = float(np.sqrt(pooled))

    def correct(
        self, parts: Float64[np.ndarray, "n k"], variance: Float64[np.ndarray, " n"]
    ) -> Corrected:
        """The latencies of networks from their pieces."""
        features = self._features(parts)
        doubt = np.einsum("nf,fg,ng->n", features, self.covariance, features)
        mean = np.log(parts.sum(1)) + features @ self.slopes
        return Corrected(mean, np.sqrt(self.spread**2 + variance + doubt))

    def _features(self, parts: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n f"]:
        sums = parts.sum(1, keepdims=True)
        shares = parts / sums - self.shares[None]
        return np.concatenate([np.ones_like(sums), np.log(sums) - self.centre, shares], 1)


@lru_cache(maxsize=64)
def quantile(confidence: float, freedom: float) -> float:
    """How many spreads above the mean a value lies at most, with this confidence (Student's t)."""
    return float(stdtrit(freedom, confidence))
