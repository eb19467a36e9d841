"""An image that a client sends: read within limits, then decoded and letterboxed."""

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException, Request
from jaxtyping import UInt8
from PIL import Image
from starlette.datastructures import FormData, UploadFile

from flaxyolo.base.boxes import letterbox_image
from flaxyolo.base.errors import InputError
from flaxyolo.base.pixels import file_pixels

FORM = "multipart/form-data"
RAW = ("application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream")
"""Types of a body that is an image's bytes, beside image/...; the second is what curl says."""
FORM_SLACK = 16 * 1024
"""Bytes of a form beside its file."""
DRAINED = 4
"""Times the limit that are read and thrown away, so that a client hears why it is refused."""
READ_SECONDS = 60.0
"""Within which a body has to arrive."""
NAME_LENGTH = 100
Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN
)
"""Those whose size Pillow reads before OpenCV decodes anything; AVIF is new in it."""

Receive = Callable[[], Awaitable[Any]]


class Upload(NamedTuple):
    """The bytes of an image file, and what came with them."""

    content: bytes
    name: str
    min_score: str | None = None
    """As the form gives it."""


class Prepared(NamedTuple):
    """An image as the network takes it."""

    square: UInt8[np.ndarray, "s s 3"]
    """Letterboxed."""
    height: int
    """Of the original, as it is seen upright."""
    width: int


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """The image of a form or a bare body.

    HTTPException: 400 for a broken form, 408 where it does not arrive, 413 where it is larger than
    `max_bytes`, of which no more is kept, 415 for another type.
    """
    kind = request.headers.get("content-type", RAW[0]).partition(";")[0].strip().lower()
    if kind != FORM and kind not in RAW and not kind.startswith("image/"):
        raise HTTPException(415, f"expected an image or a form ({FORM}), got {kind:.100}")
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await (_of_form if kind == FORM else _of_body)(request, max_bytes)
    except TimeoutError:
        told = f"the image did not arrive within {READ_SECONDS:.0f} s"
        raise HTTPException(408, told, {"Connection": "close"}) from None


def prepare(content: bytes, name: str, size: int, max_pixels: int) -> Prepared:
    """Decode, turn upright and letterbox to `size`; InputError where it is no image or too large.

    How many pixels it has is read from its header: one of a few bytes may stand for gigabytes.
    """
    most = max_pixels / 1e6
    try:
        # The header alone: no pixel is decoded.
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{name}: expected at most {most:g} megapixels, got many more") from None
    except Exception:  # Pillow has many for a broken header
        raise InputError(
            f"{name}: expected an image ({', '.join(FORMATS)}), got {len(content)} bytes that are "
            "none, or one that is cut off"
        ) from None
    if width * height > max_pixels:
        raise InputError(
            f"{name}: expected at most {most:g} megapixels, got {width} x {height} pixels"
        )
    pixels = file_pixels(content, name, max_pixels)
    height, width = pixels.shape[:2]
    return Prepared(letterbox_image(pixels, size), height, width)


async def _of_body(request: Request, max_bytes: int) -> Upload:
    chunks = [chunk async for chunk in _limited(request, max_bytes, 0).stream()]
    return Upload(b"".join(chunks), "the body")


async def _of_form(request: Request, max_bytes: int) -> Upload:
    async with _limited(request, max_bytes, FORM_SLACK).form(max_files=1, max_fields=8) as form:
        file = _file_of(form)
        content = await file.read()
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
        score = form.get("min_score")
        name = (file.filename or "the file")[:NAME_LENGTH]
        return Upload(content, name, score if isinstance(score, str) else None)


def _file_of(form: FormData) -> UploadFile:
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) != 1:
        fields = ", ".join(sorted(form)) or "nothing"
        raise HTTPException(400, f"expected a form with one image file, got {fields:.200}")
    return files[0]


def _limited(request: Request, max_bytes: int, slack: int) -> Request:
    """The same request, whose body may not be longer than this and the slack together."""
    most, read = max_bytes + slack, 0
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most and "expect" in request.headers:
        raise _too_large(max_bytes)  # the client has not begun to send

    async def receive() -> Any:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read <= most:
            return message
        while message.get("more_body", False) and read <= DRAINED * most:
            message = await request.receive()
            read += len(message.get("body", b""))
        raise _too_large(max_bytes)

    return Request(request.scope, receive)


def _too_large(most: int) -> HTTPException:
    told = f"expected an image of at most {most / 1e6:.3g} MB, got more"
    return HTTPException(413, told, {"Connection": "close"})
