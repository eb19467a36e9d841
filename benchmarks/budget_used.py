"""What a sweep decides before it trains: the advice, the range of its space, the budget's use.

Begins the command `sweep` on every data set at every budget, with an empty cache folder of its own,
reads what it says, and ends it when the parent's training begins, so that only what is measured on
the device takes time. "Used" is the measured share of the budget of the network that is
trained first, the advised one grown into it. The file has a line of JSON for each sweep; the same
command goes on with the next.

    python -m benchmarks.budget_used --data digits coco:DIR --out runs/budget_used

Run on a machine with nothing else to do.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flaxyolo.cost.measurement import device_name, versions

BUDGETS_MS = (8.0, 40.0, 200.0)
ENDS = ("parent: epoch", "plan: ends", "plan: the best is meant")
"""Lines after which all is decided."""
MOST_S = 900.0
SHOWN = {
    "advice": re.compile(r"advice: image_size (.*)"),
    "others": re.compile(r"advice: (plan .*); reasons"),
    "range": re.compile(r"plan: (C2 .*)"),
}
GROWN = re.compile(r"grown into the budget: ([\d.]+) ms")


def decided(data: str, budget_ms: float, folder: Path) -> dict[str, Any]:
    """What a new study of these says before it trains; SystemExit with its log where it fails."""
    began = time.monotonic()
    command = [sys.executable, "-m", "flaxyolo.sweep", "--data", data,
               "--budget-ms", f"{budget_ms:g}",
               "--out", str(folder / "runs"), "--no-preflight"]  # fmt: skip
    row: dict[str, Any] = {"data": data, "budget_ms": budget_ms, "measured_ms": []}
    log: list[str] = []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"FLAXYOLO_CACHE": str(folder / "cache")},
    ) as process:  # fmt: skip
        assert process.stderr is not None, "it is a pipe"
        try:
            for line in process.stderr:
                log.append(line)
                for name, pattern in SHOWN.items():
                    if (match := pattern.search(line)) is not None:
                        row[name] = match[1].strip()
                if (match := GROWN.search(line)) is not None:
                    row["measured_ms"].append(float(match[1]))
                if line.strip().startswith(ENDS) or time.monotonic() - began > MOST_S:
                    break
        finally:
            # Nothing is trained yet that could be lost.
            process.kill()
    if "range" not in row or not row["measured_ms"]:
        raise SystemExit(f"{data}, {budget_ms:g} ms: nothing was decided\n{''.join(log)}")
    inside = [ms for ms in row["measured_ms"] if ms <= budget_ms]
    row["used"] = max(inside, default=0.0) / budget_ms
    return row | {"seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Begin the sweeps that are not in the file yet, and print a table of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--budget-ms", nargs="+", type=float, default=BUDGETS_MS)
    parser.add_argument("--out", type=Path, default=Path("runs/budget_used"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "rows.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for data in arguments.data:
        for budget_ms in arguments.budget_ms:
            if any((row["data"], row["budget_ms"]) == (data, budget_ms) for row in rows):
                continue
            place = f"{len(rows)}"
            rows.append(decided(data, budget_ms, arguments.out / place))
            told = {"what": "what sweeps decide before they train", "rows": rows,
                    "device": device_name(), "versions": versions(),
                    "date": time.strftime("%Y-%m-%d")}  # fmt: skip
            path.write_text(json.dumps(told, indent=1) + "\n")
    print("| data | budget ms | advised | range of the space | used |")
    print("|---|---:|---|---|---:|")
    for row in rows:
        size = row.get("advice", "").split(":")[0]
        print(f"| {row['data']} | {row['budget_ms']:g} | {size} px, {row.get('others', '')} | "
              f"{row['range']} | {row['used']:.0%} |")  # fmt: skip


if __name__ == "__main__":
    main()
