"""What the project says of its own files when they are damaged.

For each seed one file of each kind (pixels and facts of images in the cache, latency table, lease,
detector, training state, study) is damaged in a random way, then used as a command would use it.
Counted are tracebacks (any error but the one of bad input), hangs (over 20 s), memory (over 1 GiB
above what the process had) and silent uses: the value that comes back is not the one that was
stored, and nothing was said. The file has a line of counts for each kind; the same command goes on
with the next seed.

    python -m benchmarks.fuzz_own_files --seeds 300

Each fifteenth seed is also run as a command, whose exit code must be 0 or 2, without a traceback.
"""

import argparse
import faulthandler
import json
import logging
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optuna

from flaxyolo.base.errors import InputError
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.cost.table.file import Contents, Count, merge_into, read_contents
from flaxyolo.crew.custody import Custody, Hold, custody
from flaxyolo.crew.journal import CheckedJournal
from flaxyolo.crew.storage import open_study, read_runs, read_study
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.images import image_facts
from flaxyolo.data.sources import read_dataset
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.training.state import goes_on, load_state, save_state
from flaxyolo.weights.checkpoint import load_detector, read_metadata, save_detector
from tests.damages import DAMAGES, copied
from tests.small import tiny_spec
from tests.tiny_data import write_coco

STUDIES = Path(__file__).parents[1] / "tests" / "studies"
HANG_S = 20.0
MORE_MIB = 1024.0
COMMAND_EACH = 15
"""So many seeds are followed by one that is run as a command."""
REMADE = ("pixels", "facts", "table")
COUNTS = ("runs", "told", "unharmed", "tracebacks", "hangs", "memory", "silent")
STATE = {"step": jnp.int32(7), "kernel": jnp.arange(6000.0).reshape(60, 100)}


class Kind(NamedTuple):
    """Files of one kind: the folder that is damaged, and the value that is read from it."""

    source: Path
    use: Callable[[Path], Any]


def plain(value: Any) -> Any:
    """Arrays and the like as something that can be compared."""
    leaves = jax.tree.leaves(value)
    return [np.asarray(leaf).tobytes() if hasattr(leaf, "shape") else repr(leaf) for leaf in leaves]


def make(base: Path) -> dict[str, Kind]:
    """One undamaged folder of each kind, and how it is used."""
    data = read_dataset(f"coco:{write_coco(base / 'data')}")
    images = [example.image for example in data.train]
    load_pixels(data, "train", 32, cache_dir=base / "pixels")
    image_facts(images, "set", cache_dir=base / "facts")
    contents = Contents(pieces={f"p{n}": 0.5 + n for n in range(40)},
                        counts={"p1": Count(3, 4)}, conditions={"device": "x"})  # fmt: skip
    (base / "table").mkdir()
    merge_into(base / "table" / "t.json", contents, contents.conditions)
    spec = tiny_spec()
    detector = TrainedDetector(spec, initial_weights(spec, 0), ("a", "b", "c"))
    save_detector(base / "detector" / "best", detector, {"source": f"coco:{base / 'data'}"})
    save_state(base / "state" / "state", STATE, {"epoch": 2})
    # A sweep of an earlier version, whose records get checksums.
    sweep = base / "sweep" / "tiny"
    sweep.mkdir(parents=True)
    shutil.copy(STUDIES / "sweep" / "trials.json", sweep)
    journal = CheckedJournal(str(sweep / "study.log"))
    lines = (STUDIES / "sweep" / "study.log").read_text().splitlines()
    journal.append_logs([json.loads(line) for line in lines])
    study = open_study(base / "study" / "s")
    for number in range(6):
        trial = study.ask()
        trial.set_user_attr("note", {"number": number, "values": [0.1 * number] * 5})
        study.tell(trial, number / 7)

    def pixels(folder: Path) -> Any:
        return [np.array(each) for each in load_pixels(data, "train", 32, cache_dir=folder)]

    def facts(folder: Path) -> Any:
        return image_facts(images, "set", cache_dir=folder)

    def table(folder: Path) -> Any:
        read_contents(folder / "t.json")
        # What is lost is measured again, and what is there stays.
        return sorted(merge_into(folder / "t.json", contents, {}).pieces.items())

    def best(folder: Path) -> Any:
        found = load_detector(folder / "best")
        facts = sorted(read_metadata(folder / "best")["facts"].items())
        return found.weights, repr(found.spec), found.class_names, facts

    def state(folder: Path) -> Any:
        if not goes_on(folder / "state"):
            return None
        return load_state(folder / "state", jax.eval_shape(lambda: STATE))

    def trials(folder: Path) -> Any:
        found = read_study(folder / "s", name="s").trials
        return [(one.number, one.state.name, one.values, repr(one.user_attrs)) for one in found]

    def runs(folder: Path) -> Any:
        return [(one.number, one.values, repr(one.user_attrs))
                for one in read_runs(folder / "tiny").trials]  # fmt: skip

    uses = {"pixels": pixels, "facts": facts, "table": table, "detector": best, "state": state,
            "study": trials, "sweep": runs}  # fmt: skip
    return {name: Kind(base / name, use) for name, use in uses.items()}


LEASE = {
    "lease": {"at": 1.0, "token": "t", "worker": "w", "host": "h", "lock": "l"},
    **{"beat": 2.0, "interruptions": 1, "fruitless": 1, "crashes": ["c"], "reason": "r"},
}
NONSENSE = (None, -1, 1e300, float("nan"), "x", [], [None], {}, {"at": "now"}, True)


def lease_of(drawn: random.Random) -> dict[str, Any]:
    """A trial's attributes, one of which is nonsense."""
    kept = json.loads(json.dumps(LEASE))
    inside = drawn.random() < 0.5
    place = kept["lease"] if inside else kept
    place[drawn.choice(sorted(place))] = drawn.choice(NONSENSE)
    return kept


def is_sound(found: Custody) -> bool:
    """Whether every field of a lease is one that can be."""
    numbers = (found.lease.at, found.beat, found.interruptions, found.fruitless)
    texts = (found.reason, found.lease.token, *found.crashes)
    names = (found.lease.worker, found.lease.host, found.lease.lock)
    return (isinstance(found.lease, Hold) and all(0 <= each < 1e11 for each in numbers)
            and all(isinstance(each, str) for each in texts)
            and all(each is None or isinstance(each, str) for each in names))  # fmt: skip


class Said(logging.Handler):
    """What the log says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def memory_mib() -> float:
    """The most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def judged(said: Said, call: Callable[[], bool], *, remade: bool = False) -> str:
    """How a use of something damaged ends; `call` tells whether the right value came back.

    What is `remade` must be right whatever was said.
    """
    said.lines.clear()
    before, began = memory_mib(), time.monotonic()
    faulthandler.dump_traceback_later(3 * HANG_S, exit=True)
    try:
        right = call()
        outcome = "told" if said.lines else "unharmed"
        if not right and (remade or not said.lines):
            outcome = "silent"
    except InputError as error:
        outcome = "told" if "\n" not in str(error) and len(str(error)) < 600 else "tracebacks"
    except Exception:
        traceback.print_exc()
        outcome = "tracebacks"
    finally:
        faulthandler.cancel_dump_traceback_later()
    if any("\n" in line for line in said.lines):
        outcome = "tracebacks"
    if time.monotonic() - began > HANG_S:
        outcome = "hangs"
    return "memory" if memory_mib() - before > MORE_MIB else outcome


def harmed(kind: Kind, to: Path, drawn: random.Random) -> str:
    """Damage one file of a fresh copy; returns what was done to which."""
    copied(kind.source, to)
    files = sorted(path for path in to.rglob("*") if path.is_file())
    file, damage = drawn.choice(files), drawn.choice(sorted(DAMAGES))
    DAMAGES[damage](file, drawn)
    return f"{damage} {file.relative_to(to)}"


def by_command(kinds: dict[str, Kind], to: Path, seed: int) -> str:
    """A damaged detector or study, given to a command; how it ends."""
    drawn = random.Random(seed)
    name = drawn.choice(("detector", "sweep"))
    harmed(kinds[name], to, drawn)
    words = ["evaluate", str(to / "best")] if name == "detector" else ["report", str(to / "tiny")]
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"flaxyolo.{words[0]}", words[1]],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hangs"
    if "Traceback" in done.stderr or done.returncode not in (0, 2):
        print(done.stderr[-2000:], file=sys.stderr)
        return "tracebacks"
    return "told" if done.returncode == 2 else "unharmed"


def main() -> None:
    """Run the seeds that are not in the file yet, and print a table of the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--commands", type=int, default=COMMAND_EACH,
                        help="one run as a command after so many seeds; 0 for none")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fuzz_own_files.json"))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = arguments.out
    told = json.loads(path.read_text()) if path.exists() else {"seeds": 0, "counts": {}, "bad": []}
    said = Said()
    logging.getLogger("flaxyolo").addHandler(said)
    logging.getLogger("flaxyolo").propagate = False
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        kinds = make(base / "made")
        expected = {name: plain(kind.use(copied(kind.source, base / "as_made" / name)))
                    for name, kind in kinds.items()}  # fmt: skip
        for seed in range(told["seeds"], arguments.seeds):
            for name, kind in kinds.items():
                drawn = random.Random(f"{name} {seed}")
                to = base / "damaged" / name
                what = harmed(kind, to, drawn)
                right = expected[name]
                count(told, name, seed, what,
                      judged(said, lambda k=kind, t=to, r=right: plain(k.use(t)) == r,
                             remade=name in REMADE))  # fmt: skip
            drawn = random.Random(f"lease {seed}")
            kept = lease_of(drawn)
            trial = optuna.trial.create_trial(value=0.0, user_attrs=kept)
            count(told, "lease", seed, repr(kept),
                  judged(said, lambda t=trial: is_sound(custody(t))))  # fmt: skip
            if arguments.commands and seed % arguments.commands == 0:
                count(told, "command", seed, "", by_command(kinds, base / "by_command", seed))
            told |= {"seeds": seed + 1, "device": device_name(), "versions": versions(),
                     "date": time.strftime("%Y-%m-%d")}  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(told, indent=1) + "\n")
            if seed % 20 == 19:
                print(f"{seed + 1} of {arguments.seeds} seeds", file=sys.stderr)
    print(f"| kind | {' | '.join(COUNTS)} |")
    print(f"|---|{'---:|' * len(COUNTS)}")
    for name, counts in told["counts"].items():
        print(f"| {name} | {' | '.join(str(counts[each]) for each in COUNTS)} |")
    for line in told["bad"]:
        print(line)


def count(told: dict[str, Any], name: str, seed: int, what: str, outcome: str) -> None:
    """Add a run to the counts; one that must not be is kept with its seed."""
    counts = told["counts"].setdefault(name, dict.fromkeys(COUNTS, 0))
    counts["runs"] += 1
    counts[outcome] += 1
    if outcome in ("tracebacks", "hangs", "memory", "silent"):
        told["bad"].append(f"{name}, seed {seed}: {outcome}: {what}")


if __name__ == "__main__":
    main()
