"""How far an exported ONNX model is from the network itself, for every entry of every table.

The networks are those of tests/entries.py, small ones with each block, attention, stem, neck, norm,
head and so on, with weights as training might leave them, on two photographs: the same comparison
as in tests/deploy/test_onnx.py, with its figures. Told are the largest difference of a corner in
pixels and of a score, of float32 on onnxruntime from float32 in JAX. A head that is one-to-one
gives its 300 best rows, of which the scores are compared.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from flaxyolo.base.files import replace_file
from flaxyolo.cost.engine import Engine, where
from flaxyolo.deploy.onnx import OnnxForm, onnx_model
from tests.deploy.test_onnx import BOXES, OTHERS, SCORES, corners, detector, images, ours, run
from tests.entries import ENTRIES


def difference(changes: dict[str, Any]) -> tuple[float | None, float]:
    """Largest differences of a box in pixels, and of a score."""
    made = detector(**changes)
    pictures = images(made.spec.image_size)
    boxes, scores = ours(made, pictures)
    found = run(onnx_model(made, OnnxForm(batch=2)), pictures)
    if made.spec.head.one_to_one:
        rows = -np.sort(-scores.reshape(2, -1), axis=1)[:, : found.shape[1]]
        theirs = found[:, : rows.shape[1], 4]
        return None, float(np.abs(np.where(rows > 0.001, theirs - rows, 0)).max())
    theirs, likely = corners(found)
    return float(np.abs(theirs - boxes).max()), float(np.abs(likely - scores).max())


def main() -> None:
    """Print a table of the entries, and the largest of each kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| entry | box (px) | score |\n|---|---:|---:|")
    for name, changes in (ENTRIES | OTHERS).items():
        box, score = difference(changes)
        rows.append({"entry": name, "box_px": box, "score": score})
        print(f"| {name} | {'-' if box is None else f'{box:.1e}'} | {score:.1e} |", flush=True)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kind = "other" if row["entry"] in OTHERS else row["entry"].split()[0]
        kinds.setdefault(kind, []).append(row)
    print("\n| kind | entries | box (px) | score |\n|---|---:|---:|---:|")
    for kind, of_kind in kinds.items():
        box = max(row["box_px"] or 0.0 for row in of_kind)
        score = max(row["score"] for row in of_kind)
        print(f"| {kind} | {len(of_kind)} | {box:.1e} | {score:.1e} |")
    if arguments.json is not None:
        engine = where(Engine("onnxruntime"))
        told = {"what": "difference of exported models", "limit_box_px": BOXES,
                "limit_score": SCORES, "rows": rows, "device": engine.device,
                "versions": engine.versions, "date": time.strftime("%Y-%m-%d")}  # fmt: skip
        replace_file(arguments.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
