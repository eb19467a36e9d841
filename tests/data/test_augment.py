import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.config import Augmentation
from flaxyolo.data.augment import DevicePixels, augment, mosaic_sources
from flaxyolo.nn.platform import traced_for
from tests.programs import equations

SIZE = 96
OFF = Augmentation(mosaic=1, hue=0, saturation=0, value=0, flip=0, translate=0, scale=0)
MOVES = Augmentation(mosaic=1, hue=0, saturation=0, value=0)
PAINTS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


def painted(count=4, *, seed=0, objects=1, tall=False):
    """Grey pictures, each with one rectangle per object in a colour of the image's own."""
    rng = np.random.default_rng(seed)
    images = np.full((count, SIZE, SIZE, 3), 114, np.uint8)
    content = np.tile(np.array([0, 16, SIZE, SIZE - 16], np.float32), (count, 1))
    if tall:
        content = content[:, [1, 0, 3, 2]]
    boxes = np.zeros((count, objects, 4), np.float32)
    for n in range(count):
        x1, y1, x2, y2 = content[n].astype(int)
        images[n, y1:y2, x1:x2] = 60
        for g in range(objects):
            width, height = rng.integers(12, 30, 2)
            x, y = rng.integers(x1, x2 - width + 1), rng.integers(y1, y2 - height + 1)
            images[n, y : y + height, x : x + width] = PAINTS[n % 4]
            boxes[n, g] = [x, y, x + width, y + height]
    return DevicePixels(
        images=jnp.array(images),
        boxes=jnp.array(boxes),
        labels=jnp.array(np.repeat(np.arange(count)[:, None], objects, 1), jnp.int32),
        valid=jnp.ones((count, objects), bool),
        content=jnp.array(content),
    )


def run(pixels, *, seed=0, strengths=MOVES, mosaic=True, slots=16, indices=None):
    if indices is None:
        indices = jnp.arange(len(pixels.images))
    return jitted_augment(pixels, indices, jax.random.key(seed), strengths, mosaic, slots)


jitted_augment = jax.jit(augment, static_argnums=(3, 5))


def paint_box(image, paint):
    """xyxy of the pixels nearer to a paint than to the grey of the picture, None if none is."""
    colour = paint / np.float32(255)
    share = ((image - 60 / 255) * (colour - 60 / 255)).sum(-1) / ((colour - 60 / 255) ** 2).sum()
    near = np.abs(image - colour).max(-1) < 0.45
    rows, columns = np.nonzero((share > 0.5) & near)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("mosaic", [True, False])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("tall", [True, False])
def test_the_boxes_follow_the_pixels(mosaic, flip, tall):
    strengths = Augmentation(mosaic=1, hue=0, saturation=0, value=0, flip=flip)
    pixels = painted(tall=tall)
    checked = 0
    for seed in range(12):
        made = run(pixels, seed=seed, strengths=strengths, mosaic=mosaic)
        for image, boxes, labels, valid in zip(*map(np.asarray, made[:4]), strict=True):
            for n in range(4):
                found = boxes[valid & (labels == n)]
                seen = paint_box(image, PAINTS[n])
                if len(found) == 1:  # an image may be in a mosaic twice
                    assert np.abs(seen - found[0]).max() < 1.5, (seed, n, seen, found)
                    checked += 1
                elif not len(found) and seen is not None:  # all but a sliver is out of sight
                    assert min(seen[2:] - seen[:2]) <= 8, (seed, n, seen)
    assert checked > 30


@pytest.mark.parametrize("mosaic", [True, False])
def test_augmentation_that_is_all_off_is_the_identity(mosaic):
    strengths = Augmentation(mosaic=0, hue=0, saturation=0, value=0, flip=0, translate=0, scale=0)
    pixels = painted(objects=3)
    made = run(pixels, strengths=strengths, mosaic=mosaic)
    np.testing.assert_allclose(made.images, np.asarray(pixels.images) / 255, atol=1e-6)
    np.testing.assert_array_equal(made.boxes[:, :3], pixels.boxes)
    np.testing.assert_array_equal(made.labels[:, :3], pixels.labels)
    np.testing.assert_array_equal(made.valid.sum(1), 3)
    np.testing.assert_array_equal(made.dropped, 0)


def test_flip_alone_is_the_mirror_image():
    pixels = painted()
    strengths = Augmentation(mosaic=0, hue=0, saturation=0, value=0, flip=1, translate=0, scale=0)
    made = run(pixels, strengths=strengths)
    np.testing.assert_allclose(made.images, pixels.images[:, :, ::-1] / 255, atol=1e-6)
    x1, y1, x2, y2 = np.moveaxis(np.asarray(pixels.boxes)[:, 0], -1, 0)
    np.testing.assert_array_equal(made.boxes[:, 0], np.stack([SIZE - x2, y1, SIZE - x1, y2], -1))


def test_a_mosaic_joins_the_pictures_at_its_centre_without_their_letterbox():
    # At scale 1 and no shift the view is the middle of the canvas; the pictures meet in it.
    pixels = painted()._replace(images=jnp.full((4, SIZE, SIZE, 3), 255, jnp.uint8))
    pixels = pixels._replace(valid=pixels.valid & False)
    for seed in range(8):
        for image in np.asarray(run(pixels, seed=seed, strengths=OFF).images):
            shown = image[..., 0] > 0.9
            np.testing.assert_allclose(image[~shown], 114 / 255, rtol=1e-6)
            # The pictures are 96 x 64: full width, and 64 px to either side of the meeting row.
            rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
            assert len(rows) >= 64
            assert (np.diff(rows) == 1).all()
            assert len(columns) == SIZE


def test_an_image_does_not_depend_on_the_batch_it_is_in():
    pixels = painted(6, objects=2)
    strengths = Augmentation()
    whole = run(pixels, strengths=strengths)
    part = run(pixels, strengths=strengths, indices=jnp.array([4, 1]))
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[jnp.array([4, 1])], b, atol=1e-6)


def test_the_same_key_repeats_and_another_does_not():
    pixels = painted()
    one, again, other = (run(pixels, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(one.images - other.images).max() > 0.1


def test_boxes_beyond_the_slots_are_counted():
    pixels = painted(objects=10)
    roomy, tight = run(pixels, slots=64), run(pixels, slots=4)
    found = roomy.valid.sum(1)
    assert found.max() > 4
    np.testing.assert_array_equal(roomy.dropped, 0)
    np.testing.assert_array_equal(tight.dropped, np.maximum(found - 4, 0))
    np.testing.assert_array_equal(tight.boxes, roomy.boxes[:, :4])


def test_boxes_lie_in_the_image_and_are_compact():
    made = run(painted(objects=10), slots=48)
    boxes, valid = np.asarray(made.boxes), np.asarray(made.valid)
    assert (boxes >= 0).all()
    assert (boxes <= SIZE).all()
    assert (boxes[valid][:, 2:] - boxes[valid][:, :2] > 2).all()
    assert not boxes[~valid].any()
    assert (np.diff(valid.astype(int), axis=1) <= 0).all()


def test_colour_equals_scaling_hue_saturation_and_value():
    rng = np.random.default_rng(0)
    pixels = painted()._replace(
        images=jnp.array(rng.integers(0, 256, (4, SIZE, SIZE, 3)), jnp.uint8)
    )
    strengths = Augmentation(
        mosaic=0, hue=0.3, saturation=0.7, value=0.4, flip=0, translate=0, scale=0
    )
    made = np.asarray(run(pixels, strengths=strengths).images)
    plain = np.asarray(pixels.images, np.float64) / 255
    gains = []
    for n in range(4):
        places = rng.integers(0, SIZE, (60, 2))
        before = np.array([colorsys.rgb_to_hsv(*plain[n, y, x]) for y, x in places])
        after = np.array([colorsys.rgb_to_hsv(*made[n, y, x]) for y, x in places])
        # Each gain is the median of the pixels that were not clipped or wrapped.
        free = (after[:, 1:] < 0.99).all(1) & (before[:, 0] < 0.6) & (before[:, 0] > 0.05)
        gains.append(np.median(after[free] / before[free], 0))
        expected = np.minimum(before * gains[n], [9, 1, 1])
        rgb = [colorsys.hsv_to_rgb(h % 1, s, v) for h, s, v in expected]
        np.testing.assert_allclose([made[n, y, x] for y, x in places], rgb, atol=2e-3)
    spread = np.abs(np.array(gains) - 1)
    assert (spread <= [0.301, 0.701, 0.401]).all()
    assert (spread.max(0) > [0.05, 0.1, 0.05]).all()


def test_mosaics_are_as_frequent_as_asked():
    # Only the image itself is red; a mosaic of other indices shows other colours beside it.
    pixels = painted(8)
    strengths = Augmentation(mosaic=0.5, hue=0, saturation=0, value=0, flip=0, scale=0)
    several = 0
    for seed in range(20):
        made = run(pixels, seed=seed, strengths=strengths, slots=16)
        foreign = made.valid & (made.labels != jnp.arange(8)[:, None])
        several += int(foreign.any(1).sum())
    assert 45 < several < 100  # of 160; a mosaic may show one image only
    made = run(pixels, strengths=strengths, mosaic=False)
    assert not (made.valid & (made.labels != jnp.arange(8)[:, None])).any()


@pytest.mark.slow
def test_all_images_at_once_are_those_of_one_after_the_other():
    pixels, key = painted(6, objects=2), jax.random.key(3)
    one_by_one = run(pixels, seed=3, strengths=Augmentation())
    drawn = mosaic_sources(jnp.arange(6), key, 6, 0.5, jnp.asarray(True))
    with traced_for("cuda"):
        at_once = run(pixels, seed=3, strengths=Augmentation())
        others = mosaic_sources(jnp.arange(6), key, 6, 0.5, jnp.asarray(True))
    np.testing.assert_array_equal(drawn, others)
    np.testing.assert_allclose(one_by_one.images, at_once.images, atol=1e-6)
    np.testing.assert_allclose(one_by_one.boxes, at_once.boxes, atol=1e-4)
    for name in ("labels", "valid", "dropped"):
        np.testing.assert_array_equal(getattr(one_by_one, name), getattr(at_once, name))


def test_an_accelerator_augments_without_a_loop():
    pixels, key = painted(), jax.random.key(0)

    def loops():
        program = jax.make_jaxpr(augment, static_argnums=(3, 5))
        traced = program(pixels, jnp.arange(4), key, Augmentation(), jnp.asarray(True), 16)
        return len(list(equations(traced.jaxpr, "scan")))

    assert loops() == 2
    with traced_for("cuda"):
        assert loops() == 0
