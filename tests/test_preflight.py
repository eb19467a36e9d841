"""Pre-flight: planted faults are caught by the check meant for them, and sound data pass."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import lax

from flaxyolo import preflight
from flaxyolo.base.errors import InputError
from flaxyolo.checks import transforms
from flaxyolo.checks.run import CHECKS, require
from flaxyolo.data import augment, cache
from flaxyolo.data.feeds import Resident
from flaxyolo.nn import head
from flaxyolo.nn.backbone import Backbone
from flaxyolo.preflight import main
from flaxyolo.training import assign
from tests.checks.scenes import CONFIG, NAMES, SIZE, pixels_of, scenes, with_boxes
from tests.small import tiny_spec
from tests.tiny_data import write_coco

STEP = {"memory", "recompilation"}
COSTLY = STEP | {"gradients", "overfit"}


def swap(boxes):
    return boxes[..., [1, 0, 3, 2]]


def nothing(monkeypatch, dataset):
    return dataset


def swapped_in_the_letterbox(monkeypatch, dataset):
    real = cache.letterbox_boxes
    monkeypatch.setattr(cache, "letterbox_boxes", lambda *given: swap(real(*given)))
    return dataset


def swapped_in_the_annotations(monkeypatch, dataset):
    return with_boxes(dataset, swap)


def swapped_in_the_augmentation(monkeypatch, dataset):
    real = augment._move_boxes

    def wrong(*given):
        boxes, *rest = real(*given)
        return swap(boxes), *rest

    monkeypatch.setattr(augment, "_move_boxes", wrong)
    return dataset


def xywh_as_xyxy(monkeypatch, dataset):
    return with_boxes(
        dataset, lambda boxes: np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    )


def no_offset(monkeypatch, dataset):
    real = cache.letterbox_boxes
    monkeypatch.setattr(
        cache,
        "letterbox_boxes",
        lambda boxes, place: real(boxes, place._replace(pad_x=0, pad_y=0)),
    )
    return dataset


def detached_level(monkeypatch, dataset):
    real = head.run_branches

    def cut(*given):
        *others, last = real(*given)
        return [*others, lax.stop_gradient(last)]

    monkeypatch.setattr(head, "run_branches", cut)
    return dataset


def detached_backbone(monkeypatch, dataset):
    real = Backbone.__call__

    def cut(self, images):
        return jax.tree.map(lax.stop_gradient, real(self, images))

    monkeypatch.setattr(Backbone, "__call__", cut)
    return dataset


def nan_in_a_label(monkeypatch, dataset):
    train = list(dataset.train)
    boxes = train[4].boxes.copy()
    boxes[0, 2] = np.nan
    train[4] = replace(train[4], boxes=boxes)
    return replace(dataset, train=tuple(train))


def class_ids_from_one(monkeypatch, dataset):
    train = tuple(replace(example, labels=example.labels + 1) for example in dataset.train)
    return replace(dataset, train=train)


def class_ids_from_minus_one(monkeypatch, dataset):
    train = tuple(replace(example, labels=example.labels - 1) for example in dataset.train)
    return replace(dataset, train=train)


def class_off_by_one_in_the_loss(monkeypatch, dataset):
    """Each object is learnt as the class after its own."""
    from flaxyolo.training import loss

    real = assign.assign

    def shifted(*given, **settings):
        made = real(*given, **settings)
        return made._replace(scores=jax.numpy.roll(made.scores, 1, 2))

    monkeypatch.setattr(loss, "assign", shifted)
    return dataset


def halved_boxes_in_the_loss(monkeypatch, dataset):
    """Each object is learnt at half its size, about its centre."""
    from flaxyolo.training import loss

    real = assign.assign

    def halved(*given, **settings):
        made = real(*given, **settings)
        centre = (made.boxes[..., :2] + made.boxes[..., 2:]) / 2
        half = (made.boxes[..., 2:] - made.boxes[..., :2]) / 4
        return made._replace(boxes=jax.numpy.concatenate([centre - half, centre + half], -1))

    monkeypatch.setattr(loss, "assign", halved)
    return dataset


FAULTS = {
    "x and y swapped in the annotations": (swapped_in_the_annotations, "labels", "swapped"),
    "x and y swapped in the letterbox": (
        swapped_in_the_letterbox,
        "transforms",
        "x and y of the boxes are swapped after letterboxing",
    ),
    "x and y swapped in the augmentation": (swapped_in_the_augmentation, "transforms", "swapped"),
    "xywh read as xyxy": (xywh_as_xyxy, "labels", "(xywh as xyxy)"),
    "a letterbox without its offset": (no_offset, "transforms", "offset is missing"),
    "a detached level": (detached_level, "gradients", "detached"),
    "a detached backbone": (detached_backbone, "gradients", "detached"),
    "a NaN in a label": (nan_in_a_label, "labels", "NaN"),
    "class ids from 1": (class_ids_from_one, "labels", "off by one"),
    "class ids from -1": (class_ids_from_minus_one, "labels", "off by one"),
    "a class off by one in the loss": (class_off_by_one_in_the_loss, "overfit", "class ids"),
    "boxes of half the size in the loss": (halved_boxes_in_the_loss, "overfit", "box format"),
}


def fly(monkeypatch, folder, plant, number, skip):
    """Plant a fault and run the checks; each number has programs of its own."""
    transforms.moved.clear_cache()
    dataset = plant(monkeypatch, scenes())
    feed = Resident(pixels_of(dataset, folder))
    config = replace(CONFIG, seed=number)
    return preflight.preflight(tiny_spec(), feed, dataset.train, NAMES, config, skip=skip)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_by_the_check_meant_for_it(tmp_path, monkeypatch, name):
    plant, meant, cause = FAULTS[name]
    # Earlier checks look at the values alone: they are left out where the fault is in code.
    skip = STEP | ({"overfit"} if meant != "overfit" else set())
    skip |= {"labels", "objects"} if meant == "transforms" else set()
    done = fly(monkeypatch, tmp_path, plant, 1 + list(FAULTS).index(name), skip)
    transforms.moved.clear_cache()
    assert all(check.passed for check in done[:-1])
    assert done[-1].name == meant, done[-1].line()
    assert not done[-1].passed
    assert cause in done[-1].cause


def test_without_a_fault_every_check_passes(tmp_path, monkeypatch):
    done = fly(monkeypatch, tmp_path, nothing, 0, ())
    for check in done:
        assert check.passed, check.line()
    assert tuple(check.name for check in done) == CHECKS
    assert all(check.measured and not check.cause for check in done)


def test_a_failure_is_one_line_that_names_the_check_and_the_cause(tmp_path):
    dataset = with_boxes(scenes(), swap)
    feed = Resident(pixels_of(dataset, tmp_path))
    line = r"^pre-flight, labels: .*; likely cause: .*swapped.*--no-preflight .*all the same$"
    with pytest.raises(InputError, match=line):
        require(preflight.preflight(tiny_spec(), feed, dataset.train, NAMES, CONFIG))


def test_checks_that_are_skipped_are_not_run(tmp_path):
    dataset = scenes()
    feed = Resident(pixels_of(dataset, tmp_path))
    seen = []
    preflight.preflight(
        tiny_spec(), feed, dataset.train, NAMES, CONFIG, skip=COSTLY, report=seen.append
    )
    assert [check.name for check in seen] == ["labels", "objects", "transforms", "shapes"]
    assert sum(check.seconds for check in seen) > 0
    with pytest.raises(ValueError, match="no such check: speed"):
        preflight.preflight(tiny_spec(), feed, dataset.train, NAMES, CONFIG, skip=["speed"])


CONFIG_FILE = """
detector:
  backbone:
    stem_width: 8
    stages:
      - {block: plain, width: 8, depth: 1}
      - {block: plain, width: 16, depth: 1}
      - {block: plain, width: 16, depth: 1}
  neck: {kind: fpn, levels: [3, 4], block: plain}
  head: {depth: 1, reg_max: 8, box_width: 16, class_width: 16}
  image_size: 320
training: {batch_size: 32}
"""


def test_the_command_prints_every_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(CONFIG_FILE)
    data = f"coco:{write_coco(tmp_path / 'data')}"
    flags = [str(tmp_path / "tiny.yaml"), "--data", data, "--image-size", "96"]
    assert main([*flags, "--batch-size", "4"]) == 0
    printed = capsys.readouterr().out
    for name in CHECKS:
        assert f"{name}: ok" in printed
    assert "cleared: 8 checks" in printed
    assert main([*flags, "--batch-size", "4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["passed"]
    assert [check["name"] for check in facts["checks"]] == list(CHECKS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["missing.yaml"], "cannot read the config"),
        (["configs/yolov8n.yaml", "--image-size", "100"], "multiple of the network's stride 32"),
        (["configs/yolov8n.yaml", "--data", "nothing"], "nothing"),
    ],
)
def test_bad_flags_are_said_in_one_line(capsys, flags, message):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bccd", "nuclei"])
def test_real_data_pass_the_checks_of_labels_and_transforms(test_data, tmp_path, name):
    from flaxyolo.data.cache import load_pixels
    from flaxyolo.data.sources import read_dataset

    dataset = read_dataset(f"coco:{test_data / name}")
    feed = Resident(load_pixels(dataset, "train", 320, cache_dir=tmp_path))
    spec = tiny_spec(image_size=320, num_classes=len(dataset.class_names))
    done = require(
        preflight.preflight(spec, feed, dataset.train, dataset.class_names, CONFIG, skip=COSTLY)
    )
    assert len(done) == 4


def test_the_input_size_of_the_scenes_is_that_of_the_network():
    assert tiny_spec().image_size == SIZE
