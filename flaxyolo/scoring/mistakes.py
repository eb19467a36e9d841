"""The worst errors of each kind as small pictures with a sentence, ready for a page."""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.detections import xywh_to_xyxy
from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.sources import Example
from flaxyolo.scoring.diagnosis import Diagnosis
from flaxyolo.scoring.error_charts import describe, place_of, title_of, view, worst_errors
from flaxyolo.scoring.error_kinds import KINDS
from flaxyolo.spec import parse

EACH = 3
"""Pictures of a kind."""
SIDE = 200
"""Pixels of a picture's longer side."""
QUALITY = 85
FOUND, THERE, EDGE = (255, 140, 20), (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Mistake:
    """One error."""

    kind: str
    """One of KINDS."""
    where: str
    """The image by its name."""
    text: str
    jpeg: str
    """The part of the image around it, with the boxes, in base64."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def mistakes_from(data: object, where: str = "mistakes") -> tuple[Mistake, ...]:
    """What was stored as a list of `Mistake.to_dict`."""
    if not isinstance(data, list):
        raise InputError(f"{where}: expected a list of errors, got a {type(data).__name__}")
    return tuple(parse(Mistake, one, f"{where}: {place}") for place, one in enumerate(data))


def mistakes(
    diagnosis: Diagnosis, examples: Sequence[Example], each: int = EACH
) -> tuple[Mistake, ...]:
    """The best-scored wrong detections of each kind, and the largest objects that were missed.

    `examples` are the images that were judged, in their order.
    """
    case, single = diagnosis.case, diagnosis.single
    told = []
    for kind, name in enumerate(KINDS):
        for index in worst_errors(case, single, kind, each).tolist():
            example = examples[place_of(case, single, index)]
            image = decode(example.image, oriented=example.oriented)
            boxes = []
            if (found := int(single.found[index])) >= 0:
                boxes.append((xywh_to_xyxy(case.found.xywh[found]), FOUND))
            if (truth := int(single.truth[index])) >= 0:
                boxes.append((xywh_to_xyxy(case.truth.xywh[truth]), THERE))
            jpeg = base64.b64encode(_picture(image, boxes)).decode()
            told.append(Mistake(name, title_of(example), describe(case, single, index), jpeg))
    return tuple(told)


def _picture(
    image: UInt8[np.ndarray, "h w 3"], boxes: Sequence[tuple[np.ndarray, tuple[int, int, int]]]
) -> bytes:
    """The part of an RGB image around xyxy boxes, enlarged or reduced, with them, as a JPEG."""
    left, top, right, bottom = view(np.array([box for box, _ in boxes]), *image.shape[:2])
    part = image[top:bottom, left:right]
    scale = SIDE / max(part.shape[:2])
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    drawn = np.ascontiguousarray(cv2.resize(part, size, interpolation=how))
    for width, own in ((4, False), (2, True)):
        # The object's box a pixel outside the other's, so that both are seen where they coincide.
        for place, (box, colour) in enumerate(boxes):
            x0, y0, x1, y1 = np.round((box - [left, top, left, top]) * scale).astype(int).tolist()
            corners = (x0 - 2 * place, y0 - 2 * place), (x1 + 2 * place, y1 + 2 * place)
            cv2.rectangle(drawn, *corners, colour if own else EDGE, width)
    options = [int(cv2.IMWRITE_JPEG_QUALITY), QUALITY]
    return cv2.imencode(".jpg", drawn[:, :, ::-1], options)[1].tobytes()
