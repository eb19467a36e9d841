"""A worker of an ablation: takes one run after the other until none is left.

Run by the command `ablate`, as `python -m flaxyolo.ablation.work FOLDER INDEX`.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from flaxyolo.ablation.study import Ablation, open_trials, run_arm
from flaxyolo.crew.leases import Lease, Worker, at_work, claim, take_up, workers_folder
from flaxyolo.crew.record import Stage
from flaxyolo.crew.storage import open_study
from flaxyolo.crew.worker import STORAGE, WAIT_S, carry_out, main, note, read_task, surroundings
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.compiling import keep_compiled


def run_worker(folder: Path, index: int) -> None:
    """Work until nothing is left to do."""
    ablation: Ablation = read_task(folder)
    keep_compiled(folder.parents[1])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(folder, storage=os.environ.get(STORAGE))
    status = workers_folder(folder) / f"status-{index}.json"
    gate = Gate(device_key())
    with at_work(folder) as worker:
        while True:
            take_up(study, folder)
            if not open_trials(study, ablation):
                status.unlink(missing_ok=True)
                return
            lease = claim_next(study, ablation, worker)
            if lease is None:
                note(status, None, Stage("waiting for other workers"))
                time.sleep(WAIT_S)
                continue
            around = surroundings(lease, gate, status)
            carry_out(study, lease, partial(run_arm, lease.trial, ablation, around))


def claim_next(study: optuna.Study, ablation: Ablation, worker: Worker) -> Lease | None:
    """The first run that waits; None where all are in other hands."""
    for trial in open_trials(study, ablation):
        if trial.state == TrialState.WAITING:
            lease = claim(study, trial.number, worker)
            if lease is not None:
                return lease
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run_worker))
