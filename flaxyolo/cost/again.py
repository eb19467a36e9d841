"""Measuring again, where a latency is near the budget or has to hold."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import measure
from flaxyolo.cost.measurement import Measurement
from flaxyolo.machine.child import run_module
from flaxyolo.nn.detector import Weights
from flaxyolo.spec import DetectorSpec

BORDER = 0.4
"""Share of the budget beyond it within which a latency is measured once more."""
ATTEMPTS = 2
TRAINED_ATTEMPTS = 4
FRESH_SECONDS = 900.0
"""Time of a measurement in a process of its own, its compiling included."""


def measure_for(
    budget: Budget,
    spec: DetectorSpec,
    images: np.ndarray,
    weights: Weights | None,
    *,
    trained: bool = False,
) -> Measurement:
    """The cost; over the latency budget the quietest of several measurements.

    What else runs on a machine can only add to a latency, so the lowest is nearest the truth. A
    fresh candidate far over the budget is not worth a second look; one whose training is already
    paid for is.
    """
    attempt = partial(measure, spec, weights=weights, images=images)
    return _quietest(budget, attempt, trained)


def measure_in_fresh_process(
    folder: Path,
    images: UInt8[np.ndarray, "n s s 3"],
    budget: Budget,
    *,
    timeout: float = FRESH_SECONDS,
) -> Measurement:
    """`measure_for` of a trained detector's folder, each measurement in a process of its own.

    The memory of training is not in it. InputError where a process fails, with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="flaxyolo-") as scratch:
        shown = Path(scratch) / "images.npy"
        np.save(shown, images)

        def attempt() -> Measurement:
            printed = run_module(
                "flaxyolo.cost.measure",
                *(str(folder), str(shown)),
                what=f"{folder}: measuring again",
                # Beside a process that has its own share of an accelerator's memory.
                environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                timeout=timeout,
            )
            return Measurement.from_dict(json.loads(printed), f"{folder}: measured again")

        return _quietest(budget, attempt, trained=True)


def _quietest(budget: Budget, attempt: Callable[[], Measurement], trained: bool) -> Measurement:
    cost = attempt()
    for _ in range((TRAINED_ATTEMPTS if trained else ATTEMPTS) - 1):
        excess = budget.excess(cost).get("latency_ms", 0)
        if excess <= 0 or (excess > BORDER and not trained):
            break
        cost = min(cost, attempt(), key=budget.latency_of)
    return cost
