import json
import logging

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.labels.splits import stratify
from flaxyolo.data.sources import read_dataset
from tests.data.coco_folder import write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))


def write_unsplit(root, count=20, copies=0):
    """Images of 40 x 40 with one or two boxes, a class for each third; the first ones copied."""
    images, annotations = [], []
    for number in range(count + copies):
        write_image(root / "images" / f"{number}.png", 40, 40, seed=number % count)
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 40})
        for side in (10, 35)[: 1 + number % 2]:
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": number % 3,
                 "bbox": [1, 1, side, side], "area": side * side, "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": number, "name": str(number)} for number in range(3)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(data))
    return root


def test_a_split_holds_its_share_of_every_kind():
    rng = np.random.default_rng(0)
    strata = rng.poisson(rng.uniform(0.02, 3, 12), (1000, 12)).astype(np.float64)
    held = stratify(np.arange(1000), strata, 0.2, 0)
    assert 180 <= held.sum() <= 220
    totals = strata.sum(0)
    deviation = np.abs(strata[held].sum(0) - 0.2 * totals)
    assert (deviation <= np.maximum(2, 0.02 * totals)).all()
    # A random split is far off for the rare kinds.
    assert (held == stratify(np.arange(1000), strata, 0.2, 0)).all()
    assert (held != stratify(np.arange(1000), strata, 0.2, 1)).any()


def test_images_of_a_group_stay_together():
    groups = np.arange(100) // 2
    held = stratify(groups, np.ones((100, 1)), 0.2, 0)
    assert (held[::2] == held[1::2]).all()
    assert held.sum() == 20


@pytest.mark.parametrize("share", [0.01, 0.2, 0.99])
def test_both_sides_get_an_image(share):
    held = stratify(np.arange(2), np.array([[5.0], [1.0]]), share, 0)
    assert sorted(held.tolist()) == [False, True]
    held = stratify(np.arange(3), np.zeros((3, 1)), share, 0)
    assert 0 < held.sum() < 3


def test_a_source_without_validation_is_split_and_the_split_is_kept(tmp_path, caplog):
    root = write_unsplit(tmp_path / "set")
    caplog.set_level(logging.WARNING)
    dataset = read_dataset(f"coco:{root}")
    assert 3 <= len(dataset.val) <= 5
    assert sum(len(example.boxes) for example in dataset.val) == 6
    ids = {example.image_id for example in (*dataset.train, *dataset.val)}
    assert ids == set(range(20))
    (path,) = (tmp_path / "cache" / "splits").iterdir()
    told = f"{len(dataset.val)} of 20 images with 6 of 30 boxes are kept for it, seed 0, by class"
    assert f"{told} and size; kept in {path}" in caplog.text
    caplog.clear()
    again = read_dataset(f"coco:{root}")
    assert f"as in {path}" in caplog.text
    assert [e.image_id for e in again.val] == [e.image_id for e in dataset.val]
    assert again.fingerprint == dataset.fingerprint
    # The kept file is what counts.
    kept = json.loads(path.read_text())
    kept["val"] = kept["val"][:2]
    path.write_text(json.dumps(kept))
    fewer = read_dataset(f"coco:{root}")
    assert [e.image_id for e in fewer.val] == [e.image_id for e in dataset.val[:2]]
    assert fewer.fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "{",
        lambda kept: "[]",
        lambda kept: json.dumps(kept | {"settings": {}}),
        lambda kept: json.dumps(kept | {"val": []}),
        lambda kept: json.dumps(kept | {"val": [{"position": 99}]}),
        lambda kept: json.dumps(kept | {"val": [{"position": 10**30}]}),
    ],
)
def test_a_kept_split_that_does_not_fit_is_made_again(tmp_path, caplog, damage):
    root = write_unsplit(tmp_path / "set")
    dataset = read_dataset(f"coco:{root}")
    (path,) = (tmp_path / "cache" / "splits").iterdir()
    path.write_text(damage(json.loads(path.read_text())))
    again = read_dataset(f"coco:{root}")
    assert [e.image_id for e in again.val] == [e.image_id for e in dataset.val]
    assert f"{path} does not fit and is made again" in caplog.text


def test_the_same_content_is_never_on_both_sides(tmp_path):
    dataset = read_dataset(f"coco:{write_unsplit(tmp_path / 'set', count=10, copies=10)}")
    assert not set(dataset.train_facts.digest) & set(dataset.val_facts.digest)
    assert len(dataset.val) in (2, 4, 6)
    assert len(dataset.val_facts.digest) == len(dataset.val)


def test_one_image_is_too_few(tmp_path):
    root = write_unsplit(tmp_path / "set", count=1, copies=1)
    with pytest.raises(InputError, match="at least two different images to make one from, got 2"):
        read_dataset(f"coco:{root}")
