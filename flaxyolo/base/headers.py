"""How large an image file says that it is, told by its first bytes: nothing is decoded."""

import re
from collections.abc import Callable, Iterator
from typing import Literal

Size = tuple[int, int]
"""Height and width in pixels, as stored."""

JPEG_FRAMES = {0xC0 + number for number in range(16)} - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG that hold its size."""
ALONE = {0x01, *range(0xD0, 0xDA)}
"""Markers of a JPEG without a length."""
TIFF_HEIGHT, TIFF_WIDTH = 257, 256
TIFF_NUMBERS = {1: 1, 3: 2, 4: 4, 16: 8}
"""Bytes of the whole numbers of a TIFF, by type."""


def stored_size(content: bytes) -> Size | None:
    """The size in the header of a JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF, JPEG 2000, PNM or RAS.

    None where it is none of them, or is cut off before its size. Of a file with several sizes it
    is the largest.
    """
    reader = next((read for mark, read in FORMS if mark(content)), None)
    return None if reader is None else reader(content)


def _number(content: bytes, place: int, size: int, order: Literal["big", "little"]) -> int:
    return int.from_bytes(content[place : place + size], order)


def _pair(
    content: bytes, place: int, size: int, order: Literal["big", "little"]
) -> tuple[int, int] | None:
    """Two numbers that follow each other; None where the bytes end before."""
    if place + 2 * size > len(content):
        return None
    return _number(content, place, size, order), _number(content, place + size, size, order)


def _turned(size: Size | None) -> Size | None:
    return None if size is None else (size[1], size[0])


def _jpeg(content: bytes) -> Size | None:
    place = 2
    while True:
        # Decoders skip what stands before a marker.
        place = content.find(b"\xff", place)
        if place < 0 or place + 1 >= len(content):
            return None
        marker = content[place + 1]
        if marker in JPEG_FRAMES:
            return _pair(content, place + 5, 2, "big")
        if marker in (0x00, 0xFF):
            place += 1 + (marker == 0)
        elif marker in ALONE:
            place += 2
        else:
            place += 2 + max(_number(content, place + 2, 2, "big"), 2)


def _png(content: bytes) -> Size | None:
    return _turned(_pair(content, 16, 4, "big")) if content[12:16] == b"IHDR" else None


def _gif(content: bytes) -> Size | None:
    return _turned(_pair(content, 6, 2, "little"))


def _bmp(content: bytes) -> Size | None:
    size = 2 if _number(content, 14, 4, "little") == 12 else 4
    found = _pair(content, 18, size, "little")
    if found is None or size == 2:
        return _turned(found)
    width, height = (abs(side - (side >> 31 << 32)) for side in found)
    return height, width


def _webp(content: bytes) -> Size | None:
    if len(content) < 30:
        return None
    match content[12:16]:
        case b"VP8X":
            width, height = (_number(content, place, 3, "little") + 1 for place in (24, 27))
        case b"VP8L":
            bits = _number(content, 21, 4, "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = (_number(content, place, 2, "little") & 0x3FFF for place in (26, 28))
        case _:
            return None
    return height, width


def _tiff(content: bytes) -> Size | None:
    order = "little" if content[:2] == b"II" else "big"
    wide = _number(content, 2, 2, order) == 43
    place = _number(content, 8, 8, order) if wide else _number(content, 4, 4, order)
    count_size, entry = (8, 20) if wide else (2, 12)
    count = _number(content, place, count_size, order)
    found: dict[int, int] = {}
    for index in range(min(count, 4096)):
        start = place + count_size + entry * index
        if start + entry > len(content):
            break
        tag, size = (_number(content, start + skip, 2, order) for skip in (0, 2))
        value = start + (12 if wide else 8)
        if tag in (TIFF_HEIGHT, TIFF_WIDTH) and size in TIFF_NUMBERS:
            found.setdefault(tag, _number(content, value, TIFF_NUMBERS[size], order))
    if len(found) < 2:
        return None
    return found[TIFF_HEIGHT], found[TIFF_WIDTH]


def _pnm(content: bytes) -> Size | None:
    head = re.sub(rb"#[^\n]*", b"", content[:4096])
    if head[1:2] == b"7":
        sides = [re.search(rb"%s\s+(\d{1,10})" % word, head) for word in (b"HEIGHT", b"WIDTH")]
        return (int(sides[0][1]), int(sides[1][1])) if sides[0] and sides[1] else None
    found = re.match(rb"P[1-6fF]\s+(\d{1,10})\s+(\d{1,10})", head)
    return (int(found[2]), int(found[1])) if found else None


def _ras(content: bytes) -> Size | None:
    return _turned(_pair(content, 4, 4, "big"))


def _jpeg2000(content: bytes) -> Size | None:
    sizes: list[Size | None] = []
    box, stream = content.find(b"ihdr"), content.find(b"\xff\x4f\xff\x51")
    if box >= 0:
        sizes.append(_pair(content, box + 4, 4, "big"))
    if stream >= 0:
        sizes.append(_turned(_pair(content, stream + 8, 4, "big")))
    return _largest(size for size in sizes if size is not None)


def _avif(content: bytes) -> Size | None:
    start = content.find(b"meta")
    length = _number(content, start - 4, 4, "big") if start >= 4 else 0
    meta = content[start : start - 4 + length] if length else content[max(start, 0) :]
    places = (found.end() + 4 for found in re.finditer(b"ispe", meta))
    sizes = (_turned(_pair(meta, place, 4, "big")) for place in places)
    return _largest(size for size in sizes if size is not None)


def _largest(sizes: Iterator[Size]) -> Size | None:
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


FORMS: tuple[tuple[Callable[[bytes], object], Callable[[bytes], Size | None]], ...] = (
    (lambda content: content.startswith(b"\xff\xd8"), _jpeg),
    (lambda content: content.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    (lambda content: content.startswith((b"GIF87a", b"GIF89a")), _gif),
    (lambda content: content.startswith(b"BM"), _bmp),
    (lambda content: content.startswith(b"RIFF") and content[8:12] == b"WEBP", _webp),
    (lambda content: content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), _tiff),
    (lambda content: re.match(rb"P[1-7fF]\s", content), _pnm),
    (lambda content: content.startswith(b"\x59\xa6\x6a\x95"), _ras),
    (lambda content: content.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")), _jpeg2000),
    (lambda content: content[4:8] == b"ftyp", _avif),
)
"""Whether a file is of a form, by its first bytes, and what reads its size."""
