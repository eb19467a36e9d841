"""Writes what tables of trained networks say into the package, as a prior for new studies.

python -m benchmarks.experience benchmarks/tables/*.jsonl
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from benchmarks.landscape import trained
from benchmarks.trained import CURVES, rounded
from flaxyolo.base.files import replace_file
from flaxyolo.search.experience import FILE, Table


def table(path: Path) -> Table:
    """Of a table's networks what the surrogate sees, and their means at the end."""
    found = trained(path)
    names = sorted({name for row in found.features for name in row})
    settings = found.settings
    return Table(
        data=settings["data"],
        objective=settings["objective"],
        epochs=found.end,
        device=settings["device"],
        date=settings["date"],
        names=tuple(names),
        # A choice that was not made is none of its shares, and another absent number is unknown.
        rows=tuple(
            tuple(row.get(name, 0.0 if "=" in name else None) for name in names)
            for row in found.features
        ),
        scores=tuple(
            fmean(curve[-1]["objective"] for curve in row[CURVES].values()) for row in found.rows
        ),
    )


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    tables = [rounded(asdict(table(path))) for path in arguments.tables]
    replace_file(arguments.out, json.dumps(tables, separators=(",", ":")) + "\n")
    for one in tables:
        print(f"{one['data']}: {len(one['rows'])} networks")


if __name__ == "__main__":
    main()
