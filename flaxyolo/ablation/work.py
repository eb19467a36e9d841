"""A worker of an ablation: takes one run after the other until none is left.

Run by the command `ablate`, as `python -m flaxyolo.ablation.work FOLDER INDEX`.
"""

import sys
from functools import partial
from pathlib import Path

from flaxyolo.ablation.study import Ablation, Task, open_runs, run_arm
from flaxyolo.crew.leases import Lease, take_up
from flaxyolo.crew.task import read_task
from flaxyolo.crew.worker import Desk, at_desk, main
from flaxyolo.nn.compiling import keep_compiled


def run_worker(folder: Path, index: int) -> None:
    """Work until nothing is left to do."""
    ablation = read_task(folder, Task).restored(folder)
    keep_compiled()
    with at_desk(folder, index) as desk:
        while work(desk, ablation):
            pass
        desk.leave()


def work(desk: Desk, ablation: Ablation) -> bool:
    """Make the next run; whether there may be another."""
    take_up(desk.study, ablation.folder)
    if not open_runs(desk.study, ablation):
        return False
    lease = claim_next(desk, ablation)
    if lease is None:
        desk.wait()
    else:
        run = partial(run_arm, lease.trial, ablation, desk.surroundings(lease))
        desk.carry_out(lease, run)
    return True


def claim_next(desk: Desk, ablation: Ablation) -> Lease | None:
    """The first run that waits; None where all are in other hands."""
    for record in open_runs(desk.study, ablation):
        if record.state == "waiting":
            lease = desk.claim(record.number)
            if lease is not None:
                return lease
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run_worker))
