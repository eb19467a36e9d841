"""What a person sees while an ablation runs: its plan, how far it is, and how long still."""

import logging
from collections.abc import Mapping
from functools import cache

import optuna

from flaxyolo.ablation.paths import told
from flaxyolo.ablation.study import Ablation, Key, records_of
from flaxyolo.base import cli
from flaxyolo.base.words import many
from flaxyolo.cost.measure import count_gflops
from flaxyolo.crew.bars import Bars
from flaxyolo.crew.record import Record
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)


def tell_plan(ablation: Ablation) -> None:
    """Log what will be compared."""
    runs, seeds = len(ablation.wanted), len(ablation.seeds)
    for arm in ablation.arms:
        changes = told(arm.changes) if arm.changes else "as it is"
        log.info("plan: %s: %s%s", arm.name, changes, " (joint)" if arm.joint else "")
    training = ablation.baseline.training
    log.info("plan: %s, %s with %s, %s on %s of %s", many(runs, "run"),
             many(runs // seeds, "arm"), many(seeds, "seed"), many(training.epochs, "epoch"),
             many(len(ablation.data.train), "image"), ablation.data.name)  # fmt: skip


def tell_time(
    ablation: Ablation, known: Mapping[Key, Record], workers: int, step_seconds: float | None
) -> None:
    """Log how long the rest is expected to take, as far as that is known."""
    training = ablation.baseline.training
    steps = -(-len(ablation.data.train) // training.batch_size)
    pace = None if step_seconds is None else steps * step_seconds
    left = seconds_left(ablation, known, pace)
    if left is None:
        log.info("plan: how long it takes is known after the first epoch")
    elif left:
        log.info("plan: about %s of training%s; compiling and measuring come on top",
                 cli.duration(left / workers),
                 f" on {workers} workers" if workers > 1 else "")  # fmt: skip


def seconds_left(
    ablation: Ablation, known: Mapping[Key, Record], pace: float | None = None
) -> float | None:
    """Seconds of one worker that the wanted runs still need; None where nothing tells.

    An epoch takes as long as its GFLOPs say, at the pace of the epochs so far; before the first,
    `pace` is the baseline's seconds for one.
    """
    seconds = work = beside = 0.0
    whole = 0
    for (arm, _), record in known.items():
        if record.history:
            seconds += record.seconds.get("train", 0.0)
            work += len(record.history) * _share(ablation, arm)
        if record.state == "complete":
            whole += 1
            beside += sum(spent for phase, spent in record.seconds.items() if phase != "train")
    if work and seconds:
        pace = seconds / work
    total = 0.0
    for key in ablation.wanted:
        record = known.get(key)
        if record is not None and record.is_over:
            continue
        if pace is None:
            return None
        done = 0 if record is None else len(record.history)
        epochs = ablation.configs[key[0]].training.epochs
        total += (epochs - done) * _share(ablation, key[0]) * pace + beside / max(1, whole)
    return total


def _share(ablation: Ablation, arm: str) -> float:
    """How much longer an arm's epoch takes than the baseline's, by their GFLOPs."""
    return _gflops(ablation.configs[arm].detector) / _gflops(ablation.baseline.detector)


@cache
def _gflops(spec: DetectorSpec) -> float:
    return count_gflops(spec)


class Display:
    """A bar in a terminal, and a line for each run that ends."""

    def __init__(self, ablation: Ablation, study: optuna.Study, workers: int):
        self.ablation, self.workers = ablation, workers
        self.ended = {key for key, record in records_of(study).items() if record.is_over}
        self.bars = Bars(ablation.folder, workers)

    def update(self, known: Mapping[Key, Record]) -> None:
        """Log each run that has ended since."""
        for key, record in known.items():
            if key in self.ended or not record.is_over:
                continue
            self.ended.add(key)
            done = sum(key in self.ended for key in self.ablation.wanted)
            log.info("%s, seed %d: %s; %d of %d runs%s", *key, outcome(record), done,
                     len(self.ablation.wanted), self._left(known, ", "))  # fmt: skip

    def draw(self, known: Mapping[Key, Record]) -> None:
        """Bring the bars up to date, on a terminal."""
        if self.bars.hidden:
            return
        wanted = self.ablation.wanted
        done = sum(key in self.ended for key in wanted)
        names = {record.number: f"{arm}, seed {seed}" for (arm, seed), record in known.items()}
        self.bars.draw(
            f"{done} of {len(wanted)} runs", done, len(wanted), names.__getitem__,
            left=self._left(known),
        )  # fmt: skip

    def _left(self, known: Mapping[Key, Record], before: str = "") -> str:
        left = seconds_left(self.ablation, known)
        return f"{before}about {cli.duration(left / self.workers)} left" if left else ""


def outcome(record: Record) -> str:
    """What became of a run, in words."""
    if record.state != "complete" or record.scores is None or record.cost is None:
        return f"failed: {record.reason or 'no reason is stored'}"
    return f"mAP {record.scores.map or 0:.3f}, {record.cost.latency_ms_p50:.2f} ms p50"
