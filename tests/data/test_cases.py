"""Small data sets as exporters write them, outside the project: each says what is right."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from flaxyolo.data.__main__ import main
from flaxyolo.data.images import decode
from flaxyolo.data.labels.findings import KINDS
from flaxyolo.data.sources import audit_source, read_dataset


class Case(NamedTuple):
    """What `data audit` says of a case."""

    source: str
    """Form and folder, as in `--data`; the first folder is the name of the case."""
    images: int
    """Of all splits."""
    boxes: int
    classes: tuple[str, ...] = ("red", "blue")
    findings: frozenset[str] = frozenset()
    """Their kinds."""
    stops: bool = False


CASES = [
    Case("coco:coco-segm-no-bbox", 6, 12, findings=frozenset({"outline"})),
    Case("coco:coco-text-image-ids", 8, 16),
    Case("coco:cvat-coco-images-default", 8, 16),
    Case("yolo:cvat-ultralytics-data-prefix/data.yaml", 8, 16),
    Case("yolo:cvat-yolo11-obj-train-data/data.yaml", 8, 16),
    Case("yolo:darknet-flat", 6, 12, ("red", "green")),
    Case("coco:fiftyone-coco-layout", 8, 16),
    Case("yolo:jpeg-damaged-middle/data.yaml", 12, 24, findings=frozenset({"complaint"})),
    Case("coco:labelstudio-windows-result", 8, 16),
    Case("yolo:labelstudio-yolo-percent-names/data.yaml", 8, 16),
    Case("coco:roboflow-root-category", 12, 24, findings=frozenset({"root_class"})),
    Case("yolo:sixteen-bit-12/data.yaml", 12, 24, findings=frozenset({"few_bits"})),
    Case("voc:voc-class-only-in-val", 9, 18, ("blue", "red"), frozenset({"val_only"})),
    Case("voc:voc-gbk", 6, 12, ("螺丝", "螺母")),
    Case("voc:voc-namespace", 6, 12, ("blue", "red")),
    Case("voc:voc-train-test-folders/images", 9, 18, ("green", "red")),
    Case("yolo:yolo-dup-names/data.yaml", 12, 24, ("red", "red"), frozenset({"same_name"})),
    Case("yolo:yolo-jfif-and-others/data.yaml", 12, 24),
    Case("yolo:yolo-nc-without-names/data.yaml", 12, 24, ("class_0", "class_1")),
    Case("yolo:yolo-same-stem/data.yaml", 10, 20, findings=frozenset({"shared_label"}), stops=True),
    Case("yolo:yolo-symlinked-subfolder/data.yaml", 12, 24),
    Case(
        "yolo:yolo-train-equals-val/data.yaml",
        16,
        32,
        findings=frozenset({"same_splits", "unlisted"}),
    ),
]
OF_OTHERS = {
    "class-names-markup", "hostile", "jax-platforms-cuda", "path-with-space", "python-load-text",
    "stats-ascii-terminal", "study-folder-renamed",
}  # fmt: skip
"""Cases of pictures, terminals, studies and the Python interface."""


@pytest.fixture
def cases(test_data: Path) -> Path:
    path = test_data.parent / "cases"
    if not path.is_dir():
        pytest.skip(f"no cases at {path}, beside the folder that FLAXYOLO_TEST_DATA names")
    return path


def name_of(case: Case) -> str:
    return case.source.partition(":")[2].partition("/")[0]


def copied(cases: Path, case: Case, to: Path) -> str:
    """The source of a copy, with the links that the case makes."""
    form, _, path = case.source.partition(":")
    name = name_of(case)
    if (cases / name / "make.sh").is_file():
        subprocess.run([cases / name / "make.sh", to / name], check=True)
    else:
        shutil.copytree(cases / name, to / name)
    return f"{form}:{to / path}"


def test_every_case_is_looked_at(cases):
    there = {path.name for path in cases.iterdir() if path.is_dir()}
    assert {name_of(case) for case in CASES} == there - OF_OTHERS


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_case_is_read_as_its_readme_says(cases, tmp_path, case, capsys):
    source = copied(cases, case, tmp_path)
    assert (main(["audit", source]) or 0) == (2 if case.stops else 0)
    audit = audit_source(source)
    loud = {finding.kind for finding in audit.findings if not KINDS[finding.kind].quiet}
    assert loud == case.findings
    printed = capsys.readouterr().out
    for finding in audit.findings:
        assert all(str(tmp_path) in place for place in finding.first)
        assert finding.first[0] in printed
    counts = [count for _, count in audit.splits]
    assert sum(count.boxes for count in counts) == case.boxes
    assert sum(count.images for count in counts) == case.images
    if not case.stops:
        dataset = read_dataset(source)
        assert dataset.class_names == case.classes
        assert len(dataset.train) + len(dataset.val) == case.images


def test_an_outline_makes_a_repaired_copy_whole(cases, tmp_path):
    source = f"coco:{cases}/coco-segm-no-bbox"
    assert not main(["audit", source, "--repair", str(tmp_path / "copy")])
    dataset = read_dataset(f"coco:{tmp_path}/copy")
    assert sum(len(example.boxes) for example in (*dataset.train, *dataset.val)) == 12
    assert dataset.train[0].boxes[0].tolist() in ([21, 28, 43, 53], [48, 21, 74, 42])


def test_pictures_of_12_bits_are_not_black(cases):
    dataset = read_dataset(f"yolo:{cases}/sixteen-bit-12/data.yaml")
    means = [decode(example.image).mean() for example in dataset.train]
    assert np.min(means) > 60
