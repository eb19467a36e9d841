"""Checks of the run's own training step: its memory, and that it is compiled once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from flaxyolo.checks.check import Check
from flaxyolo.cost.measure import memory_mib
from flaxyolo.data.feeds import Feed, Streamed
from flaxyolo.nn.detector import Fused
from flaxyolo.training.loop import Run, prepare
from flaxyolo.training.loss import LossTerms
from flaxyolo.training.plan import Plan
from flaxyolo.training.step import start

STEPS_SEEN = 3
"""Real steps: after the first, none may need a new program."""
COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event that JAX reports for every program it compiles."""


def compile_run(plan: Plan, feed: Feed, teacher: Fused | None = None) -> Run:
    """Compile the step of a run that begins, as `train` does."""
    return prepare(plan, start(plan), feed, 0, teacher)


def check_memory(step: Any, batch_size: int, available: tuple[float, str]) -> Check:
    """What the compiled step needs, the data set with it, against what the device has."""
    needed, (limit, where) = memory_mib(step), available
    measured = (
        f"a step of {batch_size} images needs {needed:,.0f} MiB, the data set with it, of "
        f"{limit:,.0f} MiB {where}"
    )
    if needed > limit:
        cause = (
            f"training.batch_size {batch_size} or detector.image_size is too large for this "
            "device, or the data set is, which lies on it whole"
        )
        return Check("memory", False, measured, cause)
    return Check("memory", True, measured)


def check_recompilation(run: Run, plan: Plan, feed: Feed) -> Check:
    """The steps of a run take the one program, which is compiled once.

    Looked at are the first, the second and, where that is the one that may be short, the last
    batch of an epoch; of a stream the first three.
    """
    whole = max(STEPS_SEEN, plan.steps_per_epoch)
    count = STEPS_SEEN if isinstance(feed, Streamed) else whole
    batches = list(islice(run.batches, count))
    batches += batches[-1:] * (STEPS_SEEN - len(batches))
    state, terms, names = run.state, LossTerms(*jnp.zeros(3)), []
    step_seconds = 0.0
    for number, batch in enumerate((*batches[: STEPS_SEEN - 1], batches[-1]), 1):
        try:
            began = time.perf_counter()
            with compilations() as compiled:
                state, terms, _ = run.step(state, *batch)
                jax.block_until_ready(terms)
            step_seconds = time.perf_counter() - began
        except TypeError as error:
            line = " ".join(str(error).split())
            return Check(
                "recompilation",
                False,
                f"step {number} does not fit the program of the first: {line:.200}",
                "the state or a batch changes its shape or dtype from one step to the next",
            )
        if number > 1:
            names += compiled
    if names:
        return Check(
            "recompilation",
            False,
            f"{len(names)} programs compiled after the first step: {', '.join(sorted(set(names)))}",
            "a batch changes its shape, or Python values enter the step as constants",
        )
    size, loss = plan.config.batch_size, sum(float(term) for term in terms)
    return Check(
        "recompilation",
        True,
        f"no program compiled in steps 2 and {STEPS_SEEN} of {size} images (loss {loss:.3g})",
        step_seconds=step_seconds,
    )


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of all programs that are compiled inside."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED:
            names.append(str(kwargs.get("fun_name", "a program")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
