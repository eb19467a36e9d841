"""What share of a space's random draws uses the budget: with its usual ranges, with chosen ones.

On made-up devices, for images of three sizes; with `--here` also on this device, by its table of
blocks, where missing blocks are measured as a new study would. "Draws" are those that use 70 to
100 % of the budget; baseline and advised network are those of the chosen ranges at their largest
input, by the share of the budget that each takes.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import jax

from benchmarks.made_up_devices import DEVICES, TWO_CORES, latencies
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.search.funnel import DEFAULTS
from flaxyolo.search.ranges import (
    Used,
    advised,
    choose_ranges,
    nearest,
    screened_ranges,
    used_of,
)
from flaxyolo.search.screen import draw
from flaxyolo.search.space import (
    Ranges,
    Suggest,
    former_image_sizes,
    image_sizes_for,
    load_space,
    with_ranges,
)

BUDGETS_MS = {"cpu": (2.0, 8.0, 40.0, 200.0, 1000.0), "gpu": (2.0, 8.0, 30.0)}
LONGEST_SIDES = (192, 640, 1280)
CLASSES = 10
SEED = 1
"""Other draws than those that the ranges were chosen by."""


def share(suggest: Suggest, ranges: Ranges, used: Used, draws: int) -> float:
    """Of so many random draws, those in the band."""
    pool = draw(with_ranges(suggest, ranges), draws, SEED)
    shares = used([replace(each.spec, num_classes=CLASSES) for each in pool.drawn])
    low, high = DEFAULTS.band
    return float(((shares >= low) & (shares <= high)).mean())


def row(
    suggest: Suggest,
    device: str,
    budget_ms: float,
    longest: int,
    usual: Ranges,
    ranges: Ranges,
    used: Used,
    draws: int,
) -> dict[str, object]:
    """One line of the table, printed."""
    before, after = (share(suggest, of, used, draws) for of in (usual, ranges))
    sizes = ranges.image_sizes
    start = nearest(suggest, sizes, CLASSES, ranges, at=sizes[-1])
    baseline, second = used([start, advised(suggest, ranges, CLASSES)]).tolist()
    print(
        f"| {device} | {budget_ms:g} | {longest} | {100 * before:.0f} % | {100 * after:.0f} % "
        f"| {100 * baseline:.0f} % | {100 * second:.0f} % | {ranges.describe()} |",
        flush=True,
    )
    return {
        "device": device,
        "budget_ms": budget_ms,
        "longest_side": longest,
        "usual": before,
        "chosen": after,
        "baseline": baseline,
        "advised": second,
        "ranges": ranges.describe(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", type=Path, default=Path("sweeps/default.py"))
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--here", action="store_true", help="also on this device, measured")
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    suggest = load_space(arguments.space)
    rows = []
    print("| device | budget ms | images px | draws, usual | draws, chosen | baseline | advised "
          "| chosen ranges |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for device in DEVICES:
        platform = "cpu" if device is TWO_CORES else "gpu"
        judged = latencies(device)
        for budget_ms in BUDGETS_MS[platform]:

            def used(specs, judged=judged, budget_ms=budget_ms):
                return judged(specs) / budget_ms

            for longest in LONGEST_SIDES:
                usual = Ranges(former_image_sizes(longest, budget_ms, platform))
                ranges = choose_ranges(suggest, image_sizes_for(longest), used, classes=CLASSES)
                rows.append(
                    row(
                        suggest, device.name, budget_ms, longest, usual, ranges, used,
                        arguments.draws,
                    )
                )  # fmt: skip
    if arguments.here:
        platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
        table = LatencyTable.open()
        for budget_ms in BUDGETS_MS[platform]:
            budget = Budget(latency_ms=budget_ms)
            for longest in LONGEST_SIDES:
                usual = Ranges(former_image_sizes(longest, budget_ms, platform))
                ranges = screened_ranges(
                    suggest, image_sizes_for(longest), budget, table, classes=CLASSES
                )
                rows.append(
                    row(
                        suggest, device_name(), budget_ms, longest, usual, ranges,
                        used_of(budget, table), arguments.draws,
                    )
                )  # fmt: skip
    if arguments.json:
        result = {
            "what": "share of random draws that use 70 to 100 % of the budget",
            "space": str(arguments.space),
            "draws": arguments.draws,
            "rows": rows,
            "device": device_name(),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
