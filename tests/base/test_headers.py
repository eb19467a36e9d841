import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from flaxyolo.base import decoding
from flaxyolo.base.decoding import decoded
from flaxyolo.base.headers import stored_size
from flaxyolo.base.limits import reading

PLAIN = np.full((24, 32, 3), 90, np.uint8)


def encoded(form: str, pixels: np.ndarray = PLAIN) -> bytes:
    return cv2.imencode(f".{form}", pixels)[1].tobytes()


@pytest.mark.parametrize(
    "form", ["jpg", "png", "webp", "bmp", "tiff", "gif", "avif", "ppm", "pam", "ras"]
)
def test_the_size_of_a_header_is_that_of_the_pixels(form):
    content = encoded(form)
    assert stored_size(content) == (24, 32)
    found = decoded(content)
    assert not isinstance(found, str)
    assert found.pixels.shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0"}),
        ("JPEG", {"progressive": True}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
        ("TIFF", {"big_tiff": True}),
        ("BMP", {}),
    ],
)
def test_what_pillow_writes_is_read_too(form, options):
    file = io.BytesIO()
    Image.fromarray(PLAIN).save(file, form, **options)
    assert stored_size(file.getvalue()) == (24, 32)


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "bmp", "tiff", "gif", "avif", "ppm", "ras"])
def test_a_header_that_is_cut_off_has_no_size_or_the_same(form):
    content = encoded(form)
    sizes = {stored_size(content[:end]) for end in range(len(content))}
    assert None in sizes
    # A TIFF's values are read as zeros once they are gone, and a text may lose digits.
    assert sizes <= {None, (24, 32)} or form in ("ppm", "gif", "bmp")


def test_what_is_no_image_has_no_size():
    for content in (
        b"",
        b"no image",
        b"\x89PNG",
        b"\xff\xd8" + b"\xff" * 1000,
        b"II*\0" + b"\xff" * 8,
    ):
        assert stored_size(content) is None
        assert "none, or one that is cut off" in str(decoded(content))


def test_too_many_pixels_are_never_decoded(monkeypatch):
    png = encoded("png")
    liar = png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:]
    monkeypatch.setattr(decoding.cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    assert decoded(liar) == (
        "an image of 60,000 x 60,000 pixels by its header, more than 62,000,000; "
        "--max-pixels 3600000000 allows it"
    )
    assert "more than 767; --max-pixels 768 allows it" in str(decoded(png, 767))
    with reading(767, False):
        assert "--max-pixels 768" in str(decoded(png))


def test_a_limit_of_pixels_lets_through_what_it_names():
    with reading(768, False):
        assert not isinstance(decoded(encoded("png")), str)
