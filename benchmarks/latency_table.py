"""How well the latency table knows networks that it has not seen.

Random networks of a space are measured as a sweep measures them, and all their pieces alone.
Every network is then predicted without itself and the pieces that only it has, and once more from
the networks before it alone, as in a sweep, without and with its own pieces. Some are measured
twice: what one measurement says of the other is what any table can do at best.

The table is kept in a folder of its own (`--table`), so a run that was stopped goes on; `--minutes`
stops it. While other programs use the processors (Linux tells) it waits, and it measures again
what they disturbed.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from scipy.stats import spearmanr

from flaxyolo.base import cli
from flaxyolo.cost.measure import measure
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.cost.table.file import network_key
from flaxyolo.cost.table.pieces import pieces
from flaxyolo.cost.table.table import LatencyTable, Prediction
from flaxyolo.search.screen import draw, judge
from flaxyolo.search.space import load_space
from flaxyolo.spec import DetectorSpec

CLASSES = 10
REPEATED = 4
"""One network in so many is measured again."""
FIRST_KNOWN = 10
"""Proposals are asked to keep the budget after so many measured networks."""
STATS = ("p50", "p95")
QUIET = 0.05
"""Largest share of the processors that other programs may use."""
LOOK_SECONDS = 1.0


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Afterwards `others` is the share of the processors that other programs used meanwhile."""
    seen, before, began = {"others": 0.0}, _busy_seconds(), time.monotonic()
    yield seen
    spent = (time.monotonic() - began) * (os.cpu_count() or 1)
    seen["others"] = max(_busy_seconds() - before, 0.0) / spent


def _busy_seconds() -> float:
    """Processor seconds of all programs but this one, and those taken by other machines."""
    file = Path("/proc/stat")
    if not file.is_file():
        return 0.0
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, file.read_text().split()[1:9])
    ticks = user + nice + system + irq + soft + steal
    own = os.times()
    return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system


def wait_for_quiet(end: float) -> None:
    """Return when other programs rest, or the time is over."""
    while time.monotonic() < end:
        with watched() as seen:
            time.sleep(LOOK_SECONDS)
        if seen["others"] <= QUIET:
            return


def gather(
    table: LatencyTable, specs: list[DetectorSpec], state: dict, file: Path, end: float
) -> list[dict]:
    """Measure networks and their pieces until the time is over; what is done is kept in `file`."""
    if state.setdefault("table", table.path.name) != table.path.name:
        print(f"{file}: of another device or version; begun anew")
        state.clear()
        state["table"] = table.path.name
    rows = state.setdefault("rows", [])
    for number, spec in enumerate(specs):
        while number >= len(rows) and time.monotonic() < end:
            wait_for_quiet(end)
            new = [key for key in keys_of(spec) if key not in table.contents.pieces]
            began = time.monotonic()
            with watched() as during:
                table.measure([spec])
            row = {"pieces": len(new), "pieces_s": time.monotonic() - began}
            began = time.monotonic()
            with watched() as after:
                cost = measure(spec)
            row |= {"network_s": time.monotonic() - began}
            row |= {stat: getattr(cost, f"latency_ms_{stat}") for stat in STATS}
            row["others"] = max(during["others"], after["others"])
            print(f"{number}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
            if row["others"] > QUIET:
                forget(table, new)
                continue
            rows.append(row)
            table.add_network(spec, cost)
            table.save()
            file.write_text(json.dumps(state))
    for number in range(0, len(rows), REPEATED):
        while "p50_again" not in rows[number] and time.monotonic() < end:
            wait_for_quiet(end)
            with watched() as seen:
                cost = measure(specs[number])
            if seen["others"] <= QUIET:
                again = {f"{stat}_again": getattr(cost, f"latency_ms_{stat}") for stat in STATS}
                rows[number] |= again
                file.write_text(json.dumps(state))
    return rows


def forget(table: LatencyTable, keys: list[str]) -> None:
    """Take pieces out of the table and its file."""
    for key in keys:
        table.contents.pieces.pop(key, None)
    table.path.unlink(missing_ok=True)
    table.save()


def accuracy(predicted: list[float], measured: list[float]) -> dict[str, float]:
    """MAPE, share within 10 %, and rank correlation."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    return {
        "networks": len(errors),
        "mape": float(errors.mean()),
        "within_10": float((errors <= 0.1).mean()),
        "spearman": float(spearmanr(predicted, measured).statistic),
    }


def kept_budgets(uppers: list[float], measured: list[float]) -> dict[str, float]:
    """Of networks predicted inside a budget with 90 % confidence, the share that is inside.

    Over all budgets from the least to the largest latency; and of those between 70 and 100 % of
    the budget alone, where a sweep proposes.
    """
    upper, latency = np.array(uppers), np.array(measured)
    inside, kept, near, near_kept = 0, 0, 0, 0
    for budget in np.linspace(latency.min(), latency.max(), 41):
        proposed = upper <= budget
        close = proposed & (upper >= 0.7 * budget)
        inside, kept = inside + proposed.sum(), kept + (proposed & (latency <= budget)).sum()
        near, near_kept = near + close.sum(), near_kept + (close & (latency <= budget)).sum()
    return {
        "all": float(kept / inside) if inside else float("nan"),
        "at_70_to_100": float(near_kept / near) if near else float("nan"),
    }


def keys_of(spec: DetectorSpec) -> set[str]:
    """The keys of a network's pieces."""
    return {piece.key for piece in pieces(spec)}


def part_of(table: LatencyTable, known: set[str], networks: list[DetectorSpec]) -> LatencyTable:
    """The table with only these pieces and networks."""
    part = LatencyTable(table.path)
    for key in set(part.contents.pieces) - known:
        del part.contents.pieces[key]
    for key in set(part.contents.networks) - {network_key(spec) for spec in networks}:
        del part.contents.networks[key]
    return part


def leave_one_out(table: LatencyTable, specs: list[DetectorSpec]) -> list[Prediction]:
    """Every measured network predicted by a table without it and the pieces that only it has."""
    predictions = []
    for spec in specs:
        others = [other for other in specs if other != spec]
        rest = part_of(table, set().union(*map(keys_of, others)), others)
        predictions += rest.predict([spec])
    return predictions


def in_order(table: LatencyTable, specs: list[DetectorSpec], own: bool) -> list[Prediction]:
    """Every network after the tenth from those before it; with `own`, its own pieces measured."""
    predictions = []
    for number in range(FIRST_KNOWN, len(specs)):
        before, spec = specs[:number], specs[number]
        known = set().union(*map(keys_of, before), keys_of(spec) if own else set())
        predictions += part_of(table, known, before).predict([spec])
    return predictions


def report(table: LatencyTable, specs: list[DetectorSpec], rows: list[dict]) -> dict:
    """All figures of a table."""
    result: dict = {"networks": len(rows), "pieces": len(table.contents.pieces)}
    done = specs[: len(rows)]
    kinds = {
        "held_out": (leave_one_out(table, done), rows),
        "in_order_after_ten": (in_order(table, done, False), rows[FIRST_KNOWN:]),
        "in_order_with_own_pieces": (in_order(table, done, True), rows[FIRST_KNOWN:]),
    }
    for stat in STATS:
        result[stat] = {"table_says": table.error(stat).describe()}
        for name, (predictions, of) in kinds.items():
            measured = [row[stat] for row in of]
            result[stat][name] = accuracy(
                [getattr(each, f"{stat}_ms") for each in predictions], measured
            ) | {"kept": kept_budgets([each.upper(stat) for each in predictions], measured)}
        twice = [row for row in rows if f"{stat}_again" in row]
        if len(twice) > 1:
            result[stat]["measured_again"] = accuracy(
                [row[f"{stat}_again"] for row in twice], [row[stat] for row in twice]
            )
    new = sum(row["pieces"] for row in rows)
    result["seconds"] = {
        "per_piece": sum(row["pieces_s"] for row in rows) / max(new, 1),
        "new_pieces_per_network": new / len(rows),
        "per_network": sum(row["network_s"] for row in rows) / len(rows),
    }
    return result


def screening(table: LatencyTable, suggest, count: int) -> dict[str, float]:
    """Seconds to draw and judge so many networks, and how many pieces they have."""
    began = time.monotonic()
    pool = draw(suggest, count, 1, finish=lambda spec: replace(spec, num_classes=CLASSES))
    drawn = time.monotonic()
    judge(pool.drawn, table, counts=False)
    latencies = time.monotonic()
    judge(pool.drawn, table)
    first = time.monotonic()
    judge(pool.drawn, table)
    return {
        "specs": len(pool.drawn),
        "pieces": len({piece.key for each in pool.drawn for piece in pieces(each.spec)}),
        "draw_s": drawn - began,
        "latencies_s": latencies - drawn,
        "first_counts_s": first - latencies,
        "latencies_and_known_counts_s": time.monotonic() - first,
    }


def main() -> None:
    """Measure, then print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=24, help=f"at least {FIRST_KNOWN + 2}")
    parser.add_argument("--space", type=Path, help="a sweep file; without it the default space")
    parser.add_argument("--screen", type=int, default=2000, help="networks drawn and judged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=Path("runs/latency_table"))
    parser.add_argument("--minutes", type=float, default=60.0, help="of measuring, then report")
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    cli.log_to_stderr()
    jax.config.update("jax_enable_compilation_cache", False)
    end = time.monotonic() + 60 * arguments.minutes
    suggest = load_space(arguments.space)
    pool = draw(
        suggest,
        arguments.networks,
        arguments.seed,
        finish=lambda spec: replace(spec, num_classes=CLASSES),
    )
    specs = [each.spec for each in pool.drawn]
    table = LatencyTable.open(arguments.table)
    file = arguments.table / f"networks-{arguments.seed}.json"
    state = json.loads(file.read_text()) if file.is_file() else {}
    rows = gather(table, specs, state, file, end)
    if len(rows) < len(specs) or not all("p50_again" in row for row in rows[::REPEATED]):
        print(f"{len(rows)} of {len(specs)} networks so far; run it again to go on")
        return
    result = {
        "what": "latency table against measured networks, batch 1",
        "space": str(arguments.space or "sweeps/default.py"),
        "seed": arguments.seed,
        **report(table, specs, rows),
    }
    if arguments.screen:
        result["screening"] = screening(table, suggest, arguments.screen)
    result |= {
        "device": device_name(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
