"""Every form of an image becomes the same RGB pixels, or gets one clear error."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxyolo.base.errors import InputError
from flaxyolo.base.pixels import rgb_pixels

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]
ALPHA = np.dstack([COLOUR, GREY])


def written(tmp_path, name="a ü.png"):
    path = tmp_path / name
    path.write_bytes(cv2.imencode(".png", COLOUR[:, :, ::-1])[1].tobytes())
    return path


@pytest.mark.parametrize(
    "image",
    [
        COLOUR,
        COLOUR.astype(np.int64),
        COLOUR / 255,
        (COLOUR / 255).astype(np.float32) * 1.0005,
        COLOUR.tolist(),
        list(COLOUR),
        jnp.asarray(COLOUR),
        jnp.asarray(COLOUR) / 255,
        ALPHA,
        np.asfortranarray(COLOUR),
        Image.fromarray(COLOUR),
        Image.fromarray(ALPHA, "RGBA"),
    ],
)
def test_arrays_lists_and_pil_images_are_the_same_pixels(image):
    pixels = rgb_pixels(image)
    np.testing.assert_array_equal(pixels, COLOUR)
    assert pixels.flags.c_contiguous


def test_files_are_read_by_text_and_by_path(tmp_path):
    path = written(tmp_path)
    np.testing.assert_array_equal(rgb_pixels(path), COLOUR)
    np.testing.assert_array_equal(rgb_pixels(str(path)), COLOUR)


@pytest.mark.parametrize(
    "image", [GREY, GREY[:, :, None], GREY / 255, Image.fromarray(GREY), GREY.tolist()]
)
def test_grey_is_taken_for_all_three_channels(image):
    np.testing.assert_array_equal(rgb_pixels(image), np.dstack([GREY] * 3))


def test_a_mask_is_black_and_white():
    assert np.unique(rgb_pixels(GREY > 100)).tolist() == [0, 255]
    assert np.unique(rgb_pixels(Image.fromarray(GREY > 100))).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((0, 9, 3), np.uint8), r"got uint8 \(0, 9, 3\), which holds no pixel"),
        (np.zeros((6, 0, 3)), "which holds no pixel"),
        (Image.new("RGB", (0, 5)), "which holds no pixel"),
        ([], r"got float64 \(0,\)"),
        ([[1, 2], [3]], "got a list: "),
        ([COLOUR, COLOUR], "several images are given one by one"),
        (COLOUR.transpose(2, 0, 1), "put the channels last"),
        (
            COLOUR.astype(np.float32),
            "floats from 0 to 1, got float32 from 0 to 24[0-9]; divide it by",
        ),
        (COLOUR.astype(np.uint16) * 257, "numbers from 0 to 255, got uint16 from 0 to 6[0-9]+"),
        (COLOUR / 255 - 0.5, "floats from 0 to 1"),
        (np.full((4, 4), np.nan), "floats from 0 to 1, got float64 from nan to nan"),
        (None, "got a NoneType"),
        (3, "got a int"),
        (b"abc", "got a bytes"),
        ([["a"]], "expected an image: "),
        ("no/such.png", "no/such.png: cannot read the image: No such file"),
    ],
)
def test_what_is_no_image_gets_one_line(image, says):
    with pytest.raises(InputError, match=says) as caught:
        rgb_pixels(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a.png: expected an image that OpenCV can decode"):
        rgb_pixels(tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot read the image: Is a directory"):
        rgb_pixels(tmp_path)


def test_a_pil_image_of_a_file_that_is_cut_off_is_told(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:60])
    with Image.open(path) as image, pytest.raises(InputError, match="cannot be read"):
        rgb_pixels(image)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_file_of_16_bits_is_as_light_as_in_training(tmp_path, bits):
    grey = np.linspace(0, 2**bits - 1, 24).reshape(4, 6).astype(np.uint16)
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), grey)
    np.testing.assert_array_equal(rgb_pixels(path)[..., 0], grey >> (bits - 8))


def test_a_jpeg_that_is_cut_off_is_no_image(tmp_path):
    content = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (60, 60, 3)))[1]
    path = tmp_path / "a.jpg"
    path.write_bytes(content.tobytes()[:900])
    with pytest.raises(InputError, match=r"a.jpg: expected .*, got a JPEG of 900 bytes that is"):
        rgb_pixels(path)
