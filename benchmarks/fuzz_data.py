"""Does any spoilt data set end in a traceback, a hang, too much memory, or a file that is dropped?

Every seed spoils a small data set (COCO, YOLO, VOC or TFDS) and audits and loads it in a process of
its own. Counted are: tracebacks and crashes, runs of more than 20 s (of CPU, as others may be at
work, or 60 s in all), runs of more than 1 GiB, lines that are none or too long, and files of the
folders of images and labels that are neither read nor named. What a seed came to is kept, so the
same command goes on; `--again` runs those that failed.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import cv2

from benchmarks.sound_data import FORMS, write_sound
from benchmarks.spoilt_data import Spoiler
from flaxyolo.base.errors import InputError
from flaxyolo.data.images import name_of
from flaxyolo.data.sources import SOURCES, audit_source, read_dataset

RESULT = Path(__file__).with_name("results") / "fuzz_data.json"
SECONDS = 20.0
"""Of CPU that a run may take."""
WAITS = 3
"""Times as long a run may last where others keep it waiting."""
MIB = 1024
"""Of resident memory that a run may take."""
SPARE = 6 << 30
"""Bytes of addresses beyond its own that a run may ask for, so that the machine stays well."""
LONGEST = 4000
"""Letters of a message."""
GOOD = {"told", "read"}
TEXTS = (".txt", ".xml", ".json", ".yaml")
"""Files that are labels, or lists, or said to be neither: whether they are read is not seen."""


def run_seed(seed: int, models: Path, place: Path) -> dict[str, Any]:
    """Spoil a copy of a data set, and read it in a child: what came of it."""
    form = FORMS[seed % len(FORMS)]
    root = place / "set"
    shutil.copytree(models / form, root)
    try:
        done = Spoiler(root, form, seed).spoil()
        outcome = _in_child(form, root, place)
    finally:
        shutil.rmtree(place)
    return {"seed": seed, "form": form, "done": done, **outcome}


def _in_child(form: str, root: Path, place: Path) -> dict[str, Any]:
    told = place / "told.json"
    began = time.monotonic()
    child = os.fork()
    if not child:
        _child(form, root, told)
    status, usage, hung = None, None, False
    while status is None:
        ended, status_, usage = os.wait4(child, os.WNOHANG)
        if ended:
            status = status_
        elif time.monotonic() - began > SECONDS and (
            _cpu_of(child) > SECONDS or time.monotonic() - began > WAITS * SECONDS
        ):
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            hung = True
        else:
            time.sleep(0.01)
    assert usage is not None
    found = json.loads(told.read_text()) if told.is_file() else {"kind": "crash", "status": status}
    mib = usage.ru_maxrss / 1024
    kind = "hang" if hung else "memory" if mib > MIB else found.pop("kind")
    spent = round(usage.ru_utime + usage.ru_stime, 1)
    return {**found, "kind": kind, "mib": round(mib), "s": spent}


def _cpu_of(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(form: str, root: Path, told: Path) -> None:
    """Audit and load; write what came of it, and end."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, now + SPARE))
    os.environ |= {"FLAXYOLO_CACHE": str(told.with_name("cache")), "HOME": str(told.parent)}
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    try:
        found = _read(form, root)
    except InputError as error:
        text = str(error)
        good = text.isprintable() and len(text) <= LONGEST
        found = {"kind": "told" if good else "bad line", "line": text[:300]}
    except BaseException:
        found = {"kind": "traceback", "line": traceback.format_exc()[-1500:]}
    told.write_text(json.dumps(found))
    os._exit(0)


def _read(form: str, root: Path) -> dict[str, Any]:
    name = f"{form}:{root}"
    source = SOURCES[form](str(root))
    records = [one for one in (source.train, source.val) if one is not None]
    seen = {name_of(listed.image) for one in records for listed in one.images}
    seen |= {place for one in records for aside in one.asides for place in aside.places}
    dropped = [] if form == "tfds" else _silent(root, seen)
    if dropped:
        return {"kind": "silent drop", "line": "; ".join(map(ascii, dropped))[:500]}
    audit = audit_source(name)
    for split, counts in audit.splits:
        findings = [one for one in audit.findings if one.split == split]
        if counts.listed_images != counts.images + sum(one.images_out for one in findings):
            return {"kind": "silent drop", "line": f"{split}: the images do not add up"}
        if counts.listed_boxes != counts.boxes + sum(one.boxes_out for one in findings):
            return {"kind": "silent drop", "line": f"{split}: the boxes do not add up"}
    places = [place for one in audit.findings for place in one.first]
    if not all(place.isprintable() and len(place) <= LONGEST for place in places):
        return {"kind": "bad line", "line": "a place of the audit"}
    data = read_dataset(name)
    return {"kind": "read", "line": f"{len(data.train)} and {len(data.val)} images"}


def _silent(root: Path, seen: set[str]) -> list[str]:
    """The files in folders of images and labels that are neither read nor named."""
    real = {os.path.realpath(name) for name in seen if "\0" not in name}
    dropped = []
    for top in ("images", "labels", "JPEGImages", "Annotations"):
        for folder, _, names in os.walk(root / top):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.splitext(name)[1].lower() in TEXTS or path in seen:
                    continue
                if os.path.realpath(path) not in real:
                    dropped.append(path)
    return dropped


def main() -> int:
    """Run the seeds that are not done, and print what all came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=600)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--again", action="store_true", help="run those that failed once more")
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    cv2.setNumThreads(0)
    stored = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {"runs": []}
    runs = {one["seed"]: one for one in stored["runs"]
            if not arguments.again or one["kind"] in GOOD}  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        models = Path(work) / "models"
        os.environ["FLAXYOLO_CACHE"] = str(Path(work) / "cache")
        _in_its_own_process(lambda: [write_sound(models / form, form) for form in FORMS])
        import tensorflow_datasets as tfds  # once, before the children are forked

        assert tfds.builder_from_directory
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            if seed in runs:
                continue
            runs[seed] = run_seed(seed, models, Path(tempfile.mkdtemp(dir=work)))
            if runs[seed]["kind"] not in GOOD:
                print(json.dumps(runs[seed])[:1500], flush=True)
            if seed % 20 == 0:
                _save(arguments.json, runs)
    _save(arguments.json, runs)
    counts = Counter(one["kind"] for one in runs.values())
    print(", ".join(f"{kind}: {count}" for kind, count in counts.most_common()))
    return 0 if set(counts) <= GOOD else 1


def _in_its_own_process(body: Any) -> None:
    child = os.fork()
    if not child:
        try:
            body()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("the sound data sets could not be written")


def _save(path: Path, runs: dict[int, dict[str, Any]]) -> None:
    ordered = [runs[seed] for seed in sorted(runs)]
    slim = [
        {key: value for key, value in one.items() if key != "line" or one["kind"] not in GOOD}
        for one in ordered
    ]
    counts = Counter(one["kind"] for one in ordered)
    summary = {
        "date": date.today().isoformat(),
        "seeds": len(ordered),
        "counts": dict(counts),
        "most_mib": max((one["mib"] for one in ordered), default=0),
        "longest_s": max((one["s"] for one in ordered), default=0),
    }
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(one, ensure_ascii=True) for one in slim)
    path.write_text(json.dumps(summary, indent=1)[:-2] + ',\n "runs": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    sys.exit(main())
