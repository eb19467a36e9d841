"""A tiny sweep that is killed again and again at random moments: what it loses, and what it prints.

SIGKILL hits the command or one of its workers, at any moment from its first import on; the same
command then goes on. A trial is lost where one that was finished is not, or has another value. What
the commands and their workers have printed is searched for tracebacks and crashes.

    python -m benchmarks.kills --out runs/kills --json FILE

The same command goes on with the next kill.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from flaxyolo.base.files import replace_file
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.crew.record import read
from flaxyolo.crew.storage import read_runs
from flaxyolo.search.results import results
from tests.tiny_data import flags, kill_something, killable_environment, write_coco

SPAN_S = (0.2, 60.0)
"""Between the start, or the last kill, and the next one."""
PARENTS = 0.35
"""Share of the kills that hit the command, beside those before it has a worker."""
TRACEBACK = "Traceback (most recent call last)"
CRASH = "Fatal Python error"
STUDY = "tiny"


def finished(folder: Path) -> dict[str, list[Any]]:
    """State and value of every finished trial, by number."""
    if not (folder / "study.log").exists():
        return {}
    trials = read_runs(folder).get_trials(deepcopy=False)
    over = (trial for trial in trials if read(trial).is_over)
    return {str(trial.number): [trial.state.name, trial.values] for trial in over}


def changed(before: dict[str, list[Any]], now: dict[str, list[Any]]) -> list[str]:
    """The trials of before that are not there any more as they were."""
    return [number for number, value in before.items() if now.get(number) != value]


def printed(out: Path, mark: str) -> int:
    """How often the commands and their workers have printed a mark."""
    logs = [out / "log", *(out / "runs" / STUDY / "workers").glob("*.log")]
    return sum(path.read_text(errors="replace").count(mark) for path in logs if path.exists())


def commands(trials: int, out: Path) -> list[str]:
    """The words of the sweep."""
    given = flags(out, "--trials", str(trials), "--epochs", "9", "--finalists", "2", "--seeds", "2",
                  "--workers", "1")  # fmt: skip
    return [sys.executable, "-m", "flaxyolo.sweep", *given, "--from-scratch"]


def begun(words: list[str], out: Path) -> subprocess.Popen[bytes]:
    """The command, as it runs; what it prints is kept."""
    # Not after other commands' measurements on this machine: its gate is a folder's.
    (out / "tmp").mkdir(parents=True, exist_ok=True)
    environment = killable_environment() | {"TMPDIR": str(out / "tmp")}
    with (out / "log").open("ab") as log:
        return subprocess.Popen(words, env=environment, stdout=log, stderr=log)


def killed(
    process: subprocess.Popen[bytes] | None, words: list[str], out: Path, number: int
) -> tuple[subprocess.Popen[bytes] | None, dict[str, Any]]:
    """Kill at a random moment; the command if it still runs, and what was found then."""
    drawn = random.Random(number)
    if process is None or process.poll() is not None:
        process = begun(words, out)
    seconds = drawn.uniform(*SPAN_S)
    time.sleep(seconds)
    code = process.poll()
    if code is not None:
        return None, {"of": "nothing", "after_s": seconds, "code": code}
    was_parent = kill_something(process, drawn, PARENTS)
    row = {"of": "command" if was_parent else "worker", "after_s": seconds}
    return None if was_parent else process, row


def summary(rows: list[dict[str, Any]], out: Path, code: int | None) -> dict[str, Any]:
    """What came of it."""
    known = finished(out / "runs" / STUDY)
    return {
        "what": "SIGKILLs at random moments of a tiny sweep, then the same command",
        "kills": dict(Counter(row["of"] for row in rows)),
        "lost_trials": sorted({number for row in rows for number in row["lost"]}),
        "tracebacks": printed(out, TRACEBACK),
        "crashes": printed(out, CRASH),
        "finished_trials": dict(Counter(state for state, _ in known.values())),
        "last_exit_code": code,
        "rows": rows,
        "device": device_name(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Make the kills that are not in the JSON yet, then let the sweep end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--json", type=Path, required=True, help="rows are kept and added here")
    arguments = parser.parse_args()
    out, words = arguments.out.resolve(), commands(arguments.trials, arguments.out.resolve())
    if not (out / "data").exists():
        write_coco(out / "data")
    rows = json.loads(arguments.json.read_text())["rows"] if arguments.json.exists() else []
    known: dict[str, list[Any]] = rows[-1]["finished"] if rows else {}
    process, folder = None, out / "runs" / STUDY
    try:
        # A command that had ended by itself was not killed.
        while sum(row["of"] != "nothing" for row in rows) < arguments.kills:
            process, row = killed(process, words, out, len(rows))
            now = finished(folder)
            rows.append(row | {"lost": changed(known, now), "finished": now})
            known = now
            replace_file(arguments.json, json.dumps(summary(rows, out, None), indent=1) + "\n")
            lost = rows[-1]["lost"] or "none"
            print(f"{len(rows)}: {row['of']} after {row['after_s']:.1f} s; {len(now)} finished, "
                  f"lost: {lost}", flush=True)  # fmt: skip
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait()
    code = begun(words, out).wait()
    rows[-1]["lost"] = sorted({*rows[-1]["lost"], *changed(known, finished(folder))})
    told = summary(rows, out, code)
    told["interruptions"] = sum(
        trial.user_attrs.get("interruptions", 0) for trial in read_runs(folder).get_trials()
    )
    told["failed"] = [record.reason for record in results(read_runs(folder))
                      if record.state == "fail"]  # fmt: skip
    replace_file(arguments.json, json.dumps(told, indent=1) + "\n")
    print(f"kills {told['kills']}, lost {told['lost_trials'] or 'none'}, tracebacks "
          f"{told['tracebacks']}, crashes {told['crashes']}, exit code {code}")  # fmt: skip


if __name__ == "__main__":
    main()
