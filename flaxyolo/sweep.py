"""The command `sweep`: from images to the best detector under a budget."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import optuna

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.base.urls import hidden, hide_in_argv
from flaxyolo.base.words import many
from flaxyolo.cost.measure import forget_programs
from flaxyolo.crew.databases import answering
from flaxyolo.crew.leases import take_up
from flaxyolo.crew.storage import claim, known_as, locked, move_runs, open_runs
from flaxyolo.crew.supervise import spare_memory
from flaxyolo.crew.task import write_task
from flaxyolo.data.sources import Dataset, prefixed, read_dataset
from flaxyolo.machine.devices import default_workers, use_device
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.search.advised import (
    affordable_sizes,
    enqueue_opening,
    expected_ms,
    expected_share,
    learn,
)
from flaxyolo.search.filling import Filler
from flaxyolo.search.ranges import USUAL
from flaxyolo.search.setting import BATCH_SIZE, FINAL_EPOCHS, Sweep, Task
from flaxyolo.search.space import Ranges, image_sizes_for, with_ranges
from flaxyolo.spec import DetectorSpec
from flaxyolo.statistics.rules import Advice
from flaxyolo.training.follow import Followers
from flaxyolo.training.writers import ready
from flaxyolo.trials.conditions import keep_conditions
from flaxyolo.trials.flags import (
    Flags,
    Given,
    folder_of,
    hours_of,
    objective_of,
    parent_epochs_of,
    read_given,
    schedules,
)
from flaxyolo.trials.parent import baseline_spec, parent_spec, trained_parent, with_its_rate
from flaxyolo.trials.prepare import (
    check_space,
    clear,
    facts,
    ranges_of,
    reference_spec,
    same_engine,
    same_search,
    with_bounded_parent,
    with_teaching,
)
from flaxyolo.trials.run import finish, tell_plan, watch
from flaxyolo.trials.swept import Swept

log = logging.getLogger("flaxyolo.sweep")

ANNOUNCE_S = 50.0
"""Left of the hours for the winner's last measurement and its pictures."""


class Setting(NamedTuple):
    """A sweep before its parent is trained."""

    sweep: Sweep
    ranges: Ranges
    baseline: DetectorSpec | None
    """Of a sweep that has a parent of its own."""


def settled(
    study: optuna.Study, flags: Flags, given: Given, data: Dataset, folder: Path
) -> Setting:
    """What the study searches, and how; InputError where it was begun with something else."""
    before = study.user_attrs.get("facts", {})
    same_engine(given.engine, before)
    same_search(flags.search, before)
    if given.teacher is None and before.get("teacher"):
        raise InputError("--teacher: this study was begun with one, which its full runs need "
                         "again; name another with --study")  # fmt: skip
    short, epochs = schedules(flags, before.get("schedule", {}))
    budget, engine = given.budget, given.engine
    ranges = ranges_of(study, given.suggest, longest_side(data), budget, data, flags.seed, engine)
    usual = with_ranges(given.suggest, replace(USUAL, image_sizes=ranges.image_sizes))
    expected = partial(expected_ms, budget.latency_stat, engine=engine)
    shares = affordable_sizes(expected, usual, ranges.image_sizes, budget)
    advice = learn(data, ranges.image_sizes, BATCH_SIZE, shares)
    tell_advice(advice, flags)
    parent_epochs = parent_epochs_of(flags, epochs, before)
    sweep = Sweep(
        suggest=with_ranges(given.suggest, ranges),
        budget=budget,
        data=data,
        source=flags.data,
        folder=folder,
        spending=replace(
            given.spending,
            short_epochs=short,
            epochs=epochs,
            inherited=bool(parent_epochs or (given.initial and given.initial.spec)),
        ),
        objective=objective_of(flags, data, before),
        seed=flags.seed,
        advice=advice,
        keep=flags.images,
        initial=given.initial,
        teacher=given.teacher,
        target=given.target,
        known_as=known_as(study, data.fingerprint, data.formerly),
        engine=engine,
        parent_epochs=parent_epochs,
        later_epochs=flags.final_epochs or study.user_attrs.get(FINAL_EPOCHS),
    )
    baseline = baseline_spec(sweep, usual) if parent_epochs else None
    if sweep.teacher is not None:
        sweep = with_teaching(sweep, baseline or reference_spec(sweep))
    kept = facts(sweep, space=flags.space, target=flags.target, search=flags.search)
    claim(study, kept, str(folder))
    study.set_user_attr(FINAL_EPOCHS, sweep.final_epochs)
    return Setting(sweep, ranges, baseline)


def begun(study: optuna.Study, flags: Flags, setting: Setting) -> Sweep:
    """The sweep with its plan told, its parent trained and its first candidates enqueued."""
    sweep, ranges, baseline = setting
    new = not study.get_trials(deepcopy=False)
    fill = Filler(sweep)
    parent = None if baseline is None else parent_spec(study, sweep, baseline, fill)
    sweep = sweep if parent is None else with_its_rate(study, sweep)
    step = clear(sweep, parent) if new and not flags.no_preflight else None
    hours = hours_of(flags)
    if parent is not None and flags.parent_epochs is None:
        sweep = with_bounded_parent(study, sweep, step, 3600 * hours)
    if ranges.why:
        log.info("plan: %s", ranges.why)
    share = None if parent is None else expected_share(parent, sweep.budget, sweep.engine)
    tell_plan(sweep, step, share, hours)
    if parent is not None:
        sweep = replace(sweep, initial=trained_parent(sweep, parent))
    if not sweep.spending.blind:
        enqueue_opening(study, sweep.suggest, sweep.advice, baseline, fill)
    elif sweep.spending.controls:
        enqueue_opening(study, sweep.suggest, (), baseline, fill)
    return sweep


def longest_side(data: Dataset) -> int:
    """Of the images to learn from, in pixels."""
    return max(max(example.height, example.width) for example in data.train)


@cli.within_limits
def _run(flags: Flags) -> Swept:
    """Search, keep every output up to date, and print the table."""
    began = time.time()
    spare_memory()
    use_device(flags.device)
    given = read_given(flags)
    hide_in_argv(flags.storage)
    # It is kept with the study, and shown on its page.
    shown = None if flags.storage is None else hidden(flags.storage)
    command = cli.command_line("sweep", *cli.given(replace(flags, storage=shown)))
    flags = replace(flags, data=prefixed(flags.data))
    folder = folder_of(flags)
    ready(flags.log, folder.name)
    data = read_dataset(flags.data, repair=folder / "repaired" if flags.repair else None)
    check_space(
        with_ranges(given.suggest, Ranges(image_sizes_for(longest_side(data)))), flags.space
    )
    keep_compiled()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(folder), answering(flags.storage):
        move_runs(folder, flags.storage)
        study = open_runs(folder, storage=flags.storage, seed=flags.seed)
        setting = settled(study, flags, given, data, folder)
        sweep = begun(study, flags, setting)
        left = take_up(study, folder)
        if left:
            log.info("going on with %s", many(len(left), "interrupted trial"))
        workers = flags.workers or default_workers()
        keep_conditions(study, command=command, workers=workers, seed=sweep.seed,
                        spending=sweep.spending, advice=sweep.advice)  # fmt: skip
        limit = 3600 * hours_of(flags)
        deadline = began + limit - min(ANNOUNCE_S, 0.1 * limit)
        write_task(folder, Task.of(sweep, flags.space, setting.ranges, workers, deadline))
        logs = Followers(flags.log, folder, folder.name)
        logs.begin(anew=False)
        # Those of the space's ranges and of the parent, which no worker shares.
        forget_programs()
        watch(study, sweep, workers, flags.storage, began, deadline, logs)
        finish(study, sweep)
    return Swept(folder, flags.storage)


run_sweep = as_function(Flags, _run, "sweep", "a Swept with `folder`, `study` and `best`")


def tell_advice(advice: Sequence[Advice], flags: Flags) -> None:
    """Log what the data advise, why that input size, and where the other reasons are told."""
    size = next((each for each in advice if each.key == "image_size"), None)
    if size is not None:
        log.info("advice: image_size %s: %s", size.value, size.why)
    others = ", ".join(f"{each.key} {each.value}" for each in advice if each is not size)
    # That command knows of JAX's latencies.
    in_jax = flags.budget_ms if flags.engine == "jax" else None
    budget = () if in_jax is None else ("--budget-ms", f"{in_jax:g}")
    log.info("advice: %s; reasons: %s", others, cli.command_line("stats", flags.data, *budget))


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.sweep",
        description="Search for the best detector under a budget; the same command goes on.",
    )
    return cli.run(partial(_run, flags), output=flags.out, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
