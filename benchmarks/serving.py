"""Requests per second of `serve` with 1, 4 and 16 clients: each answered rightly, or counted.

The server is a process of its own; each client is a thread of this one, which sends an image, waits
for its answer and sends the next: so clients and server share the machine. What every image has to
be answered with is asked first, one at a time. A figure holds for the machine, the network and the
size of the images; run it where nothing else is to be done.
"""

import argparse
import contextlib
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from flaxyolo.base.files import replace_file
from flaxyolo.cost.measurement import processor_name, versions

IMAGES = 32
TIMEOUT = 120.0
WITHIN = 0.5
"""Pixels of a box by which batches may differ: programs for several images round otherwise."""
CLEAR = 0.05
"""By which a score has to pass the least one, for its box to be compared."""
LEAST = 0.25


def images_of(source: str) -> list[bytes]:
    """JPEG files of validation images."""
    from flaxyolo.base.pixels import rgb_pixels
    from flaxyolo.data.sources import read_dataset

    examples = itertools.islice(read_dataset(source).val, IMAGES)
    pixels = (rgb_pixels(example.image) for example in examples)
    return [cv2.imencode(".jpg", one[:, :, ::-1])[1].tobytes() for one in pixels]


@contextlib.contextmanager
def server(checkpoint: Path, batch: int, wait_ms: float) -> Iterator[str]:
    """The URL of a server that is ready; ended as by Ctrl-C."""
    flags = ["--port", "0", "--batch", str(batch), "--wait-ms", str(wait_ms)]
    process = subprocess.Popen(
        [sys.executable, "-m", "flaxyolo.serve", str(checkpoint), *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = re.match(r"(http://\S+) is ready", process.stdout.readline())
        if ready is None:
            raise SystemExit("the server did not start")
        yield ready[1]
    finally:
        process.terminate()
        process.wait()


def ask(client: httpx.Client, image: bytes) -> dict[str, Any] | None:
    """The answer; None where there is none."""
    try:
        response = client.post("/predict", content=image, headers={"Content-Type": "image/jpeg"})
    except httpx.HTTPError:
        return None
    return response.json() if response.status_code == 200 else None


def alike(answer: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether all that is clearly found is found at its place, with its class."""
    if answer["image"] != wanted["image"]:
        return False
    found = answer["detections"]
    return all(
        any(
            one["class_index"] == other["class_index"]
            and np.abs(np.subtract(one["box"], other["box"])).max() < WITHIN
            for other in found
        )
        for one in wanted["detections"]
        if one["score"] > LEAST + CLEAR
    )


def measure(url: str, images: list[bytes], clients: int, requests: int) -> dict[str, Any]:
    """Figures of so many clients with `requests` in all."""
    with httpx.Client(base_url=url, timeout=TIMEOUT) as one:
        wanted = [ask(one, image) for image in images]
        if None in wanted:
            raise SystemExit("the server does not answer a single client")
        before = one.get("/health").json()
        numbers, seconds, right, lost = itertools.count(), [], [], []

        def work() -> None:
            with httpx.Client(base_url=url, timeout=TIMEOUT) as own:
                while (number := next(numbers)) < requests:
                    began = time.perf_counter()
                    answer = ask(own, images[number % len(images)])
                    seconds.append(time.perf_counter() - began)
                    if answer is None:
                        lost.append(number)
                    else:
                        right.append(alike(answer, wanted[number % len(images)]))

        threads = [threading.Thread(target=work) for _ in range(clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        after = one.get("/health").json()
    return {
        "clients": clients,
        "requests": len(seconds),
        "lost": len(lost),
        "wrong": right.count(False),
        "per_second": len(right) / took,
        "ms_p50": 1000 * float(np.percentile(seconds, 50)),
        "ms_p95": 1000 * float(np.percentile(seconds, 95)),
        "images_in_a_batch": requests / (after["batches"] - before["batches"]),
        "device": after["device"],
    }


def main() -> None:
    """Measure each number of clients in turn, for each size of batches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", default="digits", help="whose validation images are sent")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=1000, help="for each number of clients")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--wait-ms", type=float, default=5.0)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    images, rows = images_of(arguments.data), []
    for batch in arguments.batch:
        with server(arguments.checkpoint, batch, arguments.wait_ms) as url:
            for clients in arguments.clients:
                row = measure(url, images, clients, arguments.requests)
                rows.append({"batch": batch, "wait_ms": arguments.wait_ms, **row})
                print(
                    f"batches of {batch}, {clients} clients: {row['per_second']:.1f} requests per "
                    f"second, {row['ms_p50']:.1f} ms (p95 {row['ms_p95']:.1f}), "
                    f"{row['images_in_a_batch']:.1f} images in a batch, "
                    f"{row['lost']} lost, {row['wrong']} wrong",
                    flush=True,
                )
    if arguments.json is not None:
        told = {
            "checkpoint": str(arguments.checkpoint),
            "data": arguments.data,
            "rows": rows,
            "device": processor_name(),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
        }
        replace_file(arguments.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
