"""The time of a piece from those measured: Bayesian regression on the logarithm of milliseconds.

A Gaussian process per kind of piece (Rasmussen and Williams, 2006): a linear trend in the
logarithms of its sizes and in its names, and a smooth deviation from it. Its noise is fitted too,
so a measured time that its neighbours contradict is believed only in part.

Notation, with m measured pieces and n that are asked for:
  logs       y, m: logarithms of the measured times, less their `mean`
  matrix     K, m x m: covariances of the trend and the deviation; `across` n x m, `own` k(x, x)
  noise      s2: the variance of one measured time's logarithm
  precision  (K + s2 I)^-1, and `weights` that times y
  values     l and `vectors` U, of K = U diag(l) U'; `turned` U'y, `spread` l + s2
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

SIZE_LENGTHS = (0.5, 1.0, 2.0)
"""Tried lengths of the smooth part, in logarithms of sizes."""
NAME_LENGTHS = (0.5, 1.5, 4.0)
DEVIATIONS = (0.1, 0.2, 0.4)
"""Tried sizes of the smooth part, as a share of the time."""
NOISES = (0.02, 0.05, 0.1, 0.2)
"""Tried errors of one measured time, as a share of it."""
SIZE_SLOPE = 0.7
"""The power of each size that the time may follow, before anything is known."""
NAME_STEP = 0.3
"""What a name may change before anything is known, as a share of the time."""
FITTED_ON = 300
"""Most pieces that the lengths and noises are chosen by."""
GROWTH = 1.25

Estimate = tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]
"""Mean and variance of the logarithm of each time."""


@lru_cache(maxsize=20_000)
def described(key: str) -> tuple[dict[str, float], frozenset[str]]:
    """The logarithms of a piece's numbers, and its names, from its key."""
    data = json.loads(key)
    numbers, names = {}, set()

    def walk(name: str, value: Any) -> None:
        if isinstance(value, list):
            names.add(f"{name}: {len(value)}")
            for index, item in enumerate(value):
                walk(f"{name}.{index}", item)
        elif isinstance(value, dict):
            for inner, item in value.items():
                walk(f"{name}.{inner}", item)
        elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            numbers[name] = log(value)
        else:
            names.add(f"{name}={value}")

    for name, value in data.items():
        walk(name, value)
    numbers["volume"] = log(sum(side**2 * width for side, width in data["in"]))
    numbers["work"] = log(sum((side * width) ** 2 for side, width in data["in"]))
    return numbers, frozenset(names)


class Lengths(NamedTuple):
    """How far one piece's time tells that of another, and how exact a measured time is."""

    size: float
    name: float
    deviation: float
    noise: float


class Regression:
    """Times of one kind of piece, learnt from those measured."""

    def __init__(
        self, keys: Sequence[str], times_ms: Sequence[float], lengths: Lengths | None = None
    ):
        found = [described(key) for key in keys]
        self.numbers = sorted({name for numbers, _ in found for name in numbers})
        self.names = sorted({name for _, names in found for name in names})
        self.centre = np.nanmean(self._raw(keys), 0)
        self.index = {key: row for row, key in enumerate(keys)}
        self.sizes, self.marks = self._features(keys)
        logs = np.log(np.asarray(times_ms, np.float64))
        self.mean = float(logs.mean())
        self.logs = logs - self.mean
        self.lengths = lengths or self._choose()
        matrix = self._kernel(self.sizes, self.marks, self.lengths)
        noise = self.lengths.noise**2
        self.precision = np.linalg.inv(matrix + noise * np.eye(len(logs)))
        self.weights = self.precision @ self.logs

    def estimate(self, keys: Sequence[str]) -> Estimate:
        """The time of each piece, measured or not."""
        sizes, marks = self._features(keys)
        across = self._kernel(sizes, marks, self.lengths, self.sizes, self.marks)
        own = self._own(sizes, marks)
        variance = own - np.einsum("nm,mk,nk->n", across, self.precision, across, optimize=True)
        return self.mean + across @ self.weights, np.maximum(variance, 1e-6)

    def without(self, keys: Sequence[str]) -> Estimate:
        """The time of measured pieces as it would be estimated if none of them had been."""
        rows = [self.index[key] for key in keys]
        block = np.linalg.inv(self.precision[np.ix_(rows, rows)])
        variance = np.diag(block) - self.lengths.noise**2
        return (
            self.mean + self.logs[rows] - block @ self.weights[rows],
            np.maximum(variance, 1e-6),
        )

    def _raw(self, keys: Sequence[str]) -> Float64[np.ndarray, "n f"]:
        rows = [described(key)[0] for key in keys]
        table = [[row.get(name, np.nan) for name in self.numbers] for row in rows]
        return np.array(table, np.float64).reshape(len(rows), len(self.numbers))

    def _features(
        self, keys: Sequence[str]
    ) -> tuple[Float64[np.ndarray, "n f"], Float64[np.ndarray, "n g"]]:
        sizes = np.nan_to_num(self._raw(keys) - self.centre)
        named = [described(key)[1] for key in keys]
        # A name that no measured piece has is one more difference to all of them.
        known = set(self.names)
        marks = [
            [*(float(name in names) for name in self.names), float(len(names - known))]
            for names in named
        ]
        return sizes, np.array(marks, np.float64).reshape(len(keys), len(self.names) + 1)

    def _kernel(
        self,
        sizes: Float64[np.ndarray, "n f"],
        marks: Float64[np.ndarray, "n g"],
        lengths: Lengths,
        other_sizes: Float64[np.ndarray, "m f"] | None = None,
        other_marks: Float64[np.ndarray, "m g"] | None = None,
    ) -> Float64[np.ndarray, "n m"]:
        other_sizes = sizes if other_sizes is None else other_sizes
        other_marks = marks if other_marks is None else other_marks
        linear = SIZE_SLOPE**2 * (sizes @ other_sizes.T)
        linear = 1.0 + linear + NAME_STEP**2 * (marks @ other_marks.T)
        apart = _squared(sizes, other_sizes) / (2 * lengths.size**2)
        # Another choice of one thing is two names that differ.
        apart = apart + _squared(marks, other_marks) / (2 * lengths.name)
        return linear + lengths.deviation**2 * np.exp(-apart)

    def _own(
        self, sizes: Float64[np.ndarray, "n f"], marks: Float64[np.ndarray, "n g"]
    ) -> Float64[np.ndarray, " n"]:
        linear = SIZE_SLOPE**2 * (sizes**2).sum(1) + NAME_STEP**2 * (marks**2).sum(1)
        return 1.0 + linear + self.lengths.deviation**2

    def _choose(self) -> Lengths:
        """The lengths and noises under which the measured times are likeliest."""
        rows = np.arange(len(self.logs))
        if len(rows) > FITTED_ON:
            rows = np.random.default_rng(0).permutation(rows)[:FITTED_ON]
        sizes, marks, logs = self.sizes[rows], self.marks[rows], self.logs[rows]
        best, chosen = -np.inf, None
        for size, name, deviation in itertools.product(SIZE_LENGTHS, NAME_LENGTHS, DEVIATIONS):
            smooth = self._kernel(sizes, marks, Lengths(size, name, deviation, 0.0))
            values, vectors = np.linalg.eigh(smooth)
            values, turned = np.maximum(values, 0.0), vectors.T @ logs
            for noise in NOISES:
                spread = values + noise**2
                likelihood = -0.5 * float((turned**2 / spread).sum() + np.log(spread).sum())
                if likelihood > best:
                    best, chosen = likelihood, Lengths(size, name, deviation, noise)
        assert chosen is not None, "times are finite"
        return chosen


def _squared(
    one: Float64[np.ndarray, "n f"], other: Float64[np.ndarray, "m f"]
) -> Float64[np.ndarray, "n m"]:
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    return np.maximum(squares, 0.0)


def regressions(
    times_ms: Mapping[str, float], known: Mapping[str, Regression] | None = None
) -> dict[str, Regression]:
    """A regression for each kind of piece that has been measured.

    The lengths of those `known` are kept while the pieces grow by less than a quarter.
    """
    grouped: dict[str, list[str]] = {}
    for key in sorted(times_ms):
        grouped.setdefault(kind_of(key), []).append(key)
    made = {}
    for kind, keys in grouped.items():
        old = (known or {}).get(kind)
        keep = old is not None and len(old.index) <= len(keys) < GROWTH * len(old.index)
        lengths = old.lengths if old is not None and keep else None
        made[kind] = Regression(keys, [times_ms[key] for key in keys], lengths)
    return made


@lru_cache(maxsize=20_000)
def kind_of(key: str) -> str:
    """The kind of piece that a key stands for."""
    return json.loads(key)["kind"]
