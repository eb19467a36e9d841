"""How fast this project is beside others: one table, made of what the benchmarks left in results/.

    python -m benchmarks.beside_others            # prints the table
    python -m benchmarks.beside_others --write    # puts it into benchmarks/README.md

Every row is a ratio of two things that ran in turn in one run: our time, or size, over the other's.
A test holds that the README has the table that follows from the files.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.engines import ENGINES, NETWORK, PRODUCT
from flaxyolo.base.files import replace_file

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- beside others: begin -->", "<!-- beside others: end -->"


class Ratio(NamedTuple):
    """Ours over another's."""

    low: float
    median: float
    high: float


class Row(NamedTuple):
    """One comparison."""

    what: str
    beside: str
    file: str
    """In results/; it names the script too."""
    ratio: Callable[[Any], Ratio]
    """From what the file says."""
    aim: float | None = None
    bound: str | Callable[[Any], str] = ""
    """What stands between the ratio and the aim; its figures are those of the file."""


def of(values: Sequence[float]) -> Ratio:
    """Least, median and most of several ratios."""
    return Ratio(min(values), median(values), max(values))


def kept(*path: str) -> Callable[[Any], Ratio]:
    """A ratio that a file has as `min`, `median` and `max`."""

    def read(found: Any) -> Ratio:
        for name in path:
            found = found[name]
        return Ratio(found["min"], found["median"], found["max"])

    return read


def epochs(found: Any) -> Ratio:
    """Of epochs that were run in turn."""
    seconds = found["seconds"]
    return of([a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)])


def fastest_engine(network: str) -> Callable[[Any], Ratio]:
    """JAX over the fastest of the others, from the 10th to the 90th percentile of the rounds."""

    def read(found: Any) -> Ratio:
        engines = [found["networks"][network][name] for name in ENGINES[1:]]
        best = min(engines, key=lambda row: row["ratio_to_jax"])
        return Ratio(*(1 / best[key] for key in ("ratio_p90", "ratio_to_jax", "ratio_p10")))

    return read


def convolutions(*names: str) -> Callable[[Any], Ratio]:
    """Forward, over the kinds of convolutions whose names begin so."""

    def read(found: Any) -> Ratio:
        return of([row["forward_ratio"] for row in found if row["name"].startswith(names)])

    return read


def kernels(program: str, **where: Any) -> Callable[[Any], Ratio]:
    """Of a program as accelerators get it over one that goes image by image."""

    def read(found: Any) -> Ratio:
        forms = {
            row["form"]: row["kernels"]
            for row in found["rows"]
            if row["program"] == program and all(row[key] == value for key, value in where.items())
        }
        return of([forms["whole"] / forms["loops"]])

    return read


XLA_CONVOLUTIONS = (
    "XLA's convolutions for CPUs: dense ones are on a par, the stem and depthwise ones take a "
    "multiple (the rows of convolutions below)"
)


def peaks(found: Any) -> str:
    """What share of a matrix product's operations per second the networks reach, without NMS."""
    shares = [
        f"{network} {rows[NETWORK]['share_of_peak']:.0%}"
        f" ({rows['onnxruntime']['share_of_peak']:.0%} on onnxruntime with NMS)"
        for network, rows in found["networks"].items()
    ]
    product = next(iter(found["networks"].values()))[PRODUCT]["gflop_per_s"]
    return (
        f"XLA for CPUs, in which a network without NMS reaches this share of the peak of a matrix "
        f"product ({product:.0f} GFLOP/s on two cores): {', '.join(shares)}; with oneDNN's "
        "convolutions through XLA's FFI, bias and activation in the same call, the ratio was 1.06 "
        "for YOLOv8n at 640 px, and higher than it is on small inputs"
    )


ROWS = (
    Row(
        "epoch with its evaluation, YOLOv8n, 320 px, batch 16", "Ultralytics 8.4",
        "train_epoch-yolov8n-bccd-cpu", epochs, 0.6, XLA_CONVOLUTIONS,
    ),
    *(
        Row(f"one image to boxes, {network}", "the faster of onnxruntime and OpenVINO",
            "engines-cpu", fastest_engine(network), 1.0, peaks)
        for network in ("yolov8n at 640 px", "yolov8n at 192 px",
                        "winner of the first command at 192 px")
    ),
    Row("dense convolutions, forward", "PyTorch 2", "convolutions-cpu", convolutions("dense")),
    Row("convolutions of stems, forward", "PyTorch 2", "convolutions-cpu", convolutions("stem")),
    Row("depthwise convolutions, forward", "PyTorch 2", "convolutions-cpu",
        convolutions("depthwise")),
    Row("evaluation, 5,000 images, 500,000 detections", "pycocotools", "evaluation-cpu",
        kept("sizes", "coco", "ratio"), 0.1),
    Row("evaluation, 150 images, 18,000 detections", "pycocotools", "evaluation-cpu",
        kept("sizes", "small", "ratio"), 0.1),
    Row("reading a COCO file, 118,000 images, 860,000 boxes", "pycocotools", "large_data-whole-cpu",
        kept("set", "ratio_of_reading"), 0.5,
        "half of it is json.loads; what is over is the check of every record"),
    Row("reading a COCO file, 11,800 images, 86,000 boxes", "pycocotools", "large_data-cpu",
        kept("set", "ratio_of_reading"), 0.5,
        "half of it is json.loads; what is over is the check of every record"),
    *(
        Row(f"kernels of a training step of YOLOv8n, 640 px, batch {batch}, compiled for an H100",
            "its form for CPUs", "accelerator_program-h100",
            kernels("step", network="yolov8n", batch=batch))
        for batch in (16, 64)
    ),
    Row("kernels of detecting in one image, YOLOv8n, 640 px, compiled for an H100",
        "its form for CPUs", "accelerator_program-h100", kernels("detect", network="yolov8n")),
)  # fmt: skip


def table() -> str:
    """All rows in Markdown, and below them why an aim is not reached."""
    lines = [
        "| what | beside | ratio, least to most | aim | by |",
        "|---|---|---|---:|---|",
    ]
    short: dict[str, list[str]] = {}
    for row in ROWS:
        found = json.loads((HERE / "results" / f"{row.file}.json").read_text())
        ratio = row.ratio(found)
        figures = f"**{ratio.median:.2g}**" if ratio.median < 1 else f"**{ratio.median:.2f}**"
        if ratio.low < ratio.high:
            figures += f" ({ratio.low:.2g} to {ratio.high:.2g})"
        aim = "" if row.aim is None else f"{row.aim:g}"
        script = row.file.partition("-")[0]
        lines.append(f"| {row.what} | {row.beside} | {figures} | {aim} | `{script}.py` |")
        if row.aim is not None and ratio.median > row.aim:
            bound = row.bound if isinstance(row.bound, str) else row.bound(found)
            short.setdefault(bound, []).append(row.what)
    lines += ["", *(f"- Aim not reached: {'; '.join(what)}. What bounds it: {bound}."
                    for bound, what in short.items())]  # fmt: skip
    return "\n".join(lines)


def placed(text: str) -> str:
    """The README with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    """Print the table, or write it into the README."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    if parser.parse_args().write:
        replace_file(README, placed(README.read_text()))
    else:
        print(table())


if __name__ == "__main__":
    main()
