"""What the bytes of an image file say beside its pixels: how a camera was held, where it ends."""

import numpy as np
from jaxtyping import UInt8

ORIENTATION_TAG = 0x0112
"""Of EXIF: 1 upright, 2 to 4 mirrored or upside down, 5 to 8 lying on the side."""
SIDEWAYS = 5
"""From this orientation on, height and width change places."""


def orientation_of(content: bytes) -> int:
    """EXIF's orientation of a JPEG, PNG or WebP; OpenCV turns TIFF files by itself."""
    exif = b""
    if content.startswith(b"\xff\xd8"):
        exif = jpeg_parts(content)[0]
    elif content.startswith(b"\x89PNG"):
        exif = _chunk(content, 8, b"eXIf", length_first=True)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        exif = _chunk(content, 12, b"EXIF", length_first=False)
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1

    def number(place: int, size: int) -> int:
        return int.from_bytes(exif[place : place + size], "big" if exif[:1] == b"M" else "little")

    first = number(4, 4)
    for entry in range(number(first, 2)):
        place = first + 2 + 12 * entry
        if place + 12 > len(exif):
            break
        if number(place, 2) == ORIENTATION_TAG:
            value = number(place + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def jpeg_parts(content: bytes) -> tuple[bytes, int]:
    """The EXIF block of a JPEG, and where its first scan starts; -1 if it has none."""
    exif, place = b"", 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:
            return exif, place
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0" and not exif:
            exif = content[place + 4 : end]
        place = end
    return exif, -1


def _chunk(content: bytes, place: int, wanted: bytes, *, length_first: bool) -> bytes:
    """The data of a chunk of a PNG (length, name, data, checksum) or WebP (name, length, data)."""
    while place + 8 <= len(content):
        head = content[place : place + 8]
        if length_first:
            length, name, step = int.from_bytes(head[:4], "big"), head[4:], 4
        else:
            length, name = int.from_bytes(head[4:], "little"), head[:4]
            step = length % 2
        if name == wanted:
            return content[place + 8 : place + 8 + length]
        place += 8 + length + step
    return b""


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "a b 3"]:
    """The picture as a viewer shows it that follows EXIF's orientation."""
    if orientation >= SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
