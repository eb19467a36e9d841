"""A stream gives the batches, and the training, of data that lies on the device."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data import stream
from flaxyolo.data.batches import make_batch, resident_batches, to_device
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.sources import read_dataset
from flaxyolo.data.stream import (
    DecodedImages,
    is_streamed,
    open_pixels,
    places,
    streamed_batches,
)
from flaxyolo.training.loop import train
from tests.data.test_batches import pixels_with
from tests.small import tiny_spec
from tests.tiny_data import write_coco

CONFIG = TrainConfig(
    epochs=3, batch_size=4, warmup_epochs=0, augmentation=Augmentation(close_mosaic_epochs=1)
)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_streamed_batch_is_that_of_the_device_bit_for_bit(share):
    pixels = pixels_with([2, 1, 0, 3, 2, 1, 1, 4, 0, 2])
    config = replace(CONFIG, augmentation=replace(CONFIG.augmentation, mosaic=share))

    def made(pixels, indices, epoch, sources=None):
        return make_batch(
            pixels,
            indices,
            seed=config.seed,
            epoch=epoch,
            config=config.augmentation,
            mosaic=epoch < 2,
            slots=16,
            sources=sources,
        )

    make = jax.jit(made)
    resident = list(resident_batches(to_device(pixels), config, 0))
    streamed = list(streamed_batches(pixels, config, 0))
    assert len(resident) == len(streamed) == 9
    for number, (held, read) in enumerate(zip(resident, streamed, strict=True)):
        np.testing.assert_array_equal(held.indices, read.indices)
        assert read.pixels.images.shape == (16, 32, 32, 3)
        one = make(held.pixels, held.indices, number // 3)
        other = make(read.pixels, jnp.asarray(read.indices), number // 3, places(4))
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_stream_begins_at_any_epoch():
    pixels = pixels_with([2, 1, 0, 3, 2, 1, 1, 4, 0, 2])
    whole = list(streamed_batches(pixels, CONFIG, 0))
    rest = list(streamed_batches(pixels, CONFIG, 2))
    assert len(rest) == 3
    jax.tree.map(np.testing.assert_array_equal, whole[6:], rest)


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
    cached = open_pixels(dataset, "train", 64, cache_dir=tmp_path)
    assert not is_streamed(cached, "auto")
    assert not is_streamed(cached, "device")
    assert is_streamed(cached, "cache")


def test_what_is_cached_is_read_from_there_however_full_the_disk_has_become(
    dataset, tmp_path, monkeypatch
):
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: full)
    assert isinstance(open_pixels(dataset, "train", 64).images, DecodedImages)
    load_pixels(dataset, "train", 64)
    assert isinstance(open_pixels(dataset, "train", 64).images, np.memmap)


def test_an_image_that_is_gone_is_named_in_the_stream(dataset, tmp_path):
    decoded = open_pixels(dataset, "train", 64, keep="files")
    dataset.train[3].image.unlink()
    with pytest.raises(Exception, match=r"train3\.png"):
        list(streamed_batches(decoded, CONFIG, 0))


@pytest.mark.slow
def test_training_is_the_same_from_memory_from_a_stream_and_from_a_resumed_stream(
    dataset, tmp_path
):
    spec = replace(tiny_spec(), num_classes=2)
    names = dataset.class_names
    cached = load_pixels(dataset, "train", spec.image_size, cache_dir=tmp_path)
    files = open_pixels(dataset, "train", spec.image_size, keep="files")

    def run(pixels, **more):
        epochs = list(train(spec, pixels, names, CONFIG, **more))
        weights = jax.tree.map(np.asarray, epochs[-1].detector.weights)
        return [epoch.loss for epoch in epochs], weights

    losses, weights = run(cached)
    for pixels in (cached, files):
        streamed_losses, streamed = run(pixels, streamed=True)
        assert streamed_losses == losses
        jax.tree.map(np.testing.assert_array_equal, streamed, weights)
    begun = train(spec, files, names, CONFIG, run_dir=tmp_path / "run", streamed=True)
    assert next(begun).loss == losses[0]
    begun.close()
    rest, resumed = run(files, run_dir=tmp_path / "run", streamed=True)
    assert rest == losses[1:]
    jax.tree.map(np.testing.assert_array_equal, resumed, weights)
