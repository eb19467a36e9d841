"""What a detector finds in many images and videos, and the files that tell of it."""

import csv
import io
import json
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.base.files import replace_file
from flaxyolo.deploy.frames import Frame
from flaxyolo.deploy.slices import detect_sliced
from flaxyolo.deploy.videos import VideoFile
from flaxyolo.nn.detector import TrainedDetector, batch_size_for

Form = Literal["pictures", "coco", "yolo", "csv"]
RESULTS = "predictions.json"
TABLE = "predictions.csv"
COLUMNS = (
    "image", "frame", "width", "height", "class", "score", "left", "top", "right", "bottom",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How images are detected in."""

    min_score: float
    side: int | None = None
    """Of the tiles, in pixels of the image; None: the image as a whole."""
    overlap: float = 0.2
    """Least share of a tile's side in its neighbour."""


def detect_frames(
    detector: TrainedDetector, frames: Iterable[Frame], way: Way, count: int
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with what is found in it; `count` is about how many there will be."""
    if way.side is not None:
        for frame in frames:
            yield (
                frame,
                detect_sliced(
                    detector,
                    frame.pixels,
                    side=way.side,
                    overlap=way.overlap,
                    min_score=way.min_score,
                ),
            )
        return
    waiting: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            waiting.append(frame)
            yield frame.pixels

    size = batch_size_for(count)
    for found in detector.each(pixels(), batch_size=size, min_score=way.min_score):
        yield waiting.popleft(), found


@dataclass
class Predictions:
    """Writes the files of a run, each whole or not at all; the counts of what went into them.

    Pictures and labels are there as soon as their image is done, a video and the tables of all
    images at `close`.
    """

    folder: Path
    forms: Collection[Form]
    class_names: Sequence[str]
    about: dict[str, Any]
    """How they were made, for the JSON file."""
    images: int = 0
    """Frames of videos included."""
    with_objects: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    _images: list[dict[str, Any]] = field(default_factory=list)
    _records: list[dict[str, Any]] = field(default_factory=list)
    _rows: list[tuple[Any, ...]] = field(default_factory=list)
    _video: VideoFile | None = None

    def add(self, frame: Frame, found: Detections) -> None:
        """Write what belongs to one image or frame."""
        if "pictures" in self.forms:
            self._draw(frame, found)
        if "yolo" in self.forms:
            text = yolo_lines(found, *frame.pixels.shape[:2])
            _write(self.folder / label_path(frame), text)
        if "coco" in self.forms:
            self._add_records(frame, found)
        if "csv" in self.forms:
            self._rows += csv_rows(frame, found)
        self.images += 1
        self.with_objects += len(found) > 0
        self.objects.update(found.counts)

    def close(self) -> None:
        """Finish the video that is open, and write what is told of all images together."""
        self._end_video()
        if not self.images:
            return
        if "coco" in self.forms:
            categories = [
                {"id": number, "name": name} for number, name in enumerate(self.class_names, 1)
            ]
            content = {
                "info": self.about,
                "images": self._images,
                "categories": categories,
                "annotations": self._records,
            }
            _write(self.folder / RESULTS, json.dumps(content))
        if "csv" in self.forms:
            table = io.StringIO(newline="")
            csv.writer(table).writerows([COLUMNS, *self._rows])
            _write(self.folder / TABLE, table.getvalue())
        if "yolo" in self.forms:
            _write(self.folder / "classes.txt", "".join(f"{name}\n" for name in self.class_names))

    def discard(self) -> None:
        """Remove the part of a video that was begun."""
        if self._video is not None:
            self._video.discard()
            self._video = None

    def _draw(self, frame: Frame, found: Detections) -> None:
        picture = found.plot(frame.pixels)
        path = self.folder / picture_path(frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        if frame.number is None:
            written = io.BytesIO()
            form = "JPEG" if path.suffix == ".jpg" else "PNG"
            picture.save(written, form, quality=95)
            replace_file(path, written.getvalue())
            return
        if self._video is None or self._video.path != path:
            self._end_video()
            self._video = VideoFile(path, picture.width, picture.height, frame.rate)
        self._video.add(np.asarray(picture))

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None

    def _add_records(self, frame: Frame, found: Detections) -> None:
        number = len(self._images) + 1
        height, width = frame.pixels.shape[:2]
        image = {"id": number, "file_name": frame.source.inside, "width": width, "height": height}
        if frame.number is not None:
            image["frame"] = frame.number
        self._images.append(image)
        for record in found.to_coco(number):
            area = record["bbox"][2] * record["bbox"][3]
            more = {"id": len(self._records) + 1, "area": area, "iscrowd": 0}
            self._records.append(record | more)


def picture_path(frame: Frame) -> Path:
    """Where the annotated picture of a frame, or the video that it is in, lies in the folder."""
    source = frame.source
    if frame.number is not None:
        return Path("pictures", f"{source.key}.mp4")
    jpeg = source.path is not None and source.path.suffix.lower() in (".jpg", ".jpeg")
    return Path("pictures", f"{source.key}{'.jpg' if jpeg else '.png'}")


def label_path(frame: Frame) -> Path:
    """Where the YOLO labels of a frame lie in the folder."""
    if frame.number is None:
        return Path("labels", f"{frame.source.key}.txt")
    return Path("frames", frame.source.key, f"{frame.number:06d}.txt")


def yolo_lines(found: Detections, height: int, width: int) -> str:
    """A line for each box: class, centre, size, as shares of the image, and score."""
    shares = found.xywh / np.array([width, height, width, height], np.float64)
    centres = shares[:, :2] + shares[:, 2:] / 2
    rows = np.concatenate([centres, shares[:, 2:], found.scores[:, None]], 1)
    return "".join(
        f"{label} {' '.join(f'{number:.6f}' for number in row)}\n"
        for label, row in zip(found.labels.tolist(), rows.tolist(), strict=True)
    )


def csv_rows(frame: Frame, found: Detections) -> list[tuple[Any, ...]]:
    """The rows of `COLUMNS`; boxes in pixels to a hundredth. None where nothing was found."""
    height, width = frame.pixels.shape[:2]
    number = "" if frame.number is None else frame.number
    return [
        (frame.source.name, number, width, height, name, f"{score:.5f}",
         *(f"{side:.2f}" for side in box))
        for name, score, box in zip(
            found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file's name may hold bytes that are no UTF-8.
    replace_file(path, text.encode(errors="backslashreplace"))
