"""How far the outputs of a grown network are from its parent's, for every entry of every table.

The networks are those of tests/entries.py: small ones with each block, stem, neck,
head, norm and so on, made wider by half, a layer deeper, or grown in one other way. Told are the
largest difference of logits, and of boxes in strides of 8 px, in float32, and what `inherit` itself
reports as not kept.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.spec import DetectorSpec
from tests.entries import ENTRIES, small
from tests.weights.test_inherit import GROWTHS, KEPT, grown


def pairs() -> dict[tuple[str, str], tuple[DetectorSpec, DetectorSpec]]:
    """Parent and child by kind of growth and by entry."""
    found = {("width", name): (small(**entry), small(24, **entry))
             for name, entry in ENTRIES.items()}  # fmt: skip
    found |= {
        ("depth", f"block {name}"): (small(block=name), small(block=name, depth=2))
        for name in BLOCKS
    }
    return found | {
        ("other", name): (small(**before), small(**after))
        for name, (before, after) in GROWTHS.items()
    }


def main() -> None:
    """Print a table of the pairs, those that are farthest apart first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for (growth, name), (parent, child) in pairs().items():
        inherited, apart = grown(parent, child)
        told = sorted({change.why for change in inherited.changes})
        rows.append({"growth": growth, "entry": name, "difference": apart, "told": told})
    rows.sort(key=lambda row: -row["difference"])
    for growth in ("width", "depth", "other"):
        mine = [row for row in rows if row["growth"] == growth]
        kept = [row["difference"] for row in mine if not row["told"]]
        silent = [row["entry"] for row in mine if not row["told"] and row["difference"] > KEPT]
        print(f"{growth}: {len(kept)} of {len(mine)} said to be kept, at most {max(kept):.1e} apart"
              f"; above {KEPT:g} and not told: {', '.join(silent) or 'none'}")  # fmt: skip
    print("\n| growth | entry | largest difference | told as not kept |\n|---|---|---:|---|")
    for row in rows:
        print(f"| {row['growth']} | {row['entry']} | {row['difference']:.1e} "
              f"| {', '.join(row['told'])} |")  # fmt: skip
    if arguments.json:
        told = {"what": "difference of outputs of grown networks", "limit": KEPT, "rows": rows,
                "device": device_name(), "versions": versions(),
                "date": time.strftime("%Y-%m-%d")}  # fmt: skip
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
