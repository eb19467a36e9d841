import jax
import jax.numpy as jnp
import numpy as np

from flaxyolo.config import Augmentation
from flaxyolo.data.batches import (
    box_slots,
    epoch_indices,
    make_batch,
    plain_batch,
    to_device,
)
from flaxyolo.data.cache import Pixels

SIZE = 32


def pixels_with(counts, *, room=None):
    """Random images, the n-th with counts[n] boxes of label n."""
    rng = np.random.default_rng(0)
    room = room or max(1, *counts)
    valid = np.arange(room)[None] < np.array(counts)[:, None]
    low = rng.uniform(0, SIZE / 2, (len(counts), room, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 12, low.shape)], -1).astype(np.float32)
    return Pixels(
        images=rng.integers(0, 256, (len(counts), SIZE, SIZE, 3)).astype(np.uint8),
        boxes=np.where(valid[..., None], boxes, 0),
        labels=np.where(valid, np.arange(len(counts))[:, None], 0).astype(np.int32),
        valid=valid,
        content=np.tile(np.array([0, 0, SIZE, SIZE], np.float32), (len(counts), 1)),
    )


def test_an_epoch_takes_every_image_and_fills_the_last_batch_from_its_start():
    indices = epoch_indices(10, 4, seed=1, epoch=2)
    assert indices.shape == (3, 4)
    assert indices.dtype == np.int32
    flat = indices.ravel()
    np.testing.assert_array_equal(np.sort(flat[:10]), np.arange(10))
    np.testing.assert_array_equal(flat[10:], flat[:2])


def test_an_epoch_repeats_and_the_next_differs():
    one = epoch_indices(50, 5, seed=1, epoch=2)
    np.testing.assert_array_equal(one, epoch_indices(50, 5, seed=1, epoch=2))
    assert (one != epoch_indices(50, 5, seed=1, epoch=3)).any()
    assert (one != epoch_indices(50, 5, seed=2, epoch=2)).any()


def test_a_batch_larger_than_the_data_repeats_it():
    indices = epoch_indices(3, 8, seed=0, epoch=0)
    assert indices.shape == (1, 8)
    assert set(indices.ravel()) == {0, 1, 2}


def test_slots_hold_the_largest_image_and_the_largest_likely_mosaic():
    assert box_slots(pixels_with([0, 0, 0]), mosaic=True) == 16
    assert box_slots(pixels_with([3, 16]), mosaic=False) == 16
    assert box_slots(pixels_with([3, 17]), mosaic=False) == 32
    # Four of two images: 20,000 draws find the 4 x 17 = 68.
    assert box_slots(pixels_with([3, 17]), mosaic=True) == 80
    # One crowded image of 1000 is rarely drawn, but always fits alone.
    assert box_slots(pixels_with([1] * 999 + [200]), mosaic=True) >= 208


def test_a_plain_batch_is_the_data():
    pixels = pixels_with([2, 0, 5])
    batch = plain_batch(to_device(pixels), jnp.array([2, 1]), slots=16)
    np.testing.assert_allclose(batch.images, pixels.images[[2, 1]] / 255, rtol=1e-6)
    np.testing.assert_array_equal(batch.valid.sum(1), [5, 0])
    np.testing.assert_array_equal(batch.boxes[0, :5], pixels.boxes[2])
    np.testing.assert_array_equal(batch.labels[0], [2] * 5 + [0] * 11)
    assert batch.dropped == 0


def test_a_plain_batch_moves_valid_boxes_to_the_front_and_counts_the_rest():
    pixels = pixels_with([4])
    pixels = pixels._replace(valid=np.array([[False, True, True, True]]))
    batch = plain_batch(to_device(pixels), jnp.array([0]), slots=2)
    np.testing.assert_array_equal(batch.boxes[0], pixels.boxes[0, 1:3])
    assert batch.dropped == 1


def augmented(indices, *, seed=0, epoch=0, mosaic=True):
    @jax.jit
    def make(pixels, indices, seed, epoch, mosaic):
        return make_batch(
            pixels, indices, seed=seed, epoch=epoch, config=Augmentation(), mosaic=mosaic, slots=16
        )

    return make(to_device(pixels_with([2, 1, 3, 0])), jnp.array(indices), seed, epoch, mosaic)


def test_a_batch_repeats_by_seed_and_epoch_and_does_not_mix_its_images():
    one = augmented([0, 1, 2, 3], seed=1, epoch=2)
    assert one.images.shape == (4, SIZE, SIZE, 3)
    assert one.images.dtype == jnp.float32
    again = augmented([3, 0], seed=1, epoch=2)
    np.testing.assert_allclose(one.images[jnp.array([3, 0])], again.images, atol=1e-6)
    np.testing.assert_allclose(one.boxes[jnp.array([3, 0])], again.boxes, atol=1e-4)
    for other in (
        augmented([0, 1, 2, 3], seed=2, epoch=2),
        augmented([0, 1, 2, 3], seed=1, epoch=3),
    ):
        assert np.abs(one.images - other.images).max() > 0.1


def test_without_mosaic_an_image_holds_its_own_boxes_only():
    batch = augmented([0, 1, 2, 3], mosaic=False)
    assert batch.valid.any()
    labels, valid = np.asarray(batch.labels), np.asarray(batch.valid)
    for n in range(4):
        assert set(labels[n][valid[n]]) <= {n}
    assert not valid[3].any()
