"""Zero-cost scores of the few candidates that the surrogate likes best, where they pay."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import cache

from flaxyolo.cost.recorded import count_of
from flaxyolo.crew.record import CHEAP, Record
from flaxyolo.data.batches import Batch
from flaxyolo.data.feeds import open_pixels
from flaxyolo.search.setting import Sweep
from flaxyolo.search.zero_cost import draw_batches, zero_cost
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)

SHARE = 0.05
"""Of a candidate's training, what its choice may cost in zero-cost scores.

Among networks of one size the scores say little more than the size does, so they must be cheap.
"""
MOST = 8
"""Candidates that are scored for one proposal."""
FIRST_GUESS_S = 15.0
"""Seconds that one network's scores take, before any was timed."""


class Scout:
    """Scores networks on images of the data, before any is trained, within a share of the cost."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.known: dict[DetectorSpec, dict[str, float]] = {}
        self.seconds: list[float] = []
        self._batches = cache(self._drawn)

    def affords(self, found: Sequence[Record]) -> int:
        """How many networks may be scored for the next candidate: none that costs too much."""
        trained = [
            each.seconds["train"]
            for each in found
            if each.stage == CHEAP and "train" in each.seconds
        ]
        if not trained:
            return 0
        seconds = sum(self.seconds) / len(self.seconds) if self.seconds else FIRST_GUESS_S
        few = min(MOST, int(SHARE * sum(trained) / len(trained) / seconds))
        # What took how long is a measurement too.
        return count_of(f"networks scored after {len(found)} trials", lambda: few)

    def scores(self, spec: DetectorSpec) -> Mapping[str, float]:
        """NWOT and ZiCo of a network with fresh weights."""
        if spec not in self.known:
            began = time.perf_counter()
            batches = self._batches(spec.image_size)
            self.known[spec] = zero_cost(spec, batches, self.sweep.short, seed=self.sweep.seed)
            self.seconds.append(time.perf_counter() - began)
        return self.known[spec]

    def _drawn(self, image_size: int) -> list[Batch]:
        pixels = open_pixels(self.sweep.data, "train", image_size, keep=self.sweep.keep)
        return draw_batches(pixels, seed=self.sweep.seed)
