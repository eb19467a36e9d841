"""The training loop: a generator of epochs, each a run of the compiled step. The caller decides the
rest."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxyolo.base.errors import InputError
from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import Picked
from flaxyolo.data.feeds import Feed
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import Fused, TrainedDetector, Weights, abstract_weights
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.distill import TaughtTerms, Teacher, ask
from flaxyolo.training.hosts import ALONE, Hosts, on_one, placed, put_together, training_mesh
from flaxyolo.training.loss import LossTerms
from flaxyolo.training.plan import Plan, plan_run
from flaxyolo.training.profile import Profile
from flaxyolo.training.state import has_state, load_state, read_facts, save_state
from flaxyolo.training.step import Terms, TrainState, compile_step, start
from flaxyolo.training.vectors import as_arrays

log = logging.getLogger(__name__)


class StepReport(NamedTuple):
    """Where a run stands; `loss` is the mean of the epoch so far, before gains."""

    epoch: int
    step: int
    steps: int
    loss: Terms


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one finished epoch leaves: EMA weights as a detector, mean losses, seconds."""

    number: int
    detector: TrainedDetector
    loss: Terms
    seconds: float


class Run(NamedTuple):
    """The step that a run takes, with its state and its batches from there on."""

    step: Callable[..., Any]
    """Compiled: `state, terms, dropped = step(state, *batch)`."""
    state: TrainState
    batches: Iterator[tuple[Any, ...]]
    """Each a `Picked`, after which come the arrays of a teacher where there is one."""


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def train(
    spec: DetectorSpec,
    feed: Feed,
    class_names: tuple[str, ...],
    config: TrainConfig,
    *,
    run_dir: Path | None = None,
    report: Callable[[StepReport], None] | None = None,
    initial: Weights | None = None,
    teacher: Teacher | None = None,
    hosts: Hosts = ALONE,
    profile: Profile | None = None,
) -> Iterator[Epoch]:
    """Train, yielding every finished epoch; with `run_dir`, go on where an earlier run stopped.

    A run that goes on yields first the epoch that was saved last, in 0 seconds, and if that was its
    last one nothing else; any other run begins with `initial`, or with fresh weights. The state is
    saved under `run_dir/state` before an epoch is yielded, so what the caller does with an epoch
    may be done again after a crash, but is never lost. With a `teacher` its share of a step is told
    in the log; a `profile` traces some of the steps. InputError where an earlier run here had
    another teacher.

    Where several `hosts` train together, all call this with the same arguments and yield the same
    epochs; process 0 alone reads and writes `run_dir`, and the others wait at the end of an epoch
    until it asks for the next one.
    """
    plan = plan_run(spec, config, feed.pixels, None if teacher is None else teacher.lesson)
    known_as = {} if teacher is None else {"teacher": teacher.fingerprint}
    state, first = start(plan, initial), 0
    state_path = run_dir / "state" if run_dir else None

    def epoch_of(number: int, state: TrainState, loss: Terms, seconds: float) -> Epoch:
        ema = jax.device_get(on_one(state.ema))
        # Copies: the state's own buffers are donated to the next step.
        arrays = jax.tree.map(jnp.array, Weights(*map(as_arrays, ema, abstract_weights(spec))))
        return Epoch(number, TrainedDetector(spec, arrays, class_names), loss, seconds)

    if state_path and hosts.of_first("begun", partial(has_state, state_path)):
        state, first, facts = _saved(hosts, state_path, plan, state, teacher)
        log.info("going on after epoch %d of %d", first, config.epochs)
        kind = LossTerms if teacher is None else TaughtTerms
        yield epoch_of(first, state, kind(**facts["loss"]), 0.0)
        if first >= config.epochs:
            return
    weights = None if teacher is None else teacher.weights
    run = prepare(plan, hosts.from_first("state", state), feed, first, weights, hosts)
    step, state, batches = run if teacher is None else timed(run, plan, teacher.weights)
    hosts.together("compiled")
    if profile is not None:
        step = profile.over(step)
    for epoch in range(first, config.epochs):
        began = time.perf_counter()
        state, loss, dropped = run_epoch(step, plan, state, batches, epoch, report)
        if dropped:
            log.warning("epoch %d: %d boxes found no slot of %d", epoch + 1, dropped, plan.slots)
        if state_path and hosts.first:
            facts = {"epoch": epoch + 1, "loss": loss._asdict(), **known_as}
            save_state(state_path, on_one(state), facts)
        yield epoch_of(epoch + 1, state, loss, time.perf_counter() - began)
        hosts.together(f"epoch {epoch + 1}")


def _saved(
    hosts: Hosts, path: Path, plan: Plan, state: TrainState, teacher: Teacher | None
) -> tuple[TrainState, int, dict[str, Any]]:
    """The state that process 0 has saved, its epochs and its facts; `state` gives the shapes."""
    kept = [state]

    def load() -> dict[str, Any]:
        require_teacher(path, teacher)
        kept[0], facts = load_state(path, jax.eval_shape(lambda: state))
        return facts

    facts = hosts.of_first("facts", load)
    state = hosts.from_first("saved", kept[0])
    return state, int(state.step) // plan.steps_per_epoch, facts


def require_teacher(state_path: Path, teacher: Teacher | None) -> None:
    """InputError where the run that was saved there had another teacher, or one and now none."""
    had = read_facts(state_path).get("teacher")
    now = None if teacher is None else teacher.fingerprint
    if had != now:
        was = "no teacher" if had is None else f"the teacher {had}"
        raise InputError(
            f"{state_path}: expected {was}, with which this run was begun, got {now or 'none'}; "
            "go on with the same --teacher, or train into another folder"
        )


def prepare(
    plan: Plan,
    state: TrainState,
    feed: Feed,
    first_epoch: int,
    teacher: Fused | None = None,
    hosts: Hosts = ALONE,
) -> Run:
    """Bring state, data and a teacher to all devices that share the step, and compile it."""
    size = plan.config.batch_size
    mesh = training_mesh(size, hosts)
    whole = None if mesh is None else NamedSharding(mesh, P())
    if whole is not None:
        state = placed(state, whole)
    own: Iterator[Picked] = feed.batches(plan.config, first_epoch, whole, hosts.rows(size))
    if mesh is not None and hosts.processes > 1:
        own = (_of_all(picked, feed, mesh) for picked in own)
    batches: Iterator[tuple[Any, ...]] = own
    if teacher is not None:
        there = teacher if whole is None else placed(teacher, whole)
        batches = ((*picked, there) for picked in batches)
    return Run(compile_step(plan, state, feed, mesh, teacher), state, batches)


def _of_all(picked: Picked, feed: Feed, mesh: Mesh) -> Picked:
    """The batch that the processes of a mesh have picked, each its part."""
    pixels = put_together(picked.pixels, mesh) if feed.parted else picked.pixels
    return Picked(pixels, put_together(picked.indices, mesh), picked.seed)


def timed(run: Run, plan: Plan, teacher: Fused) -> Run:
    """The run as it was, after the log has told what its teacher takes of a step."""
    first = next(run.batches)
    devices = len(run.state.step.devices())
    size = plan.spec.image_size
    images = jnp.zeros((plan.config.batch_size // devices, size, size, 3))
    asked = compile_ahead(ask, plan.lesson, teacher, images, plan.dtype)
    alone = _seconds(lambda: asked(teacher, images))
    # Of a copy: a step's state is donated.
    whole = _seconds(lambda: run.step(jax.tree.map(jnp.copy, run.state), *first)[1])
    log.info("teacher: its forward pass takes %.2g s of a step's %.2g s (%.0f %%)",
             alone, whole, 100 * min(alone / whole, 1.0))  # fmt: skip
    return run._replace(batches=chain([first], run.batches))


def _seconds(call: Callable[[], Any]) -> float:
    """The second of two calls: the first may load or allocate."""
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def run_epoch(
    step: Callable[..., Any],
    plan: Plan,
    state: TrainState,
    batches: Iterator[tuple[Any, ...]],
    epoch: int,
    report: Callable[[StepReport], None] | None,
) -> tuple[TrainState, Terms, int]:
    """The next epoch of `batches`; the new state, mean losses, and boxes without a slot."""
    steps = plan.steps_per_epoch
    kind = LossTerms if plan.lesson is None else TaughtTerms
    total, dropped, counted = np.zeros(len(kind._fields)), 0, 0
    pending = []
    for number, batch in enumerate(islice(batches, steps), 1):
        state, terms, lost = step(state, *batch)
        pending.append((number, terms, lost))
        # Read the step before, so that an accelerator never waits for Python.
        while len(pending) > (1 if number < steps else 0):
            ready, terms, lost = pending.pop(0)
            values = np.array([float(term) for term in terms])
            if not np.isfinite(values).all():
                told = ", ".join(map("{} {}".format, kind._fields, values))
                raise DivergedError(
                    f"epoch {epoch + 1}, step {ready} of {steps}: the loss is not finite ({told})"
                )
            total, dropped, counted = total + values, dropped + int(lost), ready
        if report and counted:
            report(StepReport(epoch + 1, number, steps, kind(*(total / counted))))
    return state, kind(*(total / steps)), dropped
