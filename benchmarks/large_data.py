"""A data set of COCO's size: seconds and memory of reading, audit, split and statistics.

The set is made by repetition in a temporary folder: images of a real set under many names (hard
links), with boxes, outlines and the other keys of COCO's own files drawn by a seed. Every figure is
of a process of its own, in CPU seconds of all its threads; reading is given beside pycocotools'
`COCO(path)` on the same file, in turn. Then the set is written as array_record files and as a cache
of pixels, and the input of one epoch of training (mosaic of four) is streamed from each. Last,
decoders of JPEGs of 640x480 in turn on one core; those that are not installed are named.
"""

import argparse
import json
import os
import platform
import resource
import statistics as middle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from flaxyolo.base.files import replace_file
from flaxyolo.cost.measurement import processor_name

if TYPE_CHECKING:  # What a part needs is imported by it: its memory is what it takes by itself.
    from flaxyolo.data.feeds import Keep
    from flaxyolo.data.sources import Dataset

IMAGES, BOXES, CLASSES = 118_000, 860_000, 80
CORNERS = 24
"""Of an outline; COCO's have 26 on average."""
JPEGS = 40
PARTS = ("pycocotools", "read", "facts", "audit", "split", "statistics", "records", "cache")
STREAMED = {"stream of records": 640, "stream of the cache": 160}
"""Where an epoch's input comes from, and the image size in pixels."""
SAMPLES = 10
"""Of the memory, over one epoch."""


def make(folder: Path, source: Path, share: float) -> Path:
    """The set, of a share of COCO's size; the path of its one annotation file."""
    rng = np.random.default_rng(0)
    images, boxes = int(IMAGES * share), int(BOXES * share)
    found = sorted(source.rglob("*.jpg"), key=lambda path: path.stat().st_size)[:16]
    if not found:
        raise SystemExit(f"{source}: expected a folder with JPEGs (*.jpg), found none")
    (folder / "kept").mkdir()
    (folder / "images").mkdir()
    sizes = []
    for number, path in enumerate(found):
        kept = folder / "kept" / f"{number}.jpg"
        kept.write_bytes(path.read_bytes())
        sizes.append(cv2.imread(str(kept)).shape[:2])
    records = []
    for number in range(images):
        of = number % len(found)
        name = f"{number:012d}.jpg"
        os.link(folder / "kept" / f"{of}.jpg", folder / "images" / name)
        records.append(
            {"license": 1, "file_name": name, "coco_url": f"http://images.example/train/{name}",
             "height": sizes[of][0], "width": sizes[of][1], "date_captured": "2013-11-14 11:18:45",
             "flickr_url": f"http://farm.example/7/{number}_z.jpg", "id": number + 1}
        )  # fmt: skip
    path = folder / "annotations" / "instances_default.json"
    path.parent.mkdir()
    kinds = [{"id": k + 1, "name": f"class {k}", "supercategory": "thing"} for k in range(CLASSES)]
    with path.open("w") as file:
        file.write(
            json.dumps({"info": {"year": 2017}, "images": records, "categories": kinds})[:-1]
        )
        file.write(', "annotations": [')
        file.write(",\n".join(map(json.dumps, annotations(rng, boxes, images, sizes))))
        file.write("]}")
    return path


def annotations(
    rng: np.random.Generator, boxes: int, images: int, sizes: list[Any]
) -> Iterator[dict[str, Any]]:
    """Boxes within their images, with an outline each."""
    owner = rng.integers(images, size=boxes)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = (np.stack([np.cos(angles), np.sin(angles)], 1) + 1) / 2
    for number, image in enumerate(owner.tolist()):
        height, width = sizes[image % len(sizes)]
        sides = np.exp(rng.uniform(np.log(8), np.log([width / 2, height / 2])))
        low = rng.uniform(0, np.array([width, height]) - sides)
        outline = (low + circle * sides).round(2).ravel().tolist()
        box = [*low.round(2).tolist(), *sides.round(2).tolist()]
        yield {
            "segmentation": [outline],
            "area": round(float(sides.prod() * np.pi / 4), 4),
            "iscrowd": 0,
            "image_id": image + 1,
            "bbox": box,
            "category_id": int(number % CLASSES) + 1,
            "id": number + 1,
        }


def part(name: str, folder: Path) -> dict[str, Any]:
    """CPU seconds of a part, once what it needs is done, and the most memory of this process."""
    call = prepared(name, folder)
    began, on_the_clock = time.process_time(), time.perf_counter()
    found = call()
    told = {
        "cpu_seconds": time.process_time() - began,
        "seconds": time.perf_counter() - on_the_clock,
        "peak_mib": memory_mib("VmHWM"),
    }
    return told | found if name in STREAMED else told


def memory_mib(kind: str) -> float:
    """Memory of this process: the most it has had (VmHWM; `getrusage` would count what its parent
    had too), or what of it is its own now (RssAnon), files in memory apart."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"expected {kind} in /proc/self/status, found none: this needs Linux")


def prepared(name: str, folder: Path) -> Callable[[], Any]:
    """What a part does, once all that comes before it is done."""
    if name == "pycocotools":
        from pycocotools.coco import COCO

        def by_pycocotools() -> Any:
            with redirect_stdout(StringIO()):
                return COCO(str(folder / "annotations" / "instances_default.json"))

        return by_pycocotools
    from flaxyolo.data.images import image_facts
    from flaxyolo.data.labels.audit import audit
    from flaxyolo.data.labels.splits import own_split
    from flaxyolo.data.readers.coco import read_coco
    from flaxyolo.data.sources import read_dataset
    from flaxyolo.statistics.summary import statistics

    if name == "read":
        return lambda: read_coco(str(folder))
    if name == "statistics":
        dataset = read_dataset(f"coco:{folder}")
        return lambda: statistics(dataset)
    if name in ("records", "cache", *STREAMED):
        return prepared_input(name, folder)
    source = read_coco(str(folder))

    def facts() -> Any:
        return image_facts([one.image for one in source.train.images], "train")

    if name == "facts":
        return facts
    known = facts()
    if name == "audit":
        return lambda: audit(source, known, None)
    _, train, _ = audit(source, known, None)
    return lambda: own_split(source, train, known)


def prepared_input(name: str, folder: Path) -> Callable[[], Any]:
    """Writing the set in a form that streams, or streaming one epoch's input from it."""
    from flaxyolo.data.cache import load_pixels
    from flaxyolo.data.export import convert
    from flaxyolo.data.sources import read_dataset

    cached = STREAMED["stream of the cache"]
    if name == "stream of records":
        records = read_dataset(f"tfds:{folder / 'records'}")
        return lambda: streamed(records, STREAMED[name], "files")
    dataset = read_dataset(f"coco:{folder}")
    if name == "records":
        return lambda: convert(dataset, folder / "records", "tfds")
    if name == "cache":
        return lambda: load_pixels(dataset, "train", cached)
    return lambda: streamed(dataset, cached, "cache")


def streamed(dataset: "Dataset", size: int, keep: "Keep") -> dict[str, Any]:
    """One epoch's input: images a second, and the memory after each tenth of it."""
    from flaxyolo.config import TrainConfig
    from flaxyolo.data.feeds import Streamed, open_feed

    feed, config = open_feed(dataset, "train", size, keep=keep), TrainConfig()
    assert isinstance(feed, Streamed)
    images = len(dataset.train)
    steps = -(-images // config.batch_size)
    look = max(1, steps // SAMPLES)
    memory, began = [], time.perf_counter()
    for number, _ in zip(range(1, steps + 1), feed.batches(config, 0), strict=False):
        if number % look == 0:
            memory.append(round(memory_mib("RssAnon"), 1))
    seconds = time.perf_counter() - began
    return {"image_size": size, "images_per_second": images / seconds, "own_mib_by_tenth": memory}


def measured(folder: Path, rounds: int) -> dict[str, Any]:
    """Figures of every part, reading and pycocotools several times in turn."""
    environment = os.environ | {"FLAXYOLO_CACHE": str(folder / "cache")}
    (folder / "cache").mkdir()

    def run(name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.large_data", "--part", name, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        row = json.loads(done.stdout)
        print(f"{name}: {row['cpu_seconds']:.2f} s of CPU, {row['seconds']:.2f} s, "
              f"{row['peak_mib']:.0f} MiB"
              + (f", {row['images_per_second']:.0f} images/s, own memory by tenths "
                 f"{row['own_mib_by_tenth']} MiB" if name in STREAMED else ""),
              flush=True)  # fmt: skip
        return row

    turns = [{name: run(name) for name in PARTS[:2]} for _ in range(rounds)]
    ratios = [turn["read"]["cpu_seconds"] / turn["pycocotools"]["cpu_seconds"] for turn in turns]
    spread = {"min": min(ratios), "median": middle.median(ratios), "max": max(ratios)}
    print(f"reading: {spread['median']:.2f} of pycocotools' CPU seconds "
          f"({spread['min']:.2f} to {spread['max']:.2f})", flush=True)  # fmt: skip
    parts = {name: run(name) for name in (*PARTS[2:], *STREAMED)}
    return {"turns": turns, "ratio_of_reading": spread, "parts": parts}


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Those that are installed: bytes of a JPEG to RGB."""
    import flaxyolo.base.decoding as ours

    def opencv(content: bytes) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)

    def flaxyolo(content: bytes) -> np.ndarray:
        found = ours.decoded(content)
        assert not isinstance(found, str)
        return found.pixels

    there: dict[str, Callable[[bytes], np.ndarray]] = {"opencv": opencv, "flaxyolo": flaxyolo}
    try:
        import simplejpeg  # pyright: ignore[reportMissingImports]

        there["simplejpeg"] = lambda content: simplejpeg.decode_jpeg(content, "RGB")
    except ImportError as error:
        print(f"simplejpeg: left out ({error})")
    try:
        import turbojpeg  # pyright: ignore[reportMissingImports]

        turbo = turbojpeg.TurboJPEG()
        there["turbojpeg"] = lambda content: turbo.decode(content, pixel_format=turbojpeg.TJPF_RGB)
    except (ImportError, RuntimeError) as error:
        print(f"turbojpeg: left out ({error})")
    return there


def decoded(source: Path, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of an image by decoder, in turn, and how far pixels are from OpenCV's.

    Page faults are told as well: where a process gives an image's memory back each time, and asks
    for it anew, that takes as long as decoding, and says nothing of a decoder.
    """
    cv2.setNumThreads(1)
    contents = []
    for path in sorted(source.rglob("*.jpg"))[:JPEGS]:
        image = cv2.resize(cv2.imread(str(path)), (640, 480), interpolation=cv2.INTER_AREA)
        contents.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    there = decoders()
    took: dict[str, list[float]] = {name: [] for name in there}
    faults = dict.fromkeys(there, 0)
    for _ in range(rounds):
        for name, decode in there.items():
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
            for content in contents:
                decode(content)
            took[name].append(1000 * (time.process_time() - began) / len(contents))
            faults[name] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    apart = {
        name: max(
            int(np.abs(decode(one).astype(int) - there["opencv"](one)).max()) for one in contents
        )
        for name, decode in there.items()
    }
    rows = {}
    for name, values in took.items():
        ratios = [a / b for a, b in zip(values, took["opencv"], strict=True)]
        rows[name] = {
            "cpu_ms": {"min": min(values), "median": middle.median(values), "max": max(values)},
            "ratio_to_opencv": middle.median(ratios),
            "page_faults": faults[name] / (rounds * len(contents)),
            "largest_difference_from_opencv": apart[name],
        }
        print(f"{name}: {middle.median(values):.2f} ms an image ({min(values):.2f} to "
              f"{max(values):.2f}), {rows[name]['ratio_to_opencv']:.2f} of OpenCV's, pixels differ "
              f"by at most {apart[name]}, {rows[name]['page_faults']:.0f} page faults",
              flush=True)  # fmt: skip
    return {"images": len(contents), "bytes": middle.mean(map(len, contents)), "decoders": rows}


def versions() -> dict[str, str]:
    """Of what is compared; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "pycocotools", "opencv-python-headless", "simplejpeg", "PyTurboJPEG"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Make the set, measure, and print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="folder with JPEGs, also in folders below it")
    parser.add_argument("--share", type=float, default=0.1, help="of COCO's size; 1 is the whole")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["set", "decoders"], help="leave out the other")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--part", choices=(*PARTS, *STREAMED), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(part(arguments.part, arguments.source)))
        return
    told: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": processor_name(),
        "versions": versions(),
    }
    if arguments.only != "decoders":
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder), arguments.source, arguments.share)
            size = {"images": int(IMAGES * arguments.share), "boxes": int(BOXES * arguments.share),
                    "mib": round(path.stat().st_size / 2**20, 1)}  # fmt: skip
            print(size, flush=True)
            told["set"] = size | measured(Path(folder), arguments.rounds)
    if arguments.only != "set":
        told["decoding"] = decoded(arguments.source, 5 * arguments.rounds)
    if arguments.json is not None:
        replace_file(arguments.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
