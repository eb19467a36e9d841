import csv
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from flaxyolo.base.detections import Detections
from flaxyolo.deploy.frames import Frame, count_frames, read_frames
from flaxyolo.deploy.predictions import Predictions, Way, detect_frames, yolo_lines
from flaxyolo.deploy.sources import Source, find_sources
from flaxyolo.deploy.videos import VideoFile
from tests.deploy.seeing import NAMES, scene, seeing

ALL = ("pictures", "coco", "yolo", "csv")
BOX = (10, 20, 40, 30)


def write_video(path, count, width=64, height=48, rate=10.0):
    file = VideoFile(path, width, height, rate)
    for number in range(count):
        file.add(scene(height, width, (10 + number, 20, 40 + number, 30)))
    file.close()
    return path


def frames_of(path):
    problems = []
    frames = list(read_frames(find_sources([str(path)]).sources, problems))
    return frames, problems


def predicted(folder, *words, forms=ALL):
    out = Predictions(folder, forms, NAMES, {"about": "a test"})
    sources = find_sources([str(word) for word in words]).sources
    frames = read_frames(sources, [])
    for frame, found in detect_frames(seeing(), frames, Way(0.25), count_frames(sources)):
        out.add(frame, found)
    out.close()
    return out


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def table(folder):
    text = (folder / "predictions.csv").read_text()
    return list(csv.DictReader(io.StringIO(text)))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_every_form_tells_the_same_of_an_image(tmp_path):
    save(tmp_path / "in" / "sub" / "a b.png", scene(50, 100, BOX))
    save(tmp_path / "in" / "empty.jpg", scene(50, 100))
    out = predicted(tmp_path / "out", tmp_path / "in")
    assert (out.images, out.with_objects, dict(out.objects)) == (2, 1, {"plate": 1})
    assert files(tmp_path / "out") == [
        "classes.txt", "labels/empty.txt", "labels/sub/a b.txt",
        "pictures/empty.jpg", "pictures/sub/a b.png", "predictions.csv", "predictions.json",
    ]  # fmt: skip
    (line,) = (tmp_path / "out" / "labels" / "sub" / "a b.txt").read_text().splitlines()
    assert line == "0 0.250000 0.500000 0.300000 0.200000 0.899700"
    assert (tmp_path / "out" / "labels" / "empty.txt").read_text() == ""
    (row,) = table(tmp_path / "out")
    assert row["image"].endswith("in/sub/a b.png")
    assert [row[side] for side in ("left", "top", "right", "bottom")] == [
        "10.00", "20.00", "40.00", "30.00",
    ]  # fmt: skip
    assert (row["class"], row["frame"], row["width"]) == ("plate", "", "100")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["empty.jpg", "sub/a b.png"]
    (record,) = content["annotations"]
    assert record["bbox"] == [10, 20, 30, 10]
    assert (record["image_id"], record["category_id"], record["area"]) == (2, 1, 300)
    assert content["categories"][0] == {"id": 1, "name": "plate"}
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / "sub" / "a b.png"))
    assert picture.shape == (50, 100, 3)
    assert (np.ptp(picture.astype(int), axis=2) > 60).sum() > 50


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ("pictures", ["pictures/a.png"]),
        ("coco", ["predictions.json"]),
        ("yolo", ["classes.txt", "labels/a.txt"]),
        ("csv", ["predictions.csv"]),
    ],
)
def test_only_what_is_asked_for_is_written(tmp_path, form, left):
    predicted(tmp_path / "out", save(tmp_path / "a.png", scene(50, 100, BOX)), forms=(form,))
    assert files(tmp_path / "out") == left


def test_a_video_is_annotated_frame_by_frame(tmp_path):
    write_video(tmp_path / "clip.mp4", 5, width=63, height=47)
    save(tmp_path / "clip" / "000001.png", scene(50, 100, BOX))
    out = predicted(tmp_path / "out", tmp_path / "clip.mp4", tmp_path / "clip")
    assert out.images == 6
    annotated, problems = frames_of(tmp_path / "out" / "pictures" / "clip.mp4")
    assert problems == []
    assert [frame.number for frame in annotated] == [1, 2, 3, 4, 5]
    assert annotated[0].pixels.shape == (48, 64, 3)
    assert annotated[0].rate == pytest.approx(10)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image.get("frame") for image in content["images"]] == [1, 2, 3, 4, 5, None]
    lefts = [one["bbox"][0] for one in content["annotations"][:5]]
    assert lefts == pytest.approx([10, 11, 12, 13, 14], abs=1)
    assert [row["frame"] for row in table(out.folder)] == [*"12345", ""]
    assert files(out.folder / "frames" / "clip") == [f"00000{n}.txt" for n in range(1, 6)]


def test_two_videos_are_two_files(tmp_path):
    write_video(tmp_path / "a.mp4", 2)
    write_video(tmp_path / "b.mp4", 3)
    predicted(tmp_path / "out", tmp_path / "*.mp4", forms=("pictures",))
    counts = [len(frames_of(tmp_path / "out" / "pictures" / f"{x}.mp4")[0]) for x in "ab"]
    assert counts == [2, 3]


def test_a_video_that_is_discarded_leaves_nothing(tmp_path):
    out = Predictions(tmp_path / "out", ALL, NAMES, {})
    frame = Frame(Source(tmp_path / "a.mp4", "a.mp4", "a"), scene(48, 64, BOX), 1, 0.0)
    out.add(frame, Detections.joined([]))
    out.discard()
    assert files(tmp_path / "out") == ["frames/a/000001.txt"]


def test_what_is_no_video_is_a_problem(tmp_path, capfd):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    frames, problems = frames_of(tmp_path / "a.mp4")
    assert frames == []
    (problem,) = problems
    assert problem.why == "expected a video that OpenCV can decode, got other bytes"
    assert capfd.readouterr().err == ""


def test_a_video_that_is_cut_off_is_told(tmp_path):
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(9):
        noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        writer.write(noise)
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, problems = frames_of(path)
    assert 0 < len(frames) < 9
    assert problems[0].why == f"only {len(frames)} of 9 frames could be read"


def test_what_cannot_be_read_is_noted_and_the_rest_goes_on(tmp_path):
    save(tmp_path / "in" / "a.png", scene(50, 100, BOX))
    (tmp_path / "in" / "b.png").write_bytes(b"text")
    save(tmp_path / "in" / "c.png", scene(50, 100, BOX))
    frames, problems = frames_of(tmp_path / "in")
    assert [frame.source.inside for frame in frames] == ["a.png", "c.png"]
    assert [problem.name for problem in problems] == [str(tmp_path / "in" / "b.png")]
    assert problems[0].why.startswith("expected an image that OpenCV can decode, got 4 bytes")


def test_yolo_lines_are_shares_of_the_image():
    found = Detections.from_corners(
        np.array([[0, 0, 50, 100], [25, 50, 50, 100]], np.float32),
        np.array([0.9, 0.5]),
        np.array([2, 0]),
    )
    assert yolo_lines(found, 100, 50) == (
        "2 0.500000 0.500000 1.000000 1.000000 0.900000\n"
        "0 0.750000 0.750000 0.500000 0.500000 0.500000\n"
    )
