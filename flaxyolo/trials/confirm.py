"""The winner is measured once more, in a process of its own, before it is announced."""

import logging
from typing import Any

import numpy as np
import optuna

from flaxyolo.cost.budget import overrun
from flaxyolo.cost.engine import EngineError
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import keep_memory
from flaxyolo.crew.phases import MEASURED_IMAGES
from flaxyolo.data.feeds import open_pixels
from flaxyolo.deploy.engines import measured_again
from flaxyolo.machine.gate import Gate
from flaxyolo.search.results import CONFIRMED, results
from flaxyolo.search.setting import Sweep
from flaxyolo.trials.standings import Standings

log = logging.getLogger(__name__)


def confirm(study: optuna.Study, sweep: Sweep, gate: Gate) -> None:
    """Measure the chosen run in a fresh process; one that is over the budget makes way.

    Where its engine does not run it now, nobody makes way either.
    A latency over it that only shows how busy the machine was makes nobody step down.
    What was measured is stored in the study, so that it is done once.
    """
    while True:
        best = Standings(results(study), sweep.budget, sweep.objective).best
        known: dict[str, Any] = dict(study.user_attrs.get(CONFIRMED, {}))
        if best is None or str(best.number) in known:
            return
        if best.run is None or best.spec is None or best.cost is None:
            return
        folder = sweep.runs / best.run / "detector"
        if not folder.is_dir():
            return
        log.info("measuring trial %d once more, in a fresh process", best.trial)
        pixels = open_pixels(sweep.data, "val", best.spec.image_size, keep=sweep.keep)
        images = np.asarray(pixels.images[:MEASURED_IMAGES])
        try:
            with gate.quiet():
                measured = measured_again(sweep.engine, folder, images, sweep.budget)
        except EngineError as error:
            log.warning("trial %d is not measured again: %s", best.trial, error)
            return
        cost = keep_memory(measured, best.cost)
        undecided = sweep.budget.undecided(cost)
        inside = sweep.budget.allows(cost) or undecided
        known[str(best.number)] = {"inside": inside, "cost": cost.to_dict()}
        study.set_user_attr(CONFIRMED, known)
        if undecided:
            log.warning("trial %d is %s in a fresh process: that decides nothing",
                        best.trial, overrun(sweep.budget, cost))  # fmt: skip
        if inside:
            return
        log.warning("trial %d is %s in a fresh process; the next best makes way",
                    best.trial, overrun(sweep.budget, cost))  # fmt: skip


def confirmed_cost(study: optuna.Study, number: int) -> Measurement | None:
    """What the fresh process measured for a trial; None where it was not measured."""
    known = study.user_attrs.get(CONFIRMED, {}).get(str(number))
    return None if known is None else Measurement.from_dict(known["cost"])
