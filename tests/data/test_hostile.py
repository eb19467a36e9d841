"""Inputs made to hurt: a finding or one line that names the file, soon, and within a gigabyte."""

import json
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.sound_data import write_sound
from benchmarks.spoilt_data import png_with
from flaxyolo.base import decoding
from flaxyolo.base.limits import LARGE_PIXELS, PIXELS
from flaxyolo.data import images
from flaxyolo.data.__main__ import main
from flaxyolo.data.images import image_facts
from flaxyolo.data.sources import audit_source, read_dataset
from tests.base.test_reading import other_kind
from tests.data.coco_folder import write_image

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "coco": ["annotations/instances_train.json", "images/train0.png"],
    "yolo": ["data.yaml", "images/train/train0.png", "labels/train/train0.txt"],
    "voc": ["ImageSets/Main/train.txt", "JPEGImages/train0.png", "Annotations/train0.xml"],
}
KINDS = ("pipe", "folder", "device", "loop", "huge")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, names in FILES.items() for name in names]
)
def test_what_is_no_file_is_told(tmp_path, capfd, form, name, kind):
    root = tmp_path / "set"
    write_sound(root, form)
    path = root / name
    path.unlink()
    other_kind(path, kind)
    # A folder of images is taken as it is: what is no file in it is named, and stops nothing.
    code = main(["audit", f"{form}:{root}"]) or 0
    left_out = form == "yolo" and path.suffix == ".png" and kind in ("pipe", "device", "folder")
    assert code == (0 if left_out else 2)
    printed = "".join(capfd.readouterr())
    assert path.name in printed
    assert "Traceback" not in printed
    if kind == "pipe" and path.suffix in (".txt", ".xml", ".json") and "Main" not in name:
        assert "pipe" in printed or "expected one of" in printed


@pytest.mark.parametrize("kind", ["pipe", "loop", "huge"])
@pytest.mark.parametrize("name", ["features.json", "flaxyolo.json", "objects-label.labels.txt"])
def test_a_prepared_set_is_looked_at_before_its_library_reads_it(tmp_path, capfd, name, kind):
    root = tmp_path / "set"
    write_sound(root, "tfds")
    (root / name).unlink()
    other_kind(root / name, kind)
    assert main(["audit", f"tfds:{root}"]) == 2
    assert f"{root / name}: cannot be read: " in capfd.readouterr().err


def test_lists_nested_too_deep_are_told(tmp_path, capfd):
    root = tmp_path / "set"
    write_sound(root, "tfds")
    (root / "flaxyolo.json").write_text("[" * 100_000)
    assert main(["audit", f"tfds:{root}"]) == 2
    assert "flaxyolo.json: cannot be read: maximum recursion depth" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_huge_value_is_told_in_a_short_line(tmp_path, capfd, key):
    write_sound(tmp_path, "coco")
    path = tmp_path / "annotations" / "instances_train.json"
    data = json.loads(path.read_bytes())
    data[key][0][{"images": "file_name", "annotations": "bbox", "categories": "name"}[key]] = (
        "x" * 10_000_000
    )
    path.write_text(json.dumps(data))
    assert main(["audit", f"coco:{tmp_path}"]) == 2
    assert all(len(text) < 2000 for text in capfd.readouterr())


def with_size(height: int, width: int) -> bytes:
    """A PNG of 24 x 32 pixels that says another size."""
    png = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    head = struct.pack(">II", width, height) + png[24:29]
    return png[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + png[33:]


def test_an_image_of_too_many_pixels_stops_and_the_flag_lets_it_through(tmp_path, capfd):
    write_sound(tmp_path, "coco")
    assert main(["audit", f"coco:{tmp_path}", "--max-pixels", "767"]) == 2
    assert "more than 767; --max-pixels 768 allows it" in capfd.readouterr().err
    assert main(["audit", f"coco:{tmp_path}", "--max-pixels", "768"]) == 0
    # What is known of the images by now is no way around it.
    assert main(["audit", f"coco:{tmp_path}", "--max-pixels", "767"]) == 2
    assert "8 images that do not decode" not in capfd.readouterr().err
    assert main(["audit", f"coco:{tmp_path}"]) == 0


def test_a_file_much_larger_than_its_pixels_may_be_is_not_read(tmp_path, monkeypatch):
    path = write_image(tmp_path / "x.png", 24, 32)
    os.truncate(path, 5_000)
    monkeypatch.setenv(PIXELS, "1000")
    (problem,) = image_facts([path], "set").problem
    assert problem.startswith("cannot read the image: expected at most 4,000 bytes, found 5,000")
    assert problem.endswith("; --max-pixels with more allows it")
    monkeypatch.setenv(PIXELS, "2000")
    assert image_facts([path], "set").height.tolist() == [24]


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    side = int(LARGE_PIXELS**0.5) + 10
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("L", (side, side), number).save(path)
    inside, most = [0], [0]

    def counted(grey, *more):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        row = measure(grey, *more)
        inside[0] -= 1
        return row

    measure = images._measure
    monkeypatch.setattr(images, "_measure", counted)
    assert image_facts(paths, "set").height.tolist() == [side] * 4
    assert most == [1]
    with decoding.alone(pixels=LARGE_PIXELS + 1), decoding.alone(size=1 << 40):
        pass  # a thread goes in again


@pytest.mark.parametrize(
    ("kind", "data", "times"),
    [
        (b"zTXt", b"x\0\0" + zlib.compress(bytes(50 << 20)), 1),
        (b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20)), 1),
        (b"tEXt", b"a\0b", 20_000),
    ],
)
def test_what_is_packed_into_an_image_beside_its_pixels_is_left_packed(tmp_path, kind, data, times):
    (tmp_path / "x.png").write_bytes(png_with(kind, data, times))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = image_facts([tmp_path / "x.png"], "set")
    assert facts.height.tolist() == [24]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10


def audit_in_a_process(source: str, cache: Path) -> tuple[int, str, float]:
    """Exit code, what is printed, and MiB that it took."""
    code = (
        "import sys\n"
        "from flaxyolo.data.__main__ import main\n"
        "code = main(['audit', sys.argv[1]])\n"
        # Not of getrusage: that counts what the parent had before as well.
        "kib = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print('MiB', int(kib) / 1024)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FLAXYOLO_CACHE": str(cache)},
    )
    printed = done.stdout + done.stderr
    return done.returncode, printed, float(printed.split("MiB ")[1].split()[0])


@pytest.mark.slow
def test_a_header_of_400_megapixels_takes_no_memory(tmp_path):
    write_sound(tmp_path / "set", "coco")
    (tmp_path / "set" / "images" / "train0.png").write_bytes(with_size(20_000, 20_000))
    code, printed, mib = audit_in_a_process(f"coco:{tmp_path / 'set'}", tmp_path / "cache")
    assert code == 2
    assert "an image of 20,000 x 20,000 pixels by its header, more than 62,000,000" in printed
    assert mib < 500


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_the_largest_image_that_is_allowed_takes_less_than_a_gigabyte(tmp_path, form):
    write_sound(tmp_path / "set", "coco")
    for number in (0, 2):
        picture = Image.new("RGB", (7870, 7870), (9, number, 200))
        options = {"progressive": True, "subsampling": 0} if form == "JPEG" else {}
        picture.save(tmp_path / "set" / "images" / f"train{number}.png", form, **options)
    _, printed, mib = audit_in_a_process(f"coco:{tmp_path / 'set'}", tmp_path / "cache")
    assert "2 images of another size than their file" in printed
    assert mib < 1024


@pytest.mark.slow
def test_spoilt_data_sets_end_in_a_finding_or_a_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/fuzz_data.py", "--seeds", "48", "--first", "5000", "--json",
         str(tmp_path / "result.json")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["counts"]) == {"told", "read"}
    assert len(result["runs"]) == 48


HOSTILE = {
    "yolo:yolo-yaml-billion_names/data.yaml": (2, "not valid YAML: it stands for more than"),
    "yolo:yolo-yaml-billion_toplist/data.yaml": (2, "not valid YAML: it stands for more than"),
    "yolo:yolo-gif-silent/data.yaml": (0, "train2.heic"),
    "coco:coco-image-jpeg_20000": (2, "an image of 20,000 x 20,000 pixels by its header"),
    "tfds:tfds-deep-flaxyolo.json": (2, "flaxyolo.json: cannot be read: maximum recursion depth"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_case_is_told(test_data, capfd, case):
    cases = test_data.parent / "cases" / "hostile"
    if not cases.is_dir():
        pytest.skip(f"no cases at {cases}")
    form, _, name = case.partition(":")
    code, told = HOSTILE[case]
    assert (main(["audit", f"{form}:{cases / name}"]) or 0) == code
    assert told in "".join(capfd.readouterr())


def test_every_file_of_a_case_is_read_or_named(test_data):
    root = test_data.parent / "cases" / "hostile" / "yolo-gif-silent"
    if not root.is_dir():
        pytest.skip(f"no case at {root}")
    audit = audit_source(f"yolo:{root}/data.yaml")
    read = sum(counts.images for _, counts in audit.splits)
    named = sum(found.count for found in audit.findings if found.kind == "unread")
    assert read + named == len(list((root / "images").rglob("*.*")))
    assert len(read_dataset(f"yolo:{root}/data.yaml").train) == 5
