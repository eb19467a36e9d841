"""Seeded ways to spoil a small data set, as a broken disk or a foe would."""

import gzip
import json
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.sound_data import write

LARGE = 50 << 20
"""Bytes of a file that was made huge, and is spoilt enough."""
PUNYCODE = b'<?xml version="1.0" encoding="punycode"?>'
HOSTILE: list[Any] = [
    None, True, 0, -1, 10**20, 10**4000, 2**63, 1e308, -1e308, float("nan"), float("inf"), "", "\0",
    "\ud800", "a\nb", "x" * 10_000_000, "../" * 40 + "etc/passwd", "/etc/passwd", "/dev/zero",
    "/proc/self/mem", "~nobody-at-all/x.png", "%00", "..", "/", ".", "a" * 5000, "é" * 300, [], {},
    [1] * 100_000, {"a": {"b": [{}]}}, [[[[[[]]]]]], "NaN", "1e400", b"bytes".hex(),
]  # fmt: skip
"""What may stand anywhere."""
NAMES = ["new\nline.png", "-rf.png", " lead.png", "trail .png", "ünï.png", "a" * 240 + ".png",
         "x.PNG", "x.png.png", "x..png", "tab\t.png", "#.png", "%2e%2e%2fx.png", "日本.png",
         "quote'\".png", "$(id).png", "nul.png", "x.jpg\udcff.png"]  # fmt: skip
STRANGERS = [
    "s.gif", "s.heic", "s.HEIF", "s.avif", "s.jp2", "s.psd", "s.svg", "s", "s.dng", "s.tga",
    ".DS_Store", "._s.jpg", "Thumbs.db", ".s.jpg", "s.jxl", "s.pcx", "s.webm",
]  # fmt: skip


class Spoiler:
    """One seeded corruption of a data set."""

    def __init__(self, root: Path, form: str, seed: int):
        self.root, self.form, self.random = root, form, random.Random(seed)

    def spoil(self) -> str:
        """Do it, and say what was done."""
        common: list[Callable[[], str]] = [
            self.bytes_, self.bytes_, self.other_kind, self.other_kind, self.stranger,
            self.odd_name, self.bomb, self.bomb, self.image_header,
        ]  # fmt: skip
        own = {"coco": [self.json_value] * 6, "yolo": [self.yaml] * 3 + [self.label] * 3,
               "voc": [self.xml] * 4 + [self.list_line], "tfds": [self.json_value] * 4}  # fmt: skip
        kinds = [*common, *own[self.form]]
        if self.form == "tfds":
            kinds = [self.bytes_, self.other_kind, self.json_value, self.json_value]
        return "; ".join(
            self.random.choice(kinds)() for _ in range(self.random.choice([1, 1, 1, 2, 3]))
        )

    def files(self, *suffixes: str) -> list[Path]:
        """Regular files of the set, of these suffixes if any are given."""
        paths = [
            path for path in self.root.rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < LARGE
        ]  # fmt: skip
        return sorted(one for one in paths if not suffixes or one.suffix.lower() in suffixes)

    def one(self, *suffixes: str) -> Path | None:
        """One of them."""
        files = self.files(*suffixes)
        return self.random.choice(files) if files else None

    def bytes_(self) -> str:
        """Bytes of a file as a broken disk leaves them."""
        path = self.one()
        if path is None:
            return "nothing"
        content = bytearray(path.read_bytes())
        at = self.random.randrange(len(content) + 1)
        what = self.random.choice(["cut", "flip", "zeros", "empty", "bom", "utf16", "nuls", "twice",
                                   "ff", "long line", "crlf", "gz", "swap"])  # fmt: skip
        changed: dict[str, Callable[[], bytes]] = {
            "cut": lambda: content[:at],
            "zeros": lambda: content[:at] + bytes(len(content) - at),
            "empty": lambda: b"",
            "bom": lambda: b"\xef\xbb\xbf" + content,
            "utf16": lambda: content.decode("latin-1").encode("utf-16"),
            "nuls": lambda: bytes(5000),
            "twice": lambda: content + content,
            "ff": lambda: b"\xff" * 3000,
            "long line": lambda: content[:at] + b"7 " * 1_500_000,
            "crlf": lambda: content.replace(b"\n", b"\r\n"),
            "gz": lambda: gzip.compress(content),
            "swap": lambda: content[at:] + content[:at],
            "flip": lambda: self._flipped(content),
        }
        path.write_bytes(changed[what]())
        return f"{path.name}: {what}"

    def _flipped(self, content: bytearray) -> bytes:
        for _ in range(self.random.choice([1, 4, 30]) if content else 0):
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        return content

    def other_kind(self) -> str:
        """Something that is no plain file where a file was, or beside it."""
        path = self.one()
        if path is None:
            return "nothing"
        what = self.random.choice(["pipe", "folder", "zero", "loop", "nowhere", "outside", "huge",
                                   "socket", "random", "self mem", "kmsg", "gone", "full folder",
                                   "folder link out", "tty"])  # fmt: skip
        if self.random.random() < 0.3:
            path = path.with_name(f"extra-{path.name}")
        else:
            path.unlink()
        targets = {"zero": "/dev/zero", "nowhere": "nowhere/at all", "random": "/dev/urandom",
                   "self mem": "/proc/self/mem", "kmsg": "/proc/kmsg", "loop": path.name,
                   "tty": "/dev/ptmx", "folder link out": "/proc"}  # fmt: skip
        if what == "pipe":
            os.mkfifo(path)
        elif what in ("folder", "full folder"):
            path.mkdir()
            if what == "full folder":
                write(
                    path / "inner.png",
                    cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes(),
                )
        elif what == "huge":
            path.touch()
            os.truncate(path, self.random.choice([300 << 20, 700 << 20, 5 << 30, 1 << 40]))
        elif what == "socket":
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket may have 100 letters
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name[-90:])
            os.chdir(here)
        elif what == "outside":
            far = write(self.root.with_name("far") / path.name, b"0 0.5 0.5 0.1 0.1\n")
            path.symlink_to(far)
        elif what in targets:
            path.symlink_to(targets[what])
        return f"{path.name}: {what}"

    def stranger(self) -> str:
        """A file that does not belong there, in a folder of images or labels."""
        beside = self.one(".png", ".jpg", ".txt", ".xml")
        if beside is None:
            return "nothing"
        name = self.random.choice(STRANGERS)
        inner = self.random.choice(["", "", "deep/er", ".hidden"])
        pixels = np.zeros((24, 32, 3), np.uint8)
        write(beside.parent / inner / name, cv2.imencode(".png", pixels)[1].tobytes())
        return f"{name} beside {beside.name}"

    def odd_name(self) -> str:
        """A file by another name."""
        path = self.one(".png", ".jpg", ".txt", ".xml")
        if path is None:
            return "nothing"
        name = self.random.choice(NAMES)
        if self.random.random() < 0.5:
            name = name.removesuffix(".png") + path.suffix
        path.rename(path.with_name(name))
        return f"{path.name} is {name!a:.40}"

    def image_header(self) -> str:
        """An image whose header says what its bytes do not hold."""
        path = self.one(".png", ".jpg")
        if path is None:
            return "nothing"
        name, content = self.random.choice(list(lying_images().items()))
        path.write_bytes(content)
        return f"{path.name}: {name}"

    def bomb(self) -> str:
        """A small file that becomes large, or takes for ever, where it is read carelessly."""
        bombs: dict[str, tuple[tuple[str, ...], Callable[[], bytes]]] = {
            "text chunk": ((".png",), lambda: png_with(b"zTXt", b"x\0\0" + _zeros(200 << 20))),
            "profile": ((".png",), lambda: png_with(b"iCCP", b"x\0\0" + _zeros(100 << 20))),
            "many chunks": ((".png",), lambda: png_with(b"tEXt", b"a\0b", 200_000)),
            "many segments": ((".jpg",), lambda: b"\xff\xd8" + b"\xff\xe1\0\x02" * 300_000),
            "fill bytes": ((".jpg",), lambda: b"\xff\xd8" + b"\xff" * 3_000_000),
            "deep json": ((".json",), lambda: b"[" * 200_000),
            "deep objects": ((".json",), lambda: b'{"images":' * 50_000 + b"1" + b"}" * 50_000),
            "outlines": ((".json",), lambda: b'{"segmentation": [' + b"[1,2]," * 300_000),
            "aliases": ((".yaml",), lambda: _aliases("[{}]")),
            "merges": ((".yaml",), lambda: _aliases("{{<<: [{}]}}")),
            "deep yaml": ((".yaml",), lambda: b"train: " + b"[" * 100_000),
            "deep blocks": ((".yaml",), lambda: b"- " * 100_000),
            "long yaml": ((".yaml",), lambda: b"names: [" + b"a, " * 300_000 + b"b]"),
            "entities": ((".xml",), _entities),
            "deep xml": ((".xml",), lambda: b"<annotation>" + b"<a>" * 1_000_000),
            "many tags": ((".xml",), lambda: b"<a>" + b"<object/>" * 300_000 + b"</a>"),
            "punycode": ((".xml",), lambda: PUNYCODE + b"a-b9" * 400_000),
            "long label": ((".txt",), lambda: b"0 " + b"0.5 " * 900_000),
            "many labels": ((".txt",), lambda: b"1\n" * 1_000_000),
        }  # fmt: skip
        fitting = [(name, path, make) for name, (suffixes, make) in bombs.items()
                   if (path := self.one(*suffixes))]  # fmt: skip
        if not fitting:
            return "nothing"
        name, path, make = self.random.choice(fitting)
        path.write_bytes(make())
        return f"{path.name}: {name}"

    def json_value(self) -> str:
        """A hostile value somewhere in a JSON file."""
        path = self.one(".json")
        if path is None:
            return "nothing"
        try:
            data = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return "nothing"
        places = list(_places(data))
        if not places:
            return "nothing"
        holder, key = self.random.choice(places)
        value = self.random.choice(HOSTILE)
        if isinstance(holder, dict) and self.random.random() < 0.15:
            holder.pop(key)
        else:
            holder[key] = value
        try:
            path.write_text(json.dumps(data))
        except ValueError:  # an integer of too many digits for Python itself
            holder[key] = 0
            path.write_text(json.dumps(data).replace(": 0", ": " + "9" * 5000, 1))
        return f"{path.name}: {key!r:.20} = {ascii(value)[:40] if value != 10**4000 else 'huge'}"

    def yaml(self) -> str:
        """A data.yaml with a strange line."""
        path = self.root / "data.yaml"
        lines = [
            "path: /", "path: /proc", "path: ~nobody-at-all", "path: ../..", "path: '\\0'",
            "train: /proc", "train: /", "train: /dev/zero", "train: ../../../etc",
            "train: [images/train, images/train, images/val]", "train: list.txt",
            "names: 0x" + "f" * 50_000, "names: ['" + "n" * 900_000 + "']",
            "names: {0: a, 0: b, 1: c}", "names: {.nan: a}", "names: {0: 2020-13-45}",
            "names: !!python/object/apply:os.system ['id']", "nc: 1e9", "nc: 99999999999",
            "kpt_shape: [17, 3]", "kpt_shape: [1e9, 3]", "val: images/val/val0.png",
            "train: '%s'" % ("i" * 5000), "train: {a: b}", "names: &a [*a]",
            "train: !!binary aGk=", "names: [" + "1:" * 400 + "1]",
            "names: {0: '\u202eevil', 1: b}", "test: /", "test: ..", "val: images/train",
            "? [a, b]\n: c", "train: ~/", "train: .", "path: images",
        ]  # fmt: skip
        line = self.random.choice(lines)
        with path.open("ab") as file:
            file.write(b"\n" + line.encode() + b"\n")
        if "list.txt" in line:
            written = [
                "../../../etc/passwd", "/etc/passwd", "./images/train/train0.png", "\0",
                "/dev/zero", "x" * 100_000, "~nobody-at-all/a.png", "images/train",
                "../far/a.png", "//", "%2e%2e/a.png",
            ]  # fmt: skip
            write(self.root / "list.txt", "\n".join(written).encode())
        return f"data.yaml: {line:.60}"

    def label(self) -> str:
        """A line of labels as nobody should write it."""
        path = self.one(".txt")
        if path is None:
            return "nothing"
        lines = [
            b"nan nan nan nan nan", b"inf 0 0 1 1", b"1e308 0.5 0.5 0.1 0.1",
            b"0 -1e300 1e300 1 1", b"0 0.5 0.5 1e-320 0.1", b"0 0,5 0,5 0,1 0,1",
            b"\xff\xfe0 0.5", b"0x1 0.5 0.5 0.1 0.1", b"0 0.5 0.5 0.1 0.1 # \0",
            b"-0 0.5 0.5 0.1 0.1", b"99999999999999999999 0.5 0.5 0.1 0.1",
            b"1_0 0.5 0.5 0.1 0.1", b"0\t0.5\x0b0.5\x850.1 0.1", b"0 " + b"9" * 5000 + b" 0 0 0",
            b"0 0.1 0.1 0.1 0.1 0.1 0.1", b"\xe2\x80\xa80 0.5 0.5 0.1 0.1",
        ]  # fmt: skip
        line = self.random.choice(lines)
        path.write_bytes(path.read_bytes() + line + b"\n")
        return f"{path.name}: {line[:30]!r}"

    def xml(self) -> str:
        """An XML file with a strange part."""
        path = self.one(".xml")
        if path is None:
            return "nothing"
        text = path.read_text(errors="replace")
        old, new = self.random.choice([
            ("<name>odd</name>", f"<name>{'n' * 3_000_000}</name>"), ("<xmin>", "<xmin>1e999"),
            ("<xmin>3", "<xmin>nan"), ("<width>32", "<width>9" + "9" * 6000), ("</object>", ""),
            ("<filename>", "<filename>../../../../etc/passwd"), ("<filename>", "<filename>/etc/"),
            ("<annotation>", '<?xml version="1.0" encoding="idna"?><annotation>'),
            ("<annotation>", '<?xml version="1.0" encoding="no-such"?><annotation>'),
            ("<annotation>", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation>'),
            ("<annotation>", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///dev/zero">]><annotation>&x;'),
            ("<object>", "<object xmlns:a='b'><a:name>z</a:name>"), ("bndbox", "polygon"),
            ("<size>", "<size><size>"), ("odd", "&#0;"), ("odd", "\u202e\x1b[31m"), ("24", "0x18"),
        ])  # fmt: skip
        path.write_text(text.replace(old, new), errors="replace")
        return f"{path.name}: {new!a:.50}"

    def list_line(self) -> str:
        """A line of a list of images that leads elsewhere."""
        path = self.root / "ImageSets" / "Main" / f"{self.random.choice(['train', 'val'])}.txt"
        if not path.is_file():
            return "nothing"
        line = self.random.choice([
            "../../../etc/passwd", "/etc/passwd", "\0", "x" * 70_000, "train0 1",
            "train0\ntrain0", "..", "a/b/c", "~root", "train0.xml", "\ud800",
        ])  # fmt: skip
        path.write_bytes(path.read_bytes() + b"\n" + line.encode(errors="surrogatepass"))
        return f"{path.name}: {line!a:.40}"


def lying_images() -> dict[str, bytes]:
    """Small files that say they are large, by form."""
    plain = np.zeros((24, 32, 3), np.uint8)
    png, jpeg = (cv2.imencode(one, plain)[1].tobytes() for one in (".png", ".jpg"))
    head = struct.pack(">II", 60_000, 60_000) + png[24:29]
    frame = jpeg.index(b"\xff\xc0")
    tiff = cv2.imencode(".tiff", plain)[1].tobytes()
    avif_size = b"ispe" + b"\x7f" * 12
    webp = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2 + b"VP8 \0\0\0\0"
    return {
        "png": png[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + png[33:],
        "jpeg": jpeg[: frame + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[frame + 9 :],
        "jpeg of 60 Mpx": jpeg[: frame + 5] + struct.pack(">HH", 7_700, 7_700) + jpeg[frame + 9 :],
        "bmp": b"BM" + struct.pack("<IIIIiiHH", 99, 0, 54, 40, 60_000, -60_000, 1, 24) + bytes(24),
        "gif": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + b"\0\0\0;",
        "webp": webp,
        "pnm": b"P6 99999 99999 255\n" + bytes(99),
        "pnm of 60 Mpx": b"P6 7700 7700 255\n" + bytes(99),
        "tiff": tiff.replace(struct.pack("<HHI", 256, 3, 1), struct.pack("<HHI", 256, 4, 1)),
        "tiff in itself": b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\x09\0\0\0\x08\0\0\0",
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf\0\0\0\x2cmeta" + bytes(20) + avif_size,
    }  # fmt: skip


def png_with(kind: bytes, data: bytes, times: int = 1) -> bytes:
    """A PNG of 32 x 24 with more chunks of a kind."""
    png = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    chunk = struct.pack(">I", len(data)) + kind + data
    return png[:33] + (chunk + struct.pack(">I", zlib.crc32(kind + data))) * times + png[33:]


def _zeros(count: int) -> bytes:
    """So many zero bytes, compressed."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(count >> 20)) + packer.flush()


def _aliases(form: str) -> bytes:
    first = form.replace("{}", "a: b", 1) if "<<" not in form else "{a: b}"
    lines = [f"k0: &k0 {first}"]
    for level in range(1, 10):
        inner = ", ".join([f"*k{level - 1}"] * 10)
        lines.append(
            f"k{level}: &k{level} " + form.format(inner).replace("{{", "{").replace("}}", "}")
        )
    return "\n".join([*lines, "train: *k9", "names: *k9"]).encode()


def _entities() -> bytes:
    more = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    return f'<!DOCTYPE a [<!ENTITY e0 "boom">{more}]><annotation>&e11;</annotation>'.encode()


def _places(data: Any) -> Any:
    keys = (
        data.keys()
        if isinstance(data, dict)
        else range(len(data))
        if isinstance(data, list)
        else ()
    )
    for key in list(keys):
        yield data, key
        yield from _places(data[key])
