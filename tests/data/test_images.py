import json
import logging
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.base.decoding import Decoded
from flaxyolo.base.errors import InputError
from flaxyolo.data import images
from flaxyolo.data.facts_file import load_facts
from flaxyolo.data.images import MISSING, decode, image_facts, name_of, pick_facts
from tests.data.coco_folder import turned, write_image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, rgb: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    return path


class Inside:
    """An image file inside another."""

    name = "records-00000: example 3"

    def __init__(self, content: bytes):
        self.content = content
        self.reads = 0

    def read(self) -> bytes:
        self.reads += 1
        return self.content


def test_grey_transparent_deep_and_rotated_files_become_plain_rgb(tmp_path):
    rgb = noise(6, 10)
    np.testing.assert_array_equal(decode(save(tmp_path / "rgb.png", rgb)), rgb)
    cv2.imwrite(str(tmp_path / "rgba.png"), np.dstack([rgb[..., ::-1], rgb[..., 0]]))
    np.testing.assert_array_equal(decode(tmp_path / "rgba.png"), rgb)
    grey = save(tmp_path / "grey.png", rgb[..., 0])
    np.testing.assert_array_equal(decode(grey), rgb[..., :1].repeat(3, -1))
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(tmp_path / "deep.png"), rgb)
    plain = decode(save(tmp_path / "x.jpg", rgb))
    np.testing.assert_array_equal(decode(turned(tmp_path / "x.jpg", 6)), plain)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotation_is_applied_as_opencv_does_it(tmp_path, orientation):
    path = turned(save(tmp_path / "x.jpg", noise(6, 10)), orientation)
    expected = cv2.imread(str(path))[..., ::-1]
    np.testing.assert_array_equal(decode(path, oriented=True), expected)
    facts = image_facts([path], "x", cache_dir=tmp_path)
    assert (facts.orientation[0], facts.height[0], facts.width[0]) == (orientation, 6, 10)


def test_a_rotation_in_a_png_or_webp_is_found(tmp_path):
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0" + b"\0" * 4
    png = save(tmp_path / "x.png", noise(6, 10))
    content = png.read_bytes()
    chunk = len(tiff).to_bytes(4, "big") + b"eXIf" + tiff + b"\0\0\0\0"
    webp = save(tmp_path / "x.webp", noise(6, 10)).read_bytes()
    webp += b"EXIF" + len(tiff).to_bytes(4, "little") + tiff
    webp = webp[:4] + (len(webp) - 8).to_bytes(4, "little") + webp[8:]
    (tmp_path / "x.webp").write_bytes(webp)
    (tmp_path / "y.png").write_bytes(content[:33] + chunk + content[33:])
    assert images.orientation_of((tmp_path / "y.png").read_bytes()) == 8
    assert images.orientation_of((tmp_path / "x.webp").read_bytes()) == 8
    assert images.orientation_of(content) == 1


@pytest.mark.parametrize("broken", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0MM", b"Exif\0\0"])
def test_broken_exif_is_no_rotation(broken):
    content = b"\xff\xd8\xff\xe1" + (len(broken) + 2).to_bytes(2, "big") + broken
    assert images.orientation_of(content) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.jpg", "cut off"), ("x.png", "cut off"), ("x.bmp", "cut off"), ("x.webp", "cut off")],
)
def test_files_that_are_cut_off_do_not_decode(tmp_path, name, words):
    path = save(tmp_path / name, noise(60, 60))
    decode(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{name}: expected an image that OpenCV .*{words}"):
        decode(path)


def test_names_are_those_of_the_file_the_record_or_memory():
    assert name_of(Path("a/b.png")) == "a/b.png"
    assert name_of(Inside(b"")) == "records-00000: example 3"
    assert name_of(noise(2, 2)) == "pixels in memory"


def test_facts_are_as_worked_out_by_hand(tmp_path):
    half = np.zeros((4, 8, 3), np.uint8)
    half[:, 4:] = 200
    paths = [save(tmp_path / "half.png", half), tmp_path / "no.png", tmp_path / "text.png"]
    paths[2].write_text("no image")
    facts = image_facts(paths, "set", cache_dir=tmp_path / "cache")
    assert facts.height.tolist() == [4, 0, 0]
    assert facts.width.tolist() == [8, 0, 0]
    assert facts.brightness[0] == pytest.approx(100)
    assert facts.contrast[0] == pytest.approx(100)
    # The Laplacian is 200 in the column left of the edge, -200 right of it, 0 in six others.
    assert facts.blur[0] == pytest.approx(200**2 / 4)
    assert np.isnan(facts.brightness[1:]).all()
    assert facts.problem[0] == ""
    assert facts.problem[1] == MISSING
    assert "8 bytes that are none" in facts.problem[2]
    assert len(facts.digest[0]) == 64
    assert facts.digest[1] == ""


def test_the_same_content_has_the_same_digest_wherever_it_lies(tmp_path):
    a = write_image(tmp_path / "a.png", 5, 5, seed=1)
    b = write_image(tmp_path / "b.png", 5, 5, seed=1)
    c = write_image(tmp_path / "c.png", 5, 5, seed=2)
    facts = image_facts([a, b, c, Inside(a.read_bytes())], "set", cache_dir=tmp_path)
    assert facts.digest[0] == facts.digest[1] == facts.digest[3] != facts.digest[2]
    pixels = image_facts([noise(5, 5), noise(5, 5), noise(5, 5, 1)], "set", cache_dir=tmp_path)
    assert pixels.digest[0] == pixels.digest[1] != pixels.digest[2]


def test_a_file_is_decoded_once_and_not_again_until_it_changes(tmp_path, monkeypatch):
    paths = [write_image(tmp_path / f"{name}.png", 5, 6) for name in "aba"]
    inside = Inside(paths[0].read_bytes() + b"x")
    decoded = []
    monkeypatch.setattr(
        images,
        "decoded",
        lambda content: decoded.append(1) or Decoded(np.zeros((5, 6, 3), np.uint8)),
    )

    def facts(count: int):
        decoded.clear()
        found = image_facts([*paths, inside], "set", cache_dir=tmp_path / "cache")
        assert len(decoded) == count
        return found

    first, second = facts(3), facts(0)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    os.utime(paths[1], (1, 1))
    facts(1)
    (store,) = (tmp_path / "cache" / "facts").iterdir()
    for damaged in ("{", "[]", '{"version": 1, "images": {"x": 3}}', '{"version": 0}'):
        store.write_text(damaged)
        facts(3)
    facts(0)


GOOD = [[10, 20], 5, 6, 1, "a" * 64, 1.5, 2.0, 3.0, "", "", 0]


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        [None] * 11,
        [[1], *GOOD[1:]],
        [["1", 2], *GOOD[1:]],
        [*GOOD[:1], None, *GOOD[2:]],
        [*GOOD[:1], -5, *GOOD[2:]],
        [*GOOD[:1], 2**40, *GOOD[2:]],
        [*GOOD[:1], 0, *GOOD[2:]],
        [*GOOD[:3], 9, *GOOD[4:]],
        [*GOOD[:4], "abc", *GOOD[5:]],
        [*GOOD[:5], "1.5", *GOOD[6:]],
        [*GOOD[:5], float("nan"), *GOOD[6:]],
        [*GOOD[:8], 7, *GOOD[9:]],
        [*GOOD[:9], None, *GOOD[10:]],
        [*GOOD, 1],
    ],
)
def test_facts_that_cannot_be_are_told_once_and_found_again(tmp_path, caplog, row):
    path = write_image(tmp_path / "a.png", 5, 6)
    first = image_facts([path], "set", cache_dir=tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "facts").iterdir()
    store.write_text(json.dumps({"version": 2, "images": {str(path): row}}))
    again = image_facts([path], "set", cache_dir=tmp_path / "cache")
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    (line,) = (line for line in caplog.messages if "is damaged and is made again" in line)
    assert line.startswith(str(store))
    assert "\n" not in line
    assert set(load_facts(store)) == {str(path)}


def test_facts_of_before_there_was_a_digest_are_read(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps({"version": 2, "images": {"/x/a.png": GOOD}}))
    assert load_facts(tmp_path / "f.json")["/x/a.png"][1].height == 5


def test_a_changed_figure_in_the_facts_is_not_used(tmp_path, caplog):
    path = write_image(tmp_path / "a.png", 5, 6)
    image_facts([path], "set", cache_dir=tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "facts").iterdir()
    text = store.read_text()
    assert ",5,6,1," in text
    store.write_text(text.replace(",5,6,1,", ",7,6,1,"))
    assert image_facts([path], "set", cache_dir=tmp_path / "cache").height.tolist() == [5]
    assert "another digest than was written" in caplog.text


def test_a_folder_in_the_place_of_the_facts_is_moved_away(tmp_path):
    path = write_image(tmp_path / "a.png", 5, 6)
    image_facts([path], "set", cache_dir=tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "facts").iterdir()
    store.unlink()
    store.mkdir()
    image_facts([path], "set", cache_dir=tmp_path / "cache")
    assert store.is_file()
    assert store.with_name(f"{store.name}.damaged").is_dir()


def test_what_was_found_before_an_interruption_is_kept(tmp_path, monkeypatch):
    paths = [write_image(tmp_path / f"{number}.png", 5, 6) for number in range(4)]
    look = images._look
    monkeypatch.setattr(images, "CHUNK", 1)

    def interrupt(work):
        if work[0] == paths[3]:
            raise KeyboardInterrupt
        return look(work)

    monkeypatch.setattr(images, "_look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        image_facts(paths, "set", cache_dir=tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "facts").iterdir()
    assert set(load_facts(store)) == {str(path) for path in paths[:3]}


def test_several_processes_may_write_at_once(tmp_path):
    paths = [write_image(tmp_path / f"{number}.png", 5, 6) for number in range(8)]
    found = []

    def look() -> None:
        found.append(image_facts(paths, "set", cache_dir=tmp_path / "cache"))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [facts.digest for facts in found] == [found[0].digest] * 4
    assert len(list((tmp_path / "cache" / "facts").iterdir())) == 1


def test_facts_of_some_images_are_picked(tmp_path):
    facts = image_facts([noise(2, 3), noise(4, 5), noise(6, 7)], "set", cache_dir=tmp_path)
    some = pick_facts(facts, np.array([2, 0]))
    assert some.height.tolist() == [6, 2]
    assert some.digest == (facts.digest[2], facts.digest[0])


def test_progress_is_told_with_the_time_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(images, "REPORT_S", 0.0)
    monkeypatch.setattr(images, "CHUNK", 2)
    caplog.set_level(logging.INFO)
    image_facts([noise(4, 4, seed) for seed in range(3)], "set train", cache_dir=tmp_path)
    assert "set train: 2 of 3 images looked at, 0 s left" in caplog.text


def test_a_name_that_no_file_can_have_is_a_problem_and_no_crash(tmp_path):
    paths = [Path("a\0b.png"), tmp_path / ("x" * 300), tmp_path]
    facts = image_facts(paths, "set", cache_dir=tmp_path / "cache")
    assert all(facts.problem)
    for path in paths:
        with pytest.raises(InputError, match="cannot read the image"):
            decode(path)


def damaged(path: Path) -> Path:
    content = bytearray(cv2.imencode(".jpg", noise(80, 96))[1].tobytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    return path


def test_what_the_decoder_complains_of_is_told_of_its_file(tmp_path, capfd):
    paths = [write_image(tmp_path / f"{number}.jpg", 80, 96) for number in range(5)]
    paths[3] = damaged(tmp_path / "3.jpg")
    for _ in range(2):  # the second time from the cache
        facts = image_facts(paths, "set", cache_dir=tmp_path / "cache")
        assert [bool(text) for text in facts.complaint] == [False, False, False, True, False]
        assert facts.complaint[3].startswith("Corrupt JPEG data")
        assert not any(facts.problem)
    assert pick_facts(facts, np.array([3])).complaint == (facts.complaint[3],)
    assert capfd.readouterr().err == ""


def test_what_others_write_to_stderr_meanwhile_is_passed_on(tmp_path, monkeypatch, capfd):
    look = images._look

    def talk(work):
        os.write(2, b"another thread\n")
        return look(work)

    monkeypatch.setattr(images, "_look", talk)
    image_facts([damaged(tmp_path / "x.jpg")], "set", cache_dir=tmp_path / "cache")
    assert capfd.readouterr().err == "another thread\n" * 2


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize(("bits", "told"), [(8, 8), (9, 10), (12, 12), (14, 14), (15, 0), (16, 0)])
def test_of_16_bits_those_that_are_used_become_8(tmp_path, form, bits, told):
    pixels = np.linspace(0, 2**bits - 1, 60 * 40).reshape(40, 60).astype(np.uint16)
    path = save(tmp_path / f"x.{form}", pixels)
    shift = (told or 16) - 8
    np.testing.assert_allclose(decode(path)[..., 0], pixels >> shift, atol=0 if told else 1)
    facts = image_facts([path], "set", cache_dir=tmp_path / "cache")
    assert facts.bits.tolist() == [told]
