"""Seconds of one training epoch, ours against another trainer's, measured alternately.

The other trainer is a command that trains the same network on the same images and leaves a
`results.csv` with a cumulative `time` column, as Ultralytics' command line does (it is run as a
program in an environment of its own; nothing of it is imported here). See benchmarks/README.md.
"""

import argparse
import csv
import itertools
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def ours(arguments: argparse.Namespace, out: Path) -> list[float]:
    """Seconds of each epoch after the first, with its evaluation."""
    command = [sys.executable, "-m", "flaxyolo.train", str(arguments.config)]
    command += ["--data", arguments.data, "--image-size", str(arguments.image_size)]
    command += ["--batch-size", str(arguments.batch_size), "--epochs", str(arguments.epochs)]
    command += ["--evaluate-every", "1", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["seconds"] + row["evaluation_seconds"] for row in rows[1:]]


def theirs(arguments: argparse.Namespace, out: Path) -> list[float]:
    """Seconds of each epoch after the first, with its validation."""
    command = arguments.peer.format(
        out=out, epochs=arguments.epochs, size=arguments.image_size, batch=arguments.batch_size
    )
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    (path,) = out.rglob("results.csv")
    with path.open() as file:
        rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file)]
    times = [float(row["time"]) for row in rows]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> None:
    """Run both in turn and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="command with {out} {epochs} {size} {batch}")
    parser.add_argument("--config", type=Path, default=Path("configs/yolov8n.yaml"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    versions = {name: version(name) for name in ("flaxyolo", "jax", "jaxlib", "flax")}
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.rounds):
            for name, run in (("ours", ours), ("theirs", theirs)):
                seconds[name] += run(arguments, Path(folder) / f"{name}{turn}")
                print(f"round {turn + 1}, {name}: {seconds[name]}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "what": "seconds of an epoch with its evaluation, epochs after the first",
        "config": str(arguments.config),
        "image_size": arguments.image_size,
        "batch_size": arguments.batch_size,
        "seconds": seconds,
        "median": medians,
        "ratio": medians["ours"] / medians["theirs"],
        "device": platform.processor() or platform.machine(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
