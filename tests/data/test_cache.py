import dataclasses
import logging
import os
import random
import re
import resource
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.base import cli
from flaxyolo.base.boxes import letterbox, unletterbox_boxes
from flaxyolo.base.errors import InputError
from flaxyolo.base.kept import checksum, sealed, unsealed
from flaxyolo.data import cache, cache_checks
from flaxyolo.data.cache import Pixels, load_pixels, load_square
from flaxyolo.data.images import decode
from flaxyolo.data.sources import Dataset, Example, read_dataset
from tests.damages import flip
from tests.data.coco_folder import turned


def example(image: Path | np.ndarray, height: int, width: int, **changes) -> Example:
    values = {
        "image_id": 1,
        "image": image,
        "height": height,
        "width": width,
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int32),
        "areas": np.zeros(0, np.float32),
        "crowd": np.zeros(0, bool),
    }
    return Example(**(values | changes))


def dataset(*examples: Example, fingerprint: str = "f") -> Dataset:
    return Dataset("set", tuple(examples), tuple(examples[:1]), ("a", "b"), (1, 2), fingerprint)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def boxed(image: Path | np.ndarray) -> Example:
    """40 wide, 20 high, with two objects and a crowd."""
    return example(
        image,
        20,
        40,
        boxes=np.array([[0, 0, 40, 20], [4, 2, 12, 10], [0, 0, 1, 1]], np.float32),
        labels=np.array([1, 0, 1], np.int32),
        areas=np.ones(3, np.float32),
        crowd=np.array([False, False, True]),
    )


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_pixels_and_boxes_are_letterboxed_as_worked_out_by_hand(tmp_path):
    # 40 x 20 into 20: halved to 20 x 10, 5 rows of grey above and below.
    plain = example(noise(20, 20, seed=3), 20, 20)
    pixels = load_pixels(dataset(boxed(noise(20, 40)), plain), "train", 20, cache_dir=tmp_path)
    assert pixels.images.shape == (2, 20, 20, 3)
    assert (pixels.images[0, :5] == 114).all()
    assert (pixels.images[0, 15:] == 114).all()
    # Halving by linear interpolation is the mean of 2 x 2 pixels.
    mean = noise(20, 40).reshape(10, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(pixels.images[0, 5:15] - mean).max() <= 1
    np.testing.assert_array_equal(pixels.images[1], noise(20, 20, seed=3))
    assert pixels.boxes.tolist() == [[[0, 5, 20, 15], [2, 6, 6, 10]], [[0, 0, 0, 0]] * 2]
    assert pixels.labels.tolist() == [[1, 0], [0, 0]]
    assert pixels.valid.tolist() == [[True, True], [False, False]]
    assert pixels.content.tolist() == [[0, 5, 20, 15], [0, 0, 20, 20]]
    assert not leftovers(tmp_path)


def test_the_arrays_have_the_promised_types_and_images_are_read_only(tmp_path):
    pixels = load_pixels(dataset(boxed(noise(20, 40))), "train", 16, cache_dir=tmp_path)
    types = [array.dtype for array in pixels]
    assert types == [np.uint8, np.float32, np.int32, bool, np.float32]
    assert isinstance(pixels.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pixels.images[0, 0, 0, 0] = 1


def test_a_split_without_boxes_has_one_empty_slot(tmp_path):
    pixels = load_pixels(dataset(example(noise(8, 8), 8, 8)), "train", 8, cache_dir=tmp_path)
    assert pixels.boxes.shape == (1, 1, 4)
    assert not pixels.valid.any()


def test_a_split_without_images_is_told_so(tmp_path):
    with pytest.raises(InputError, match="set: expected images in train, got none"):
        load_pixels(dataset(), "train", 8, cache_dir=tmp_path)


def test_the_second_time_nothing_is_decoded_and_all_is_equal(tmp_path, monkeypatch):
    data = dataset(boxed(noise(20, 40)), example(noise(9, 8), 9, 8))
    fresh = load_pixels(data, "train", 20, cache_dir=tmp_path)
    monkeypatch.setattr(cache, "_write", None)
    cached = load_pixels(data, "train", 20, cache_dir=tmp_path)
    for a, b in zip(fresh, cached, strict=True):
        np.testing.assert_array_equal(a, b)


def test_content_split_and_size_each_have_their_own_place(tmp_path):
    data = dataset(boxed(noise(20, 40)))
    load_pixels(data, "train", 20, cache_dir=tmp_path)
    load_pixels(data, "val", 20, cache_dir=tmp_path)
    load_pixels(data, "train", 24, cache_dir=tmp_path)
    load_pixels(dataclasses.replace(data, fingerprint="g"), "train", 20, cache_dir=tmp_path)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 4
    meta = unsealed((folders[-1] / "meta.json").read_bytes())
    assert meta["data"] == "set"
    assert meta["settings"]["split"] == "val"
    assert meta["crowd_boxes_left_out"] == 1


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "there"))
    load_pixels(dataset(boxed(noise(20, 40))), "train", 20)
    assert len(list((tmp_path / "there").iterdir())) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="name another one in FLAXYOLO_CACHE"):
        load_pixels(dataset(boxed(noise(20, 40))), "train", 20)


def damage_by_cutting(folder: Path) -> None:
    with (folder / "images.npy").open("r+b") as file:
        file.truncate(200)


def damage_by_removing(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def damage_by_emptying(folder: Path) -> None:
    (folder / "meta.json").write_text("")


def damage_by_overwriting(folder: Path) -> None:
    size = (folder / "boxes.npy").stat().st_size
    (folder / "boxes.npy").write_bytes(b"x" * size)


def damage_by_other_settings(folder: Path) -> None:
    meta = unsealed((folder / "meta.json").read_bytes())
    meta["settings"]["fingerprint"] = "another"
    (folder / "meta.json").write_bytes(sealed(meta))


def damage_by_a_pipe(folder: Path) -> None:
    (folder / "images.npy").unlink()
    os.mkfifo(folder / "images.npy")


def damage_by_a_folder(folder: Path) -> None:
    (folder / "meta.json").unlink()
    (folder / "meta.json").mkdir()


def damage_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def damage_by_nesting(folder: Path) -> None:
    (folder / "meta.json").write_text("[" * 100_000)


def damage_by_a_header(folder: Path) -> None:
    # Of 9 terabytes: nothing of it may be made.
    content = (folder / "boxes.npy").read_bytes()
    (folder / "boxes.npy").write_bytes(content.replace(b"(1, 2, 4), ", b"(9**9,4,), "))


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_a_pipe,
        damage_by_a_folder,
        damage_by_a_file,
        damage_by_nesting,
        damage_by_a_header,
        damage_by_cutting,
        damage_by_removing,
        damage_by_emptying,
        damage_by_overwriting,
        damage_by_other_settings,
    ],
)
def test_a_damaged_cache_is_named_and_made_again(tmp_path, caplog, damage):
    data = dataset(boxed(noise(20, 40)))
    first = [np.array(array) for array in load_pixels(data, "train", 20, cache_dir=tmp_path)]
    (folder,) = tmp_path.iterdir()
    damage(folder)
    for array, again in zip(first, load_pixels(data, "train", 20, cache_dir=tmp_path), strict=True):
        np.testing.assert_array_equal(array, again)
    assert f"{folder} is damaged and is made again" in caplog.text
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["meta.json", *(f"{name}.npy" for name in Pixels._fields)])
def test_no_flipped_bit_is_used(tmp_path, caplog, name):
    data = dataset(boxed(noise(20, 40)), example(noise(9, 8), 9, 8))
    first = [np.array(array) for array in load_pixels(data, "train", 8, cache_dir=tmp_path)]
    (folder,) = tmp_path.iterdir()
    drawn = random.Random(name)
    for _ in range(12):
        caplog.clear()
        before = (folder / name).read_bytes()
        flip(folder / name, drawn)
        pixels = load_pixels(data, "train", 8, cache_dir=tmp_path)
        for array, again in zip(first, pixels, strict=True):
            np.testing.assert_array_equal(array, again)
        assert sum("is damaged and is made again" in line for line in caplog.messages) == 1
        assert (folder / name).read_bytes() == before


def forged(folder: Path, name: str, change) -> None:
    """Another array with a checksum that fits, as a program with a fault would write it."""
    array = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", change(array))
    meta = unsealed((folder / "meta.json").read_bytes())
    meta["checksums"][name] = checksum(folder / f"{name}.npy")
    (folder / "meta.json").write_bytes(sealed(meta))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("boxes", lambda boxes: boxes * np.float32("nan"), "a box is not finite"),
        ("labels", lambda labels: labels + 2139062143, "labels from .* to .* of 2 classes"),
        ("labels", lambda labels: labels - 1, "labels from -1 to 0 of 2 classes"),
        ("labels", lambda labels: labels.astype(np.int64), "labels is int64.* expected int32"),
        ("valid", lambda valid: valid[:, :1], "valid is bool.*1, 1., expected bool.*1, 2"),
        ("images", lambda images: images[:, :10], "images is uint8.*1, 10, 20, 3"),
    ],
)
def test_values_that_cannot_be_are_made_again(tmp_path, caplog, name, change, told):
    data = dataset(boxed(noise(20, 40)))
    first = [np.array(array) for array in load_pixels(data, "train", 20, cache_dir=tmp_path)]
    (folder,) = tmp_path.iterdir()
    forged(folder, name, change)
    for array, again in zip(first, load_pixels(data, "train", 20, cache_dir=tmp_path), strict=True):
        np.testing.assert_array_equal(array, again)
    assert re.search(f"is damaged and is made again: {told}", caplog.text)


def test_the_large_array_is_read_through_once_for_each_state_of_its_file(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(cache_checks, "SETTLED_S", -3600)
    monkeypatch.setattr(
        cache_checks, "checksum", lambda path: read.append(path.name) or checksum(path)
    )
    data = dataset(boxed(noise(20, 40)))
    for _ in range(3):
        load_pixels(data, "train", 20, cache_dir=tmp_path)
    assert read.count("images.npy") == 1
    assert read.count("boxes.npy") == 3
    (folder,) = tmp_path.iterdir()
    content = (folder / "images.npy").read_bytes()
    state = (folder / "images.npy").stat()
    (folder / "images.npy").write_bytes(content)
    # A time that was set back is no proof.
    os.utime(folder / "images.npy", ns=(state.st_atime_ns, state.st_mtime_ns))
    load_pixels(data, "train", 20, cache_dir=tmp_path)
    assert read.count("images.npy") == 2
    monkeypatch.setattr(cache_checks, "SETTLED_S", 3600)
    (folder / "images.npy").write_bytes(content)
    for _ in range(2):  # so fresh that it may change unseen
        load_pixels(data, "train", 20, cache_dir=tmp_path)
    assert read.count("images.npy") == 4


def test_a_full_disk_is_blamed_on_the_cache(tmp_path, monkeypatch):
    def full(example: Example, size: int) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "load_square", full)
    with pytest.raises(OSError, match="No space left") as caught:
        load_pixels(dataset(boxed(noise(20, 40))), "train", 20, cache_dir=tmp_path)
    assert cli.storage_failure(caught.value, Path("runs/x")) is not None
    assert str(cli.storage_failure(caught.value, Path("runs/x"))).startswith(str(tmp_path))


def test_a_write_that_fails_leaves_nothing(tmp_path):
    # The limit on a file's size makes the kernel refuse a write, as a full disk does.
    data = dataset(*[example(noise(64, 64, seed), 64, 64) for seed in range(20)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            load_pixels(data, "train", 64, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    assert len(load_pixels(data, "train", 64, cache_dir=tmp_path).images) == 20


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(example: Example, size: int) -> np.ndarray:
        if example.image_id == 5:
            raise KeyboardInterrupt
        return load_square(example, size)

    data = dataset(*[example(noise(8, 8), 8, 8, image_id=index) for index in range(9)])
    monkeypatch.setattr(cache, "load_square", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_pixels(data, "train", 8, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_whoever_loses_the_race_takes_the_winners_arrays(tmp_path, monkeypatch):
    data = dataset(boxed(noise(20, 40)))
    together = threading.Barrier(4, timeout=30)
    write, results = cache._write, []

    def write_together(*args) -> None:
        write(*args)
        together.wait()

    def load() -> None:
        results.append(load_pixels(data, "train", 20, cache_dir=tmp_path))

    monkeypatch.setattr(cache, "_write", write_together)
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(list(tmp_path.iterdir())) == 1
    for pixels in results:
        np.testing.assert_array_equal(pixels.images, results[0].images)


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path, caplog):
    old, new = tmp_path / ".train-8-abc-1", tmp_path / ".train-8-abc-2"
    for folder, age in ((old, 2 * cache.LEFTOVER_S), (new, 0.0)):
        folder.mkdir()
        (folder / "images.npy").write_text("half")
        then = time.time() - age
        os.utime(folder / "images.npy", (then, then))
        os.utime(folder, (then, then))
    load_pixels(dataset(boxed(noise(20, 40))), "train", 20, cache_dir=tmp_path)
    assert leftovers(tmp_path) == [new.name]
    assert f"{old}: removed" in caplog.text


def test_a_rotation_is_applied_where_the_audit_says_so(tmp_path):
    cv2.imwrite(str(tmp_path / "x.jpg"), noise(6, 10))
    plain = decode(tmp_path / "x.jpg")
    path = turned(tmp_path / "x.jpg", 6)
    np.testing.assert_array_equal(load_square(example(path, 6, 10), 10)[2:8], plain)
    upright = load_square(example(path, 10, 6, oriented=True), 10)[:, 2:8]
    np.testing.assert_array_equal(upright, np.rot90(plain, -1))


def test_an_image_inside_another_file_is_decoded(tmp_path):
    class Inside:
        name = "records: example 3"

        def read(self) -> bytes:
            return (tmp_path / "x.png").read_bytes()

    cv2.imwrite(str(tmp_path / "x.png"), noise(8, 8)[..., ::-1])
    data = dataset(example(Inside(), 8, 8))
    pixels = load_pixels(data, "train", 8, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(pixels.images[0], noise(8, 8))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_image_is_named_and_leaves_nothing(tmp_path, content):
    path, folder = tmp_path / "x.png", tmp_path / "cache"
    if content is None:
        cv2.imwrite(str(path), noise(60, 60))
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    data = dataset(example(path, 60, 60))
    with pytest.raises(InputError, match=r"x\.png: expected an image that OpenCV can decode"):
        load_pixels(data, "train", 8, cache_dir=folder)
    assert list(folder.iterdir()) == []
    path.unlink()
    with pytest.raises(InputError, match=r"x\.png: cannot read the image: No such file"):
        load_pixels(data, "train", 8, cache_dir=folder)


def test_a_size_other_than_the_annotations_say_is_told_with_both(tmp_path):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), noise(6, 10))
    with pytest.raises(InputError, match=r"x\.png.* image 1 say 6 x 10 .* the image has 10 x 6"):
        load_square(example(path, 10, 6), 8)


def test_progress_is_told_with_the_time_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "REPORT_S", 0.0)
    caplog.set_level(logging.INFO)
    data = dataset(*[boxed(noise(20, 40))] * 3)
    load_pixels(data, "train", 8, cache_dir=tmp_path)
    assert "set train: 2 of 3 images decoded, 0 s left" in caplog.text
    assert "set train: 3 images at 8 px, 6 boxes, 3 crowd boxes left out" in caplog.text


def test_more_images_than_a_chunk_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 4)
    images = [np.full((8, 8, 3), index, np.uint8) for index in range(11)]
    data = dataset(*[example(image, 8, 8) for image in images])
    pixels = load_pixels(data, "train", 8, cache_dir=tmp_path)
    assert pixels.images[:, 0, 0, 0].tolist() == list(range(11))


@pytest.mark.parametrize("name", ["bccd", "nuclei"])
def test_real_images_and_boxes_are_led_back_to_where_they_were(test_data, tmp_path, name):
    data = read_dataset(f"coco:{test_data / name}")
    pixels = load_pixels(data, "val", 160, cache_dir=tmp_path)
    assert isinstance(pixels, Pixels)
    assert len(pixels.images) == len(data.val)
    assert pixels.valid.sum() == sum(len(e.boxes) for e in data.val)
    for index, one in enumerate(data.val):
        boxes = pixels.boxes[index][pixels.valid[index]]
        x1, y1, x2, y2 = pixels.content[index]
        assert (boxes >= np.array([x1, y1, x1, y1]) - 1e-3).all()
        assert (boxes <= np.array([x2, y2, x2, y2]) + 1e-3).all()
        place = letterbox(one.height, one.width, 160)
        original = unletterbox_boxes(boxes, place, one.height, one.width)
        np.testing.assert_allclose(original, one.boxes, atol=1e-3)
    assert pixels.images[0].std() > 0
