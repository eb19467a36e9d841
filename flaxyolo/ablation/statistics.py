"""Arms against the baseline over paired seeds: interval, p-value and what could be detected.

Seeds are few, so the noise is not taken from an arm's own seeds alone: what the two-way layout
score = arm + seed + noise leaves over is pooled over all arms, with (arms - 1)(seeds - 1) degrees
of freedom. With one arm beside the baseline this is the plain paired t-test.

Pooling takes the noise of all arms for equal. Two guards: an arm whose own differences scatter
more than the pooled noise says is judged by its own scatter; and where a test finds the noise of
the arms unequal, such an arm is judged by its plain paired t-test, with seeds - 1 degrees of
freedom.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.optimize import root_scalar

from flaxyolo.base.errors import InputError

LEVEL = 0.05
"""Share of ablations without any effect in which some arm may be called different."""
POWER = 0.8
"""Share of ablations in which the smallest detectable effect is found."""
SEEDS = 2
"""The fewest seeds from which noise can be told from effect."""
NULL_DRAWS = 20_000


@dataclass(frozen=True)
class Comparison:
    """One arm less the baseline, seed by seed."""

    difference: float
    low: float
    high: float
    """The 95 % interval of this arm alone, before any correction for the other arms."""
    p: float
    holm: float
    """`p` after Holm's correction over the arms."""
    noise: float
    """Standard deviation of the difference of one seed that the interval rests on."""
    own_noise: float
    """The standard deviation of this arm's differences over its own seeds."""
    freedom: int
    """Degrees of freedom of `noise`."""
    detectable: float
    """The difference found with a power of 80 % at 5 % after Holm's first step."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparisons:
    """All arms against the baseline, in the order of the arms."""

    arms: tuple[Comparison, ...]
    seeds: int
    noise: float
    """Standard deviation of one run's score once arm and seed are taken off, pooled."""
    freedom: int
    detectable: float
    """The smallest effect that an arm with the pooled noise could have shown."""
    noisiest: int | None
    """The arm (0 is the baseline) with the largest share of the noise; None with two arms."""
    equal_noise_p: float | None
    """How often equal noise gives an arm so large a share; None where that cannot be told."""

    @property
    def doubtful(self) -> bool:
        """Whether the noise of the arms is unequal, so that pooling it is not safe."""
        return self.equal_noise_p is not None and self.equal_noise_p < LEVEL


def compare(scores: Float[np.ndarray, "k s"]) -> Comparisons:
    """Compare the rows (arms) with the first (the baseline) over their columns (seeds)."""
    arms, seeds = scores.shape
    if seeds < SEEDS:
        raise InputError(
            f"ablation: expected at least {SEEDS} seeds, the fewest that show noise, got {seeds}; "
            f"run {SEEDS - seeds} more"
        )
    if arms < 2:
        raise InputError("ablation: expected a baseline and at least one arm, got one arm alone")
    differences = scores[1:] - scores[0]
    mean = differences.mean(1)
    # Scores that are equal but for rounding have no noise.
    nothing = 1e-12 * max(1.0, float(np.abs(scores).max()))
    left = residuals(scores)
    freedom = (arms - 1) * (seeds - 1)
    noise = float(np.sqrt(np.square(left).sum() / freedom))
    noise = noise if noise > nothing else 0.0
    own = differences.std(1, ddof=1)
    noisiest, equal_p = _equal_noise(left) if noise and arms > 2 else (None, None)

    pooled = np.sqrt(2) * noise
    alone = (own > pooled) & (equal_p is not None and equal_p < LEVEL)
    used = np.maximum(own, pooled)
    used[used <= nothing] = 0.0
    freedoms = np.where(alone, seeds - 1, freedom)
    error = used / np.sqrt(seeds)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(freedoms, -np.abs(mean) / error)
    # Without noise there is nothing to hold a difference against.
    p = np.where(error > 0, p, 1.0)
    half = special.stdtrit(freedoms, 1 - LEVEL / 2) * error
    adjusted = holm(p)
    compared = tuple(
        Comparison(
            difference=float(mean[k]),
            low=float(mean[k] - half[k]),
            high=float(mean[k] + half[k]),
            p=float(p[k]),
            holm=float(adjusted[k]),
            noise=float(used[k]),
            own_noise=float(own[k]),
            freedom=int(freedoms[k]),
            detectable=_standard_errors(int(freedoms[k]), arms - 1) * float(error[k]),
        )
        for k in range(arms - 1)
    )
    smallest = _standard_errors(freedom, arms - 1) * float(pooled) / seeds**0.5
    return Comparisons(compared, seeds, noise, freedom, smallest, noisiest, equal_p)


def residuals(scores: Float[np.ndarray, "*b k s"]) -> Float[np.ndarray, "*b k s"]:
    """What is left of the scores once the means of arm and of seed are taken off."""
    by_arm, by_seed = scores.mean(-1, keepdims=True), scores.mean(-2, keepdims=True)
    return scores - by_arm - by_seed + scores.mean((-2, -1), keepdims=True)


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """p-values after Holm's step-down correction (Scandinavian Journal of Statistics, 1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps * p[order]), 1.0)
    return adjusted


def detectable_by_both(comparison: Comparison, arms: int, seeds: int, image_error: float) -> float:
    """The smallest effect for which seeds and images both speak with a power of 80 %.

    `image_error` is the standard error of the difference over the choice of images. The two are
    taken for independent, which asks for more than if they go together.
    """
    error = comparison.noise / seeds**0.5
    if image_error <= 0 or error <= 0:
        return comparison.detectable
    critical = float(special.stdtrit(comparison.freedom, 1 - LEVEL / 2 / arms))
    border = float(special.ndtri(1 - LEVEL / 2))

    def missing(effect: float) -> float:
        # Far out scipy's distribution ends as NaN, where the power has long been one.
        by_seeds = 1 - np.nan_to_num(special.nctdtr(comparison.freedom, effect / error, critical))
        return POWER - float(by_seeds * special.ndtr(effect / image_error - border))

    # Seeds alone ask for no more than both; a little over what each needs for 90 % is enough.
    low = comparison.detectable
    high = 2 * low + 2 * (border + 2) * image_error
    return low if missing(low) <= 0 else root_scalar(missing, bracket=(low, high)).root


@lru_cache(maxsize=256)
def _standard_errors(freedom: int, arms: int) -> float:
    """The smallest detectable effect in standard errors: the other tail is too rare to count."""
    critical = special.stdtrit(freedom, 1 - LEVEL / 2 / arms)
    return float(special.nctdtrinc(freedom, 1 - POWER, critical))


def _equal_noise(left: np.ndarray) -> tuple[int, float]:
    """The arm with the largest share of the residuals, and how often equal noise gives as much."""
    squares = np.square(left).sum(1)
    share = float(squares.max() / squares.sum())
    null = _largest_shares(*left.shape)
    at_least = len(null) - int(np.searchsorted(null, share - 1e-12))
    return int(squares.argmax()), (1 + at_least) / (1 + len(null))


@lru_cache(maxsize=32)
def _largest_shares(arms: int, seeds: int) -> np.ndarray:
    """Sorted draws of the largest share of one arm in the residuals of equal, normal noise.

    Cochran's statistic; no table of it holds for the residuals of two ways.
    """
    draws = np.random.default_rng(0).standard_normal((NULL_DRAWS, arms, seeds))
    squares = np.square(residuals(draws)).sum(-1)
    return np.sort(squares.max(-1) / squares.sum(-1))


def spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and standard deviation; None where a value is missing."""
    there = [value for value in values if value is not None]
    if len(there) < len(values) or not there:
        return None
    return float(np.mean(there)), float(np.std(there, ddof=1)) if len(there) > 1 else 0.0
