"""The benchmark of large data makes a set that is read as it was meant."""

import cv2
import numpy as np
import pytest

from benchmarks import large_data as benchmark
from flaxyolo.data.readers.coco import read_coco


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        image = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (120, 90))
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
    return folder


def test_the_set_is_read_without_a_fault(photographs, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    path = benchmark.make(folder, photographs, 1e-4)
    source = read_coco(str(folder))
    assert len(source.train.images) == 11
    assert len(source.train.boxes) == 86
    assert len(source.class_names) == benchmark.CLASSES
    assert not source.train.noted
    assert not source.train.asides
    assert np.isfinite(source.train.boxes).all()
    assert (source.train.boxes >= 0).all()
    assert (source.train.boxes <= [120.01, 90.01, 120.01, 90.01]).all()
    # COCO's own annotations have some 520 bytes each, with their share of the images.
    assert 450 < path.stat().st_size / 86 < 650


def test_decoders_give_the_same_pixels(photographs):
    found = benchmark.decoded(photographs, rounds=1)
    assert {"opencv", "flaxyolo"} <= set(found["decoders"])
    assert all(row["largest_difference_from_opencv"] == 0 for row in found["decoders"].values())


@pytest.mark.long
def test_every_part_is_measured_in_a_process_of_its_own(photographs, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    benchmark.make(folder, photographs, 1e-3)
    found = benchmark.measured(folder, 1)
    assert set(found["parts"]) == {*benchmark.PARTS[2:], *benchmark.STREAMED}
    rows = [*found["turns"][0].values(), *found["parts"].values()]
    assert all(row["cpu_seconds"] > 0 and row["peak_mib"] > 20 for row in rows)
    for name, size in benchmark.STREAMED.items():
        row = found["parts"][name]
        assert row["image_size"] == size
        assert row["images_per_second"] > 0
        assert row["own_mib_by_tenth"]
