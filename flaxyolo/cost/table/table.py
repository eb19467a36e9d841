"""How long a network takes on this device, told from its pieces without compiling it.

The times of pieces are kept in a file for each device, dtype and set of versions. A piece that has
not been measured is estimated from those that have. The sum is corrected by whole networks that
were measured, which also tell the table's error: it is trusted only as far as that.

Pieces are timed in JAX. What a network takes on another engine is their sum too, corrected by the
networks that were measured on that engine, which have a file of their own.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.recorded import times_of
from flaxyolo.cost.table.correction import (
    ELSEWHERE_SPREAD,
    OFFSET_SPREAD,
    Correction,
    quantile,
)
from flaxyolo.cost.table.estimate import Estimate, Regression, kind_of, regressions
from flaxyolo.cost.table.file import (
    Count,
    Network,
    conditions,
    device_file,
    measured_here,
    merge_into,
    network_key,
    read_contents,
)
from flaxyolo.cost.table.pieces import KINDS, Piece, count, pieces, time_pieces
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)

Stat = Literal["p50", "p95"]

BATCH = 24
"""Pieces timed in turn."""
FIRST = 3
"""Networks whose pieces are measured first."""
KNOWN_FROM = 4
"""Measured networks from which the table knows its error."""
CLOSE = 0.1
COUNTS_SAVED_EACH = 500


class Prediction(NamedTuple):
    """What a network is expected to take, with the spread of its error's logarithm."""

    p50_ms: float
    p95_ms: float
    p50_spread: float
    p95_spread: float
    freedom: float
    """Of the Student's t that errors follow."""

    def expected(self, stat: Stat = "p95") -> float:
        """Milliseconds that the network is expected to take."""
        return self.p50_ms if stat == "p50" else self.p95_ms

    def upper(self, stat: Stat = "p95", confidence: float = 0.9) -> float:
        """Milliseconds that the network stays below, with this confidence."""
        return self.expected(stat) * float(
            np.exp(quantile(confidence, self.freedom) * self.spread(stat))
        )

    def spread(self, stat: Stat = "p95") -> float:
        """Of the error's logarithm."""
        return self.p50_spread if stat == "p50" else self.p95_spread


class TableError(NamedTuple):
    """How far off measured networks were, each predicted without it and the pieces only it has."""

    networks: int
    mape: float | None
    """Mean absolute error, as a share of what was measured; None while there are too few."""
    within_10: float | None
    """Share of the networks whose error is at most 10 %."""

    def describe(self) -> str:
        """One line for a person."""
        if self.mape is None or self.within_10 is None:
            return f"error not known yet ({self.networks} of {KNOWN_FROM} networks measured)"
        return (
            f"MAPE {100 * self.mape:.1f} %, {100 * self.within_10:.0f} % within 10 %, "
            f"on {self.networks} held-out networks"
        )


class LatencyTable:
    """What is known of latencies on this device, kept on disk; processes may share the file."""

    def __init__(self, path: Path, engine: Engine = JAX_ENGINE, own: Path | None = None):
        """`own` is the file of the networks of another engine than JAX."""
        self.path, self.engine, self.own = path, engine, own
        self.contents = read_contents(path)
        self.elsewhere = None if own is None else read_contents(own)
        self._regressions: dict[str, Regression] = {}
        self._corrections: dict[Stat, Correction] = {}
        self._fitted: tuple[int, int] | None = None
        self._unsaved = False

    @classmethod
    def open(cls, cache_dir: Path | None = None, engine: Engine = JAX_ENGINE) -> "LatencyTable":
        """The table of this device in the cache folder, a new one where there is none."""
        own = None if engine == JAX_ENGINE else device_file(cache_dir, engine)
        return cls(device_file(cache_dir), engine, own)

    @property
    def networks(self) -> dict[str, Network]:
        """Those measured on the table's engine, by `network_key`."""
        return (self.contents if self.elsewhere is None else self.elsewhere).networks

    def save(self) -> None:
        """Merge into the file what is new here, and take over what others have added."""
        self._unsaved = False
        self.contents = merge_into(self.path, self.contents, conditions())
        if self.own is not None and self.elsewhere is not None:
            self.elsewhere = merge_into(self.own, self.elsewhere, conditions(self.engine))

    def save_new(self) -> None:
        """`save`, where a network was added since."""
        if self._unsaved:
            self.save()

    def measure(self, specs: Sequence[DetectorSpec]) -> int:
        """Measure every piece of these networks that the table lacks; returns how many.

        Every batch is saved.
        """
        wanted = list({piece.key: piece for spec in specs for piece in pieces(spec)}.values())
        return self._measure(lambda missing: missing[:BATCH], wanted)

    def fill(
        self, specs: Sequence[DetectorSpec], most: int, seed: int = 0, batch: int = BATCH
    ) -> int:
        """Measure pieces by which the times of these networks are least certain, about so many.

        Returns how many. They are drawn by their share in that uncertainty, `batch` at a time; of
        a new table, those of a few whole networks come first.
        """
        rng = np.random.default_rng(seed)
        often = Counter(piece.key for spec in specs for piece in pieces(spec))
        wanted = {piece.key: piece for spec in specs for piece in pieces(spec)}

        def choose(missing: list[Piece]) -> list[Piece]:
            if not self._begun():
                rows = rng.permutation(len(specs))[:FIRST]
                first = {piece.key for row in rows.tolist() for piece in pieces(specs[row])}
                return [piece for piece in missing if piece.key in first] or missing[:BATCH]
            keys = [piece.key for piece in missing]
            means, variances = self._estimate(keys)
            gain = np.array([often[key] for key in keys]) * np.exp(2 * means) * variances
            number = min(batch, len(missing))
            rows = rng.choice(len(missing), number, replace=False, p=gain / gain.sum())
            return [missing[row] for row in rows]

        return self._measure(choose, list(wanted.values()), most)

    def add_network(self, spec: DetectorSpec, measurement: Measurement) -> bool:
        """Learn from a whole network; False where it was measured under other conditions.

        What was measured on a busy machine counts only while nothing better is known.
        """
        if not measured_here(measurement, self.engine):
            return False
        key, networks = network_key(spec), self.networks
        if measurement.busy and key in networks and not networks[key].busy:
            return False
        p50, p95 = measurement.latency_ms_p50, measurement.latency_ms_p95
        networks[key] = Network(spec, p50, p95, measurement.busy)
        self._fitted, self._unsaved = None, True
        return True

    def count(self, specs: Sequence[DetectorSpec]) -> list[Count]:
        """Parameters and multiply-adds of each network; pieces that are new are traced once."""
        known = self.contents.counts
        wanted = {piece.key: piece for spec in specs for piece in pieces(spec)}
        missing = [piece for key, piece in wanted.items() if key not in known]
        began = time.monotonic()
        for number, piece in enumerate(missing, 1):
            known[piece.key] = count(piece)
            if number % COUNTS_SAVED_EACH == 0 or number == len(missing):
                self.save()
                known = self.contents.counts
                spent = time.monotonic() - began
                log.info("counted %d of %d new pieces in %.0f s", number, len(missing), spent)
        totals = []
        for spec in specs:
            counts = [known[piece.key] for piece in pieces(spec)]
            params = sum(each.params for each in counts)
            totals.append(Count(params, sum(each.multiply_adds for each in counts)))
        return totals

    def predict(self, specs: Sequence[DetectorSpec]) -> list[Prediction]:
        """What each network is expected to take.

        Only where a kind of piece has never been measured, those of the first network are.
        """
        if not specs:
            return []
        if not self._begun():
            self.measure(specs[:1])
        self._fit()
        parts, variance = self._sums([[piece.key for piece in pieces(spec)] for spec in specs])
        p50, p95 = (self._corrections[stat].correct(parts, variance) for stat in STATS)
        freedom = self._corrections["p50"].freedom
        rows = zip(
            np.exp(p50.mean).tolist(),
            np.exp(np.maximum(p50.mean, p95.mean)).tolist(),
            p50.spread.tolist(),
            p95.spread.tolist(),
            strict=True,
        )
        return [Prediction(*row, freedom) for row in rows]

    def error(self, stat: Stat = "p95") -> TableError:
        """The error of predictions for networks that were not measured, nor the pieces they own."""
        networks = self._networks()
        number = len(networks)
        if number < KNOWN_FROM:
            return TableError(number, None, None)
        if not self._begun():
            self.measure([network.spec for network in networks][:1])
        self._fit()
        errors = np.abs(np.exp(-self._corrections[stat].errors) - 1)
        return TableError(number, float(errors.mean()), float((errors <= CLOSE).mean()))

    def _measure(
        self,
        choose: Callable[[list[Piece]], list[Piece]],
        wanted: Sequence[Piece],
        most: int | None = None,
    ) -> int:
        began, done = time.monotonic(), 0
        while True:
            missing = [piece for piece in wanted if piece.key not in self.contents.pieces]
            if not missing or (most is not None and done >= max(1, most)):
                return done
            batch = choose(missing)
            times = times_of(
                [piece.key for piece in batch],
                lambda places, batch=batch: time_pieces([batch[place] for place in places]),
            )
            self.contents.pieces.update(
                {piece.key: each for piece, each in zip(batch, times, strict=True)}
            )
            self.save()
            done += len(batch)
            log.info(
                "latency table: %d of %d pieces measured, %.1f s each",
                len(wanted) - len(missing) + len(batch),
                len(wanted),
                (time.monotonic() - began) / done,
            )

    def _networks(self) -> list[Network]:
        """Those measured on a calm machine; before there is one, all."""
        networks = list(self.networks.values())
        return [network for network in networks if not network.busy] or networks

    def _begun(self) -> bool:
        return set(KINDS) <= {kind_of(key) for key in self.contents.pieces}

    def _learn(self) -> None:
        """Bring the regressions up to the pieces that have been measured."""
        measured = sum(len(each.index) for each in self._regressions.values())
        if measured != len(self.contents.pieces):
            self._regressions = regressions(self.contents.pieces, self._regressions)

    def _fit(self) -> None:
        """Bring the corrections up to what is known."""
        state = len(self.contents.pieces), len(self._networks())
        if state == self._fitted:
            return
        networks = self._networks()
        keys = [[piece.key for piece in pieces(network.spec)] for network in networks]
        parts, variance = self._sums(keys, held_out=True)
        for stat, field in STATS.items():
            measured = np.array([getattr(network, field) for network in networks], np.float64)
            offset = OFFSET_SPREAD if self.own is None else ELSEWHERE_SPREAD
            self._corrections[stat] = Correction(parts, variance, measured, offset)
        self._fitted = state

    def _estimate(self, keys: Sequence[str]) -> Estimate:
        """Mean and variance of the logarithm of the time of each piece."""
        self._learn()
        means, variances = np.empty(len(keys)), np.empty(len(keys))
        kinds = np.array([kind_of(key) for key in keys])
        for kind in dict.fromkeys(kinds.tolist()):
            rows = np.flatnonzero(kinds == kind)
            of_kind = self._regressions[kind].estimate([keys[row] for row in rows.tolist()])
            means[rows], variances[rows] = of_kind
        return means, variances

    def _sums(
        self, networks: Sequence[Sequence[str]], held_out: bool = False
    ) -> tuple[Float64[np.ndarray, "n k"], Float64[np.ndarray, " n"]]:
        """Milliseconds of each kind of piece in each network, the variance of their sum's log.

        `held_out` forgets of every network the measured pieces that none of the others has.
        """
        unique = sorted({key for keys in networks for key in keys})
        means, variances = self._estimate(unique)
        place = {key: row for row, key in enumerate(unique)}
        owners = Counter(key for keys in networks for key in set(keys))
        parts, variance = np.zeros((len(networks), len(KINDS))), np.zeros(len(networks))
        for row, keys in enumerate(networks):
            rows = np.array([place[key] for key in keys])
            mean, doubt = means[rows], variances[rows]
            kinds = [kind_of(key) for key in keys]
            for kind in dict.fromkeys(kinds) if held_out else ():
                mine = [
                    number
                    for number, key in enumerate(keys)
                    if kinds[number] == kind and owners[key] == 1 and key in self.contents.pieces
                ]
                # Where no other piece of the kind is left, nothing can stand for it.
                if mine and len(mine) < len(self._regressions[kind].index):
                    regression = self._regressions[kind]
                    mean[mine], doubt[mine] = regression.without([keys[number] for number in mine])
            each = np.exp(mean)
            for kind, value in zip(kinds, each, strict=True):
                parts[row, KINDS.index(kind)] += value
            variance[row] = float(((each / each.sum()) ** 2 * doubt).sum())
        return parts, variance


STATS: dict[Stat, str] = {"p50": "p50_ms", "p95": "p95_ms"}
