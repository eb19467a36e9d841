"""What a network is trained on: chosen by the room there is, and the same weights from each."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data import feeds, stream
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.feeds import Resident, Streamed, open_feed, open_pixels
from flaxyolo.data.sources import read_dataset
from flaxyolo.data.stream import DecodedImages
from flaxyolo.training.loop import train
from tests.data.test_batches import pixels_with
from tests.small import tiny_spec
from tests.tiny_data import write_coco

CONFIG = TrainConfig(
    epochs=3, batch_size=4, warmup_epochs=0, augmentation=Augmentation(close_mosaic_epochs=1)
)


@pytest.fixture
def dataset(tmp_path):
    return read_dataset(f"coco:{write_coco(tmp_path / 'data')}")


def test_decoded_images_are_those_of_the_cache(dataset, tmp_path):
    cached = load_pixels(dataset, "train", 64, cache_dir=tmp_path)
    decoded = open_pixels(dataset, "train", 64, keep="files", cache_dir=tmp_path / "none")
    assert isinstance(decoded.images, DecodedImages)
    assert not (tmp_path / "none").exists()
    assert decoded.images.shape == cached.images.shape
    for rows in (slice(3, 7), np.array([5, 1]), 2, slice(0, 0)):
        np.testing.assert_array_equal(decoded.images[rows], cached.images[rows])
    for mine, other in zip(decoded[1:], cached[1:], strict=True):
        np.testing.assert_array_equal(mine, other)


def test_what_fits_is_kept_on_the_device(dataset, tmp_path):
    for keep, kind in (("auto", Resident), ("device", Resident), ("cache", Streamed)):
        assert isinstance(open_feed(dataset, "train", 64, keep=keep, cache_dir=tmp_path), kind)


def test_what_does_not_fit_the_device_or_is_decoded_is_streamed(
    dataset, tmp_path, monkeypatch, caplog
):
    whole = load_pixels(dataset, "train", 64, cache_dir=tmp_path)
    mib = Resident(whole).device_bytes / 2**20
    for room, kind in ((2 * mib, Resident), (1.99 * mib, Streamed)):
        monkeypatch.setattr(feeds, "available_mib", lambda room=room: (room, "of the device"))
        assert isinstance(open_feed(dataset, "train", 64, cache_dir=tmp_path), kind)
    monkeypatch.undo()
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: full)
    with caplog.at_level("INFO"):
        feed = open_feed(dataset, "train", 64, cache_dir=tmp_path / "none")
    assert isinstance(feed, Streamed)
    assert isinstance(feed.pixels.images, DecodedImages)
    assert caplog.messages[-1:] == [
        "the images do not fit into the device's memory: they are streamed"
    ]


@pytest.mark.parametrize("kind", [Resident, Streamed])
def test_a_batch_has_the_shapes_that_a_step_is_compiled_for(kind):
    feed = kind(pixels_with([2, 1, 0, 3, 2, 1, 1, 4, 0, 2]))
    shapes = feed.shapes(CONFIG.batch_size)
    for batch in feed.batches(CONFIG, 2):
        for array, shape in zip(batch.pixels, shapes, strict=True):
            assert (array.shape, array.dtype) == (shape.shape, shape.dtype)


def test_the_data_take_room_beside_a_step_where_they_lie_on_the_device():
    pixels = pixels_with([2, 1, 0, 3])
    assert Resident(pixels).device_bytes == sum(field.nbytes for field in pixels)
    assert Streamed(pixels).device_bytes == 0


def test_what_is_cached_is_read_from_there_however_full_the_disk_has_become(
    dataset, tmp_path, monkeypatch
):
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: full)
    assert isinstance(open_pixels(dataset, "train", 64).images, DecodedImages)
    load_pixels(dataset, "train", 64)
    assert isinstance(open_pixels(dataset, "train", 64).images, np.memmap)


@pytest.mark.slow
def test_training_is_the_same_from_memory_from_a_stream_and_from_a_resumed_stream(
    dataset, tmp_path
):
    spec = replace(tiny_spec(), num_classes=2)
    names = dataset.class_names
    cached = load_pixels(dataset, "train", spec.image_size, cache_dir=tmp_path)
    files = open_feed(dataset, "train", spec.image_size, keep="files")

    def run(feed, **more):
        epochs = list(train(spec, feed, names, CONFIG, **more))
        weights = jax.tree.map(np.asarray, epochs[-1].detector.weights)
        return [epoch.loss for epoch in epochs], weights

    losses, weights = run(Resident(cached))
    for feed in (Streamed(cached), files):
        streamed_losses, streamed = run(feed)
        assert streamed_losses == losses
        jax.tree.map(np.testing.assert_array_equal, streamed, weights)
    begun = train(spec, files, names, CONFIG, run_dir=tmp_path / "run")
    assert next(begun).loss == losses[0]
    begun.close()
    again, resumed = run(files, run_dir=tmp_path / "run")
    assert again == losses
    jax.tree.map(np.testing.assert_array_equal, resumed, weights)
