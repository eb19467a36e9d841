"""All checks in their order: each after those it rests on, and none after one that fails."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from flaxyolo.base.errors import InputError
from flaxyolo.checks.check import Check
from flaxyolo.checks.labels import check_labels, check_objects
from flaxyolo.checks.network import check_gradients, check_shapes
from flaxyolo.checks.overfit import check_overfit
from flaxyolo.checks.passed import place_of, read_passed, write_passed
from flaxyolo.checks.probe import Programs, compile_probe, probe_plan
from flaxyolo.checks.steps import check_memory, check_recompilation, compile_run
from flaxyolo.checks.transforms import check_transforms
from flaxyolo.config import TrainConfig
from flaxyolo.data.feeds import Feed
from flaxyolo.data.sources import Example
from flaxyolo.machine.memory import available_mib
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.distill import Teacher
from flaxyolo.training.loop import Run
from flaxyolo.training.plan import plan_run

log = logging.getLogger(__name__)

Report = Callable[[Check], None]


def log_check(check: Check) -> None:
    """Into the log, in one line."""
    log.info("pre-flight, %s", check.line())


def preflight(
    spec: DetectorSpec,
    feed: Feed,
    examples: Sequence[Example],
    class_names: Sequence[str],
    config: TrainConfig,
    *,
    skip: Collection[str] = (),
    report: Report = log_check,
    fingerprint: str | None = None,
    teacher: Teacher | None = None,
) -> tuple[Check, ...]:
    """Run the checks, cheap ones first, up to the first that fails, which is the last returned.

    `feed` has the training images of `examples`. `skip` names checks that are left out; their
    programs are not compiled either. With the `fingerprint` of the data, checks that have passed
    before on all the same are returned as they were, and not run or reported again. The memory of a
    step and its program are those with the `teacher`.
    """
    unknown = set(skip) - set(CHECKS)
    if unknown:
        raise ValueError(f"no such check: {', '.join(sorted(unknown))}; there are {CHECKS}")
    done: list[Check] = []
    place = None
    if fingerprint is not None:
        taught_by = None if teacher is None else teacher.fingerprint
        place = place_of(spec, feed, class_names, config, fingerprint, taught_by)
    known = {} if place is None else read_passed(place)
    if again := [name for name in CHECKS if name in known and name not in skip]:
        log.info("pre-flight: passed before on the same data, network and code, not run again: "
                 "%s", ", ".join(again))  # fmt: skip

    def passed(name: str, check: Callable[[], Check]) -> bool:
        if name in skip:
            return True
        if name in known:
            done.append(known[name])
            return True
        began = time.perf_counter()
        made = check()
        done.append(replace(made, seconds=round(time.perf_counter() - began, 2)))
        report(done[-1])
        if made.passed and place is not None:
            known[name] = done[-1]
            write_passed(place, known)
        return made.passed

    available, pixels = available_mib(), feed.pixels
    lesson, weights = (None, None) if teacher is None else teacher[:2]
    plan, quick = plan_run(spec, config, pixels, lesson), probe_plan(spec, config, pixels)
    cheap: dict[str, Callable[[], Check]] = {
        "labels": lambda: check_labels(pixels, examples, class_names, spec.num_classes),
        "objects": lambda: check_objects(pixels),
        "transforms": lambda: check_transforms(pixels, examples, config.augmentation),
        "shapes": lambda: check_shapes(quick, pixels),
    }
    if not all(passed(name, check) for name, check in cheap.items()):
        return tuple(done)
    wanted = set(COSTLY) - set(skip) - set(known)
    if not wanted:
        done += [known[name] for name in COSTLY if name not in skip]
        return tuple(done)
    log.info("pre-flight, compiling the training step; a minute or less for a small network")
    # Side by side: the compiler leaves cores idle in parts of its work.
    pool = ThreadPoolExecutor(2)
    programs: Future[Programs] = Future()
    run: Future[Run] = Future()
    try:
        if wanted & {"gradients", "overfit"}:
            programs = pool.submit(compile_probe, quick)
        if wanted & {"memory", "recompilation"}:
            run = pool.submit(compile_run, plan, feed, weights)
        costly: dict[str, Callable[[], Check]] = {
            "gradients": lambda: check_gradients(pixels, quick, programs.result()),
            "memory": lambda: check_memory(run.result().step, config.batch_size, available),
            "recompilation": lambda: check_recompilation(run.result(), plan, feed),
            "overfit": lambda: check_overfit(pixels, quick, programs.result(), class_names),
        }
        all(passed(name, check) for name, check in costly.items())
    finally:
        pool.shutdown(cancel_futures=True)
    return tuple(done)


def require(done: Sequence[Check]) -> Sequence[Check]:
    """The checks themselves; InputError in one line if one of them has failed."""
    failed = next((check for check in done if not check.passed), None)
    if failed is not None:
        raise InputError(
            f"pre-flight, {failed.name}: {failed.measured}; likely cause: {failed.cause}; "
            "--no-preflight of train, sweep and ablate goes on all the same"
        )
    return done


COSTLY = ("gradients", "memory", "recompilation", "overfit")
"""Checks that need compiled programs, in their order."""
CHECKS = ("labels", "objects", "transforms", "shapes", *COSTLY)
"""Names of all checks, in their order."""
