"""Hundreds of seeded corruptions: each is counted and named, or ends in one line that names it."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.labels.findings import KINDS, Audit
from flaxyolo.data.sources import Dataset, audit_source, read_dataset
from tests.data.coco_folder import turned, write_image

T = TypeVar("T")

ROUNDS = 600
BATCHES = 12

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 10**6, 2**31, 2**53, 2**63, 2**64, 10**20, 10**400,
    -(10**30), 0.5, -0.0, 1e-300, 1e15, 1e16, 1e308, float("nan"), float("inf"), -float("inf"),
    "", "0", "7", "x", "a\nb", "a\0b", "\ud800", "日本.png", "../images/a.png", "/", ".", "é" * 300,
    [], {}, [1], [1, 2, 3, 4], [[1, 2, 3, 4]], [None] * 4, ["1"] * 4, {"id": 1}, [[[[[]]]]],
]  # fmt: skip
"""What may stand anywhere."""
NUMBERS = [-1e9, -50, -2, -1, -0.5, 0, 0.25, 1, 5, 12.75, 24, 31, 32, 33, 40, 1e5, 1e12]
"""What may stand in a box of an image of 32 x 24."""
RAW = [b"", b"{", b"null", b"3", b'"x"', b"[]", b"{}", b"\xff\xfe\x00", b"\x00" * 50, b"[" * 9999,
       b"\xef\xbb\xbf{}", b"NaN", b'{"images": 1' + b"0" * 5000 + b"}"]  # fmt: skip


def sound(split: str) -> dict:
    """Four images of 32 x 24 with two boxes each."""
    images, annotations = [], []
    for number in range(4):
        name = f"{split}{number}.{'jpg' if number % 2 else 'png'}"
        images.append({"id": number + 1, "file_name": name, "width": 32, "height": 24})
        for side in (6, 11):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 1, "category_id": 1 + side % 2,
                 "bbox": [number, 3, side, side], "area": side * side, "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": 1, "name": "odd"}, {"id": 2, "name": "even"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        data = sound(split)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        for record in data["images"]:
            write_image(root / "images" / record["file_name"], 24, 32)
    return root


class Spoiler:
    """One seeded corruption of a folder."""

    def __init__(self, root: Path, seed: int):
        self.root = root
        self.random = random.Random(seed)
        self.split = self.random.choice(["train", "val"])
        self.path = root / "annotations" / f"instances_{self.split}.json"

    def spoil(self) -> str:
        """Do it, and say what was done."""
        kinds: list[Callable[[], str]] = [
            *[self.value, self.box, self.image] * 4,
            *[self.missing_key, self.extra_record] * 2,
            self.records, self.whole_list, self.double_key, self.cut, self.raw, self.flip_bytes,
        ]  # fmt: skip
        # One fault, or a few at once.
        chosen = [self.random.choice(kinds) for _ in range(self.random.choice([1, 1, 2, 4]))]
        return "; ".join(spoil() for spoil in chosen)

    def load(self) -> Any:
        try:
            return json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def record(self) -> tuple[Any, str, int] | None:
        """The data, and the place of one of their records."""
        data = self.load()
        key = self.random.choice(["images"] * 2 + ["annotations"] * 6 + ["categories"])
        records = data.get(key) if isinstance(data, dict) else None
        if not isinstance(records, list) or not records:
            return None
        index = self.random.randrange(len(records))
        return (data, key, index) if isinstance(records[index], dict) else None

    def save(self, data: Any) -> None:
        self.path.write_text(json.dumps(data))

    def value(self) -> str:
        place = self.record()
        if place is None:
            return "nothing"
        data, key, index = place
        field = self.random.choice(sorted(data[key][index]) or ["id"])
        data[key][index][field] = value = self.random.choice(VALUES)
        self.save(data)
        return f"{key}[{index}].{field} = {ascii(value)[:40]}"

    def box(self) -> str:
        data = self.load()
        try:
            box = self.random.choice(data["annotations"])["bbox"]
            for _ in range(self.random.choice([1, 1, 2, 4])):
                box[self.random.randrange(4)] = self.random.choice(NUMBERS)
        except (TypeError, KeyError, IndexError):
            return "nothing"
        self.save(data)
        return f"bbox {box}"

    def missing_key(self) -> str:
        place = self.record()
        if place is None:
            return "nothing"
        data, key, index = place
        record = data[key][index]
        field = self.random.choice(sorted(record) or ["id"])
        record.pop(field, None)
        self.save(data)
        return f"{key}[{index}].{field} removed"

    def extra_record(self) -> str:
        place = self.record()
        if place is None:
            return "nothing"
        data, key, index = place
        extra = dict(data[key][index])
        if self.random.random() < 0.5:
            extra["id"] = 99
        data[key].insert(self.random.randrange(len(data[key]) + 1), extra)
        self.save(data)
        return f"{key}[{index}] twice"

    def records(self) -> str:
        data = self.load()
        if not isinstance(data, dict):
            return "nothing"
        key = self.random.choice(["images", "annotations", "categories"])
        if isinstance(data.get(key), list):
            data[key].append(self.random.choice(VALUES))
        self.save(data)
        return f"{key} with another value"

    def whole_list(self) -> str:
        data = self.load()
        if not isinstance(data, dict):
            return "nothing"
        key = self.random.choice(["images", "annotations", "categories"])
        if self.random.random() < 0.3:
            data.pop(key, None)
        else:
            data[key] = self.random.choice([*VALUES, []])
        self.save(data)
        return f"{key} changed"

    def double_key(self) -> str:
        text = self.path.read_text(errors="replace")
        places = list(re.finditer(r'"(\w+)": ', text))
        if not places:
            return "nothing"
        place = self.random.choice(places)
        inserted = f"{place[0]}{self.random.choice(['0', 'null', '[]', '1'])}, "
        self.path.write_text(text[: place.start()] + inserted + text[place.start() :])
        return f"{place[1]} twice at {place.start()}"

    def cut(self) -> str:
        content = self.path.read_bytes()
        end = self.random.randrange(len(content) + 1)
        self.path.write_bytes(content[:end])
        return f"cut off at {end}"

    def raw(self) -> str:
        content = self.random.choice(RAW)
        self.path.write_bytes(content)
        return f"content {content[:20]!r}"

    def flip_bytes(self) -> str:
        content = bytearray(self.path.read_bytes())
        for _ in range(self.random.choice([1, 3])):
            if content:
                content[self.random.randrange(len(content))] = self.random.randrange(256)
        self.path.write_bytes(content)
        return "some bytes"

    def image(self) -> str:
        files = sorted(p for p in (self.root / "images").iterdir() if p.is_file())
        path = self.random.choice(files)
        other = self.random.choice(files)
        content = path.read_bytes()
        pixels = np.zeros((24, 32, 3), np.uint8)
        what = self.random.choice(["cut", "text", "empty", "gone", "format", "size", "copy",
                                   "bytes", "folder", "turned"])  # fmt: skip
        if what == "cut":
            path.write_bytes(content[: self.random.randrange(len(content) + 1)])
        elif what in ("text", "empty"):
            path.write_text("no image" if what == "text" else "")
        elif what in ("gone", "folder"):
            path.unlink()
            if what == "folder":
                path.mkdir()
        elif what == "format":
            suffix = self.random.choice([".bmp", ".webp", ".tiff", ".jpg", ".png"])
            path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
        elif what == "size":
            shape = self.random.choice([(32, 24, 3), (1, 1, 3), (240, 320, 3)])
            path.write_bytes(cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes())
        elif what == "copy":
            path.write_bytes(other.read_bytes())
        elif what == "bytes" and content:
            spoilt = bytearray(content)
            for _ in range(5):
                spoilt[self.random.randrange(len(spoilt))] = self.random.randrange(256)
            path.write_bytes(spoilt)
        elif what == "turned" and path.suffix == ".jpg":
            turned(path, self.random.randrange(1, 9))
        return f"{path.name} {what}"


def check_balance(audit: Audit, root: Path) -> None:
    """Nothing was dropped without being counted and named."""
    for split, counts in audit.splits:
        findings = [finding for finding in audit.findings if finding.split == split]
        listed = json.loads((root / "annotations" / f"instances_{split}.json").read_bytes())
        assert counts.listed_images == len(listed["images"])
        assert counts.listed_boxes == len(listed["annotations"])
        assert counts.listed_images == counts.images + sum(f.images_out for f in findings)
        assert counts.listed_boxes == counts.boxes + sum(f.boxes_out for f in findings)
    for finding in audit.findings:
        assert finding.count > 0
        assert len(finding.first) == min(finding.count, 3)
        for place in finding.first:
            assert place.isprintable()
            if KINDS[finding.kind].of in ("files", "classes"):
                assert place.startswith(str(root))
                continue
            assert f"instances_{finding.split}.json: " in place
            assert re.search(r": (image -?\d+|annotation -?\d+|annotations\[\d+\])[:,]?", place)


def check_message(message: str, root: Path) -> None:
    """One line that names the file, and the record where there is one."""
    assert message.isprintable()
    assert str(root) in message
    assert "instances_" in message
    whole_file = ("not valid JSON", "not COCO", "JSON in UTF-8", "at least one", "each key once",
                  "none is in any of the folders", "expected the categories")  # fmt: skip
    record = r"(image|annotation|category) -?\d+|(images|annotations|categories)\[\d+\]"
    assert re.search(record, message) or any(words in message for words in whole_file), message


def check_read(dataset: Dataset, audit: Audit) -> None:
    """What is read is what the audit says is left, and fit to train on."""
    assert dataset.audit == audit
    counts = dict(audit.splits)
    for split, examples, facts in (
        ("train", dataset.train, dataset.train_facts), ("val", dataset.val, dataset.val_facts)
    ):  # fmt: skip
        assert len(examples) == counts[split].images == len(facts.digest)
        assert sum(len(example.boxes) for example in examples) == counts[split].boxes
        assert len({example.image_id for example in examples}) == len(examples)
        for example in examples:
            x1, y1, x2, y2 = example.boxes.T
            assert ((x1 >= 0) & (x1 < x2) & (x2 <= example.width)).all()
            assert ((y1 >= 0) & (y1 < y2) & (y2 <= example.height)).all()
            assert (np.isfinite(example.areas) & (example.areas > 0)).all()
            assert ((example.labels >= 0) & (example.labels < len(dataset.class_names))).all()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_corruption_is_counted_and_named_or_told_in_one_line(
    tmp_path, monkeypatch, model, batch
):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    for seed in range(batch, ROUNDS, BATCHES):
        restore(model, root)
        done = Spoiler(root, seed).spoil()
        try:
            check(root, tmp_path / f"repaired{seed}")
        except Exception as error:
            error.add_note(f"seed {seed}: {done}")
            raise


def restore(model: Path, root: Path) -> None:
    """Make the folder as the model; what is right stays, so that the facts of its images do."""
    for path in (path for path in model.rglob("*") if path.is_file()):
        copy = root / path.relative_to(model)
        if copy.is_dir():
            copy.rmdir()
        if not copy.is_file() or copy.stat().st_mtime_ns != path.stat().st_mtime_ns:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def check(root: Path, out: Path) -> None:
    before = contents(root)
    audit, message = attempt(lambda: audit_source(f"coco:{root}"))
    if audit is None:
        check_message(message, root)
        return
    check_balance(audit, root)
    dataset, message = attempt(lambda: read_dataset(f"coco:{root}"))
    if dataset is None:
        check_message(message, root)
        assert audit.stops or "the audit left none" in message
    else:
        assert not audit.stops
        check_read(dataset, audit)
    # What remains after a repair reads without a fault.
    repaired, message = attempt(lambda: read_dataset(f"coco:{root}", repair=out))
    assert contents(root) == before
    if repaired is None:
        assert "the audit left none" in message
        return
    assert not repaired.audit.stops
    assert totals(repaired.audit) == totals(audit)
    for line in (out / "changes.jsonl").read_text().splitlines():
        change = json.loads(line)
        assert change["file"].startswith(str(root))
        assert change["record"]


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """What is read, or the one line that says why not; any other error is a failure."""
    try:
        return read(), ""
    except InputError as error:
        return None, str(error)


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def totals(audit: Audit) -> tuple[int, int]:
    """Images and boxes that are used."""
    counts = [counts for _, counts in audit.splits]
    return sum(count.images for count in counts), sum(count.boxes for count in counts)
