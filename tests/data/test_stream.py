"""A stream gives the batches of data that lies on the device."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data.batches import make_batch, resident_batches, to_device
from flaxyolo.data.cache import Pixels, annotation_arrays
from flaxyolo.data.sources import read_dataset
from flaxyolo.data.stream import DecodedImages, places, streamed_batches
from tests.data.test_batches import pixels_with
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


def test_an_image_that_is_gone_is_named_in_the_stream(tmp_path):
    dataset = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    images = DecodedImages(dataset.train, 64)
    decoded = Pixels(images, **annotation_arrays(dataset.train, 64))
    dataset.train[3].image.unlink()
    with pytest.raises(Exception, match=r"train3\.png"):
        list(streamed_batches(decoded, CONFIG, 0))
