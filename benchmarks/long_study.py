"""What grows over a long study: memory, open files, locks, disk, and the time to propose.

Runs a real sweep of many tiny networks (64 px, a dozen images, one or two steps each) with its
parent, worker, storage and files; only latencies are made up (`benchmarks.long_study_made_up`), and
with `--untrained` the trainings, whose compiling takes some 20 s for each network.
Meanwhile the processes and the folder are looked at every few seconds, and at the end the figures
are written over the number of ended trials, as JSON and as a picture.

    python -m benchmarks.long_study --trials 200 --out runs/long_study

The same command goes on where it stopped; the samples are kept in the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.crew.alive import is_free
from flaxyolo.crew.record import CHEAP
from flaxyolo.crew.storage import read_runs
from flaxyolo.machine.memory import MIB
from flaxyolo.search.results import results
from tests.tiny_data import write_coco

LOOK_S = 3.0
"""Between two samples."""
BUDGET_MS = "2"
STUDY = "long"
QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Half the time of compiling, which is most of a trial here."""


def command(base: Path, trials: int) -> list[str]:
    """The sweep."""
    flags = {
        "--budget-ms": BUDGET_MS,
        "--data": f"coco:{base / 'data'}",
        "--space": str(Path(__file__).with_name("long_study_space.py")),
        "--out": str(base / "runs"),
        "--study": STUDY,
        "--epochs": "2",
        "--trials": str(trials),
        "--finalists": "1",
        "--seeds": "1",
    }
    words = [word for pair in flags.items() for word in pair]
    return [sys.executable, "-m", "benchmarks.long_study_made_up", "sweep", *words,
            "--from-scratch", "--no-preflight", "--no-controls"]  # fmt: skip


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []


def resident_mib(pid: int) -> float:
    """Memory of a process that is in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def size_mib(folder: Path) -> float:
    """Of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # renamed or removed meanwhile
    return total / MIB


def sample(parent: int, base: Path) -> dict[str, Any] | None:
    """Figures of this moment; None where a process has ended meanwhile."""
    folder = base / "runs" / STUDY
    try:
        workers = children(parent)
        processes = {"parent": parent, **({"worker": workers[0]} if workers else {})}
        row: dict[str, Any] = {
            name: {
                "mib": round(resident_mib(pid), 1),
                "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
                "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
            }
            for name, pid in processes.items()
        }
        log = folder / "study.log"
        row["trials"] = ended(log)
        locks = [*base.rglob("*.lock"), *base.rglob(".lock-*")]
        row |= {
            "locks": len(locks),
            "free_locks": sum(is_free(path) is True for path in locks),
            "log_mib": round(log.stat().st_size / MIB, 3),
            "study_mib": round(size_mib(folder), 2),
            "compiled_mib": round(size_mib(base / "runs" / ".compiled"), 1),
        }
    except OSError:
        return None
    return row | {"at": round(time.time(), 1)}


def ended(log: Path) -> int:
    """Candidates that have been trained as far as they were to be, by the folders of their runs."""
    runs = log.parent / "trials"
    return sum(1 for path in runs.iterdir()) if runs.is_dir() else 0


def run(base: Path, trials: int, untrained: bool) -> None:
    """Run the sweep to its end, and add samples to the folder."""
    if not (base / "data").exists():
        write_coco(base / "data")
    environment = os.environ | {
        "FLAXYOLO_CACHE": str(base / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK_FLAGS,
        "FLAXYOLO_UNTRAINED": "1" if untrained else "",
    }
    with open(base / "sweep.log", "a") as log, open(base / "samples.jsonl", "a") as kept:
        process = subprocess.Popen(command(base, trials), env=environment, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                if (row := sample(process.pid, base)) is not None:
                    kept.write(json.dumps(row) + "\n")
                    kept.flush()
                    print(f"\r{row['trials']} of {trials} trials", end="", file=sys.stderr)
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise SystemExit("\nstopped; the same command goes on") from None
    if process.returncode:
        tail = (base / "sweep.log").read_text().splitlines()[-5:]
        raise SystemExit("\n".join(["the sweep failed:", *tail]))


def figures(base: Path) -> dict[str, Any]:
    """All samples, and what each proposal took."""
    samples = [json.loads(line) for line in (base / "samples.jsonl").read_text().splitlines()]
    found = results(read_runs(base / "runs" / STUDY))
    proposals = [
        {"trial": each.number, "seconds": round(each.seconds["draw"] + each.seconds["predict"], 3)}
        for each in found
        if each.stage == CHEAP and {"draw", "predict"} <= each.seconds.keys()
    ]
    left = [*base.rglob("*.lock"), *base.rglob(".lock-*")]
    return {
        "what": "what grows over a study of tiny networks",
        "trials": sum(each.stage == CHEAP for each in found),
        "device": device_name(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "locks_left": sorted(str(path.relative_to(base)) for path in left),
        "samples": samples,
        "proposals": proposals,
    }


def draw(told: dict[str, Any], path: Path) -> None:
    """The figures over the trials."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    samples = told["samples"]
    trials = [row["trials"] for row in samples]
    whole = [row for row in samples if "worker" in row]
    at = [row["trials"] for row in whole]
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for axis, title in zip(
        axes.flat,
        ("memory, MiB", "open files", "lock files", "study folder, MiB", "study.log, MiB",
         "a proposal, s"),
        strict=True,
    ):  # fmt: skip
        axis.set(title=title, xlabel="trials trained")
    for name in ("parent", "worker"):
        axes.flat[0].plot(at, [row[name]["mib"] for row in whole], label=name)
        axes.flat[1].plot(at, [row[name]["files"] for row in whole], label=name)
    axes.flat[2].plot(trials, [row["locks"] for row in samples], label="all")
    axes.flat[2].plot(trials, [row["free_locks"] for row in samples], label="held by nobody")
    axes.flat[3].plot(trials, [row["study_mib"] for row in samples], label="study")
    axes.flat[3].plot(trials, [row["compiled_mib"] for row in samples], label="compiled programs")
    axes.flat[4].plot(trials, [row["log_mib"] for row in samples])
    axes.flat[5].plot([row["trial"] for row in told["proposals"]],
                      [row["seconds"] for row in told["proposals"]], ".")  # fmt: skip
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/long_study"))
    why = "train nothing: scores by formula, and the files of a trial"
    parser.add_argument("--untrained", action="store_true", help=why)
    arguments = parser.parse_args()
    base = arguments.out.resolve()
    base.mkdir(parents=True, exist_ok=True)
    run(base, arguments.trials, arguments.untrained)
    told = figures(base)
    told["trained"] = not arguments.untrained
    (base / "long_study.json").write_text(json.dumps(told, indent=1) + "\n")
    draw(told, base / "long_study.png")
    last = told["samples"][-1]
    print(f"\n{told['trials']} trials; the last sample: {json.dumps(last)}")


if __name__ == "__main__":
    main()
