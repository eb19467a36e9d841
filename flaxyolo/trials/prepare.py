"""What a sweep settles before its first trial: its space, what is checked, and what must stay."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import optuna
from optuna.trial import FixedTrial

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.checks.run import log_check, preflight, require
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.measure import count_gflops
from flaxyolo.cost.measurement import device_name
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.data.feeds import open_feed
from flaxyolo.data.sources import Dataset
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.detector import abstract_weights
from flaxyolo.search.ranges import screened_ranges, store_ranges, stored_ranges
from flaxyolo.search.setting import BATCH_SIZE, Sweep, digest_of
from flaxyolo.search.space import (
    Ranges,
    Suggest,
    former_image_sizes,
    image_sizes_for,
    reference_params,
)
from flaxyolo.spec import DetectorSpec, describe, to_dict
from flaxyolo.training.distill import lesson_of
from flaxyolo.trials.parent import bounded_epochs

log = logging.getLogger("flaxyolo.sweep")


def ranges_of(
    study: optuna.Study,
    suggest: Suggest,
    longest_side: int,
    budget: Budget,
    data: Dataset,
    seed: int,
    engine: Engine = JAX_ENGINE,
) -> Ranges:
    """How large the study's detectors may be: chosen when it is new, and kept with it.

    A study that was begun before ranges were stored goes on in those of that time.
    """
    if "facts" in study.user_attrs:
        former = former_image_sizes(longest_side, budget.latency_ms, jax.default_backend())
        return stored_ranges(study) or Ranges(former)
    with Gate(device_key()).quiet():
        ranges = screened_ranges(
            suggest,
            image_sizes_for(longest_side),
            budget,
            LatencyTable.open(engine=engine),
            classes=len(data.class_names),
            seed=seed,
        )
    store_ranges(study, ranges)
    return ranges


def facts(sweep: Sweep, *, space: Path | None, target: str | None, search: str) -> dict[str, Any]:
    """What must not change while a study grows: its trials could not be compared."""
    told = "default" if space is None else f"{space.name} ({digest_of(space)[:12]})"
    return {
        "data": sweep.data.name,
        "fingerprint": sweep.fingerprint,
        "source": sweep.source,
        "budget": sweep.budget.to_dict(),
        "objective": sweep.objective.text,
        "target": target,
        "space": told,
        "schedule": {
            "short_epochs": sweep.spending.short_epochs,
            "epochs": sweep.spending.epochs,
        },
        "training": to_dict(sweep.short),
        "init": None if sweep.initial is None else sweep.initial.fingerprint,
        "device": device_name(),
        # Studies begun before there were parents, teachers or engines have no such entry.
        **({"parent_epochs": sweep.parent_epochs} if sweep.parent_epochs else {}),
        **({"teacher": sweep.teacher.fingerprint} if sweep.teacher else {}),
        **({"engine": sweep.engine.describe()} if sweep.engine.name != "jax" else {}),
        **({"search": search} if search != "funnel" else {}),
    }


def same_engine(engine: Engine, before: Mapping[str, Any]) -> None:
    """InputError where the study that goes on, with these facts, was begun on another engine."""
    begun = before.get("engine", JAX_ENGINE.describe())
    if before and begun != engine.describe():
        raise InputError(f"--engine: the latencies of this study are those of {begun}, now "
                         f"{engine.describe()}, and not to be compared; name another study with "
                         "--study")  # fmt: skip


def same_search(search: str, before: Mapping[str, Any]) -> None:
    """InputError where the study that goes on, with these facts, was begun with another search."""
    begun = before.get("search", "funnel")
    if before and begun != search:
        raise InputError(f"--search: this study was begun with {begun}, now {search}; name another "
                         "with --study")  # fmt: skip


def check_space(suggest: Suggest, path: Path | None) -> None:
    """InputError where the baseline of a space cannot be built, such as for a part's wrong name."""
    try:
        abstract_weights(suggest(FixedTrial(reference_params(suggest))))
    except ValueError as error:
        where = "the default space" if path is None else f"--space {path}"
        raise InputError(f"{where}: {describe(error)}") from None


def reference_spec(sweep: Sweep) -> DetectorSpec:
    """The baseline of the study's space, for its data."""
    baseline = sweep.suggest(FixedTrial(reference_params(sweep.suggest)))
    return replace(baseline, num_classes=len(sweep.data.class_names))


def with_teaching(sweep: Sweep, student: DetectorSpec) -> Sweep:
    """The sweep with what its teacher adds to a step, as it is for a `student`.

    By products: a step takes three times as many as the student's forward pass. InputError where
    the teacher cannot teach it.
    """
    assert sweep.teacher is not None, "it has a teacher"
    lesson = lesson_of(sweep.teacher, student, sweep.data.class_names)
    share = count_gflops(lesson.spec) / (3 * count_gflops(student))
    return replace(sweep, spending=replace(sweep.spending, taught=1 + share))


def clear(sweep: Sweep, parent: DetectorSpec | None = None) -> float | None:
    """Pre-flight, on the parent or the baseline; InputError where a check fails. Seconds of a
    training step."""
    began, config = time.monotonic(), sweep.short
    spec = reference_spec(sweep)
    if parent is not None:
        # Its step is then compiled already.
        spec, config = parent, sweep.parent_training
    feed = open_feed(sweep.data, "train", spec.image_size, keep=sweep.keep)
    with Gate(device_key()).training():
        done = require(
            preflight(
                spec,
                feed,
                sweep.data.train,
                sweep.data.class_names,
                config,
                fingerprint=sweep.data.fingerprint,
                report=lambda check: None if check.passed else log_check(check),
            )
        )
    told = cli.duration(time.monotonic() - began)
    log.info("pre-flight: %d checks passed in %s (%s)",
             len(done), told, ", ".join(check.name for check in done))  # fmt: skip
    return next((check.step_seconds for check in done if check.step_seconds), None)


def with_bounded_parent(
    study: optuna.Study, sweep: Sweep, step_seconds: float | None, seconds: float
) -> Sweep:
    """The sweep with a parent that leaves most of its `seconds` to the candidates."""
    epoch = None if step_seconds is None else step_seconds * -(-len(sweep.data.train) // BATCH_SIZE)
    epochs = bounded_epochs(study, sweep.parent_epochs, epoch, seconds)
    # The schedule that the best is meant for stays what it is.
    return replace(sweep, parent_epochs=epochs, later_epochs=sweep.final_epochs)
