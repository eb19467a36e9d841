"""Measuring again, where a latency is near the budget, has to hold, or the machine was busy."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Timed, Told
from flaxyolo.cost.measure import measure
from flaxyolo.cost.measurement import BUSY_LOAD, Measurement
from flaxyolo.cost.recorded import cost_of
from flaxyolo.cost.table.file import network_key
from flaxyolo.machine.child import run_module
from flaxyolo.machine.load import share_of_others, usage
from flaxyolo.nn.detector import Weights
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)

BORDER = 0.4
"""Share of the budget beyond it within which a latency is measured once more."""
ATTEMPTS = 2
TRAINED_ATTEMPTS = 4
WAIT_S = 20.0
"""For how long a busy machine is waited for, by a candidate."""
TRAINED_WAIT_S = 60.0
"""The same where a training is already paid for."""
TRAINED_MORE = 0.05
"""Share of its latency that a network takes longer at most once it is trained, as it finds more
boxes (1 to 2 % in sweeps of three networks of 2 to 6 ms)."""
LOOK_S = 1.0
"""Between two looks at how busy the machine is."""
FRESH_SECONDS = 900.0
"""Time of a measurement in a process of its own, its compiling included."""


def measure_for(
    budget: Budget,
    spec: DetectorSpec,
    images: np.ndarray,
    weights: Weights | None,
    *,
    trained: bool = False,
    before: Measurement | None = None,
    program: Timed | Told | None = None,
) -> Measurement:
    """The cost; over the latency budget the calmest of several measurements.

    A busy machine is waited for. What else runs on a machine can only add to a latency, so of
    calm measurements the lowest is nearest the truth. A fresh candidate far over the budget is not
    worth a second look; one whose training is already paid for is.

    Of trained weights, `before` is what the same network took with its first ones: where that
    leaves room for what training adds, a machine that is busier now changes nothing about it.

    `program` is the same network on another engine; what is told of another machine counts as told.
    """
    attempt = partial(measure, spec, weights=weights, images=images, program=program)

    def measured() -> Measurement:
        if isinstance(program, Told):
            return attempt()
        return _calmest(budget, attempt, trained, before)

    engine = JAX_ENGINE if program is None else program.engine
    with_weights = "trained" if trained else "fresh"
    return cost_of(f"{network_key(spec)} {with_weights} {engine.describe()}", measured)


def measure_in_fresh_process(
    folder: Path,
    images: UInt8[np.ndarray, "n s s 3"],
    budget: Budget,
    *,
    module: str = "flaxyolo.cost.measure",
    more: Sequence[str] = (),
    timeout: float = FRESH_SECONDS,
) -> Measurement:
    """`measure_for` of a trained detector's folder, each measurement in a process of its own.

    `module` measures, given the folder, a file of images and what is `more`.

    The memory of training is not in it. InputError where a process fails, with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="flaxyolo-") as scratch:
        shown = Path(scratch) / "images.npy"
        np.save(shown, images)

        def attempt() -> Measurement:
            printed = run_module(
                module,
                *(str(folder), str(shown), *more),
                what=f"{folder}: measuring again",
                # Beside a process that has its own share of an accelerator's memory.
                environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                timeout=timeout,
            )
            return Measurement.from_dict(json.loads(printed), f"{folder}: measured again")

        return cost_of(
            f"{folder.parent.name}/{folder.name} in a fresh process",
            lambda: _calmest(budget, attempt, trained=True),
        )


def wait_for_calm(seconds: float) -> None:
    """Wait until others leave the processor alone, for so many seconds at most."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        before = usage()
        time.sleep(min(LOOK_S, left))
        share = share_of_others(before, usage())
        if share is None or share < BUSY_LOAD:
            return


def settles(budget: Budget, before: Measurement) -> bool:
    """Whether a network that took this with its first weights keeps the budget once trained."""
    longer = replace(
        before,
        latency_ms_p50=before.latency_ms_p50 * (1 + TRAINED_MORE),
        latency_ms_p95=before.latency_ms_p95 * (1 + TRAINED_MORE),
    )
    return budget.allows(longer)


def _calmest(
    budget: Budget,
    attempt: Callable[[], Measurement],
    trained: bool,
    before: Measurement | None = None,
) -> Measurement:
    first = attempt()
    if before is not None and budget.undecided(first) and settles(budget, before):
        log.info("the machine is busy (%s): what counts is the figure from before the training, "
                 "%.2f ms", first.busyness(), budget.latency_of(before))  # fmt: skip
        return before
    cost = _waited(budget, first, attempt, TRAINED_WAIT_S if trained else WAIT_S)
    for _ in range((TRAINED_ATTEMPTS if trained else ATTEMPTS) - 1):
        excess = budget.excess(cost).get("latency_ms", 0)
        if cost.busy or excess <= 0 or (excess > BORDER and not trained):
            break
        cost = _calmer(budget, cost, attempt())
    return cost


def _waited(
    budget: Budget, cost: Measurement, attempt: Callable[[], Measurement], seconds: float
) -> Measurement:
    """The cost; where only a calmer machine can tell, the calmest within so many seconds."""
    end = time.monotonic() + seconds
    while budget.undecided(cost) and (left := end - time.monotonic()) > 0:
        log.info("the machine is busy (%s): waiting up to %.0f s", cost.busyness(), left)
        wait_for_calm(left)
        cost = _calmer(budget, cost, attempt())
    return cost


def _calmer(budget: Budget, *costs: Measurement) -> Measurement:
    """The lowest latency of a calm machine; where there is none, of a busy one."""
    return min(costs, key=lambda cost: (cost.busy, budget.latency_of(cost)))
