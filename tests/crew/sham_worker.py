"""A worker whose trials add up numbers, with checkpoints: `FOLDER URL STEP_SECONDS`.

The value of trial n is the sum of 10 n + step over six steps; it rests once, after the third.
Two processes in one trial at once are told to `overlaps`.
"""

import fcntl
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import TrialState

from flaxyolo.crew.databases import open_journal, open_url
from flaxyolo.crew.leases import Lease, LostLeaseError, Worker, at_work, claim, take_up
from flaxyolo.crew.processes import attach

STEPS = 6
REST = 3


def value_of(number: int) -> int:
    return sum(10 * number + step for step in range(1, STEPS + 1))


def open_study(folder: Path, url: str) -> optuna.Study:
    storage = open_journal(folder / "study.log") if url == "journal" else open_url(url)
    return optuna.create_study(
        storage=storage, study_name="sums", direction="maximize", load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),
    )  # fmt: skip


def enqueue(study: optuna.Study, trials: int) -> None:
    for number in range(trials):
        study.enqueue_trial({"x": number / trials}, user_attrs={"origin": f"number {number}"})


def claim_any(study: optuna.Study, worker: Worker) -> Lease | None:
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for trial in sorted(waiting, key=lambda _: random.random()):
        lease = claim(study, trial.number, worker)
        if lease is not None:
            return lease
    return None


def add_up(lease: Lease, folder: Path, seconds: float) -> tuple[int, int]:
    """The step it came to, and the sum so far."""
    trial = lease.trial
    trial.suggest_float("x", 0, 1)
    checkpoint = folder / f"{trial.number}.json"
    known = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "sum": 0}
    if known["step"] == REST and "paused" not in trial.user_attrs:
        # It was killed after the checkpoint, and before it could rest.
        return known["step"], known["sum"]
    for step in range(known["step"] + 1, STEPS + 1):
        time.sleep(random.uniform(0.5, 1.5) * seconds)
        known = {"step": step, "sum": known["sum"] + 10 * trial.number + step}
        half = folder / f"{trial.number}-{os.getpid()}.half"
        half.write_text(json.dumps(known))
        # First, because a step that is in the checkpoint is not done again; twice is once.
        trial.report(known["sum"], step)
        half.rename(checkpoint)
        lease.saved()
        if step == REST and "paused" not in trial.user_attrs:
            break
    return known["step"], known["sum"]


def run(study: optuna.Study, lease: Lease, folder: Path, seconds: float) -> None:
    with lease:
        with alone(folder, lease.trial.number):
            step, total = add_up(lease, folder, seconds)
        if step < STEPS:
            lease.release(paused=step)
        else:
            lease.check()
            study.tell(lease.trial, total)


@contextmanager
def alone(folder: Path, number: int) -> Iterator[None]:
    with open(folder / f"{number}.busy", "a") as busy:
        try:
            fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with open(folder / "overlaps", "a") as file:
                file.write(f"{number}\n")
        yield


def main(folder: Path, url: str, seconds: float) -> None:
    attach(grace=5)
    study = open_study(folder, url)
    with at_work(folder) as worker:
        while any(not trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            take_up(study, folder)
            lease = claim_any(study, worker)
            if lease is None:
                time.sleep(0.1)
                continue
            try:
                run(study, lease, folder, seconds)
            except LostLeaseError as error:
                print(error)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
