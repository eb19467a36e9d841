"""Box formats, overlap, anchor points and the letterbox."""

from typing import NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

GREY = 114
"""What lies outside a picture, as in every YOLO since v5."""


class Letterbox(NamedTuple):
    """Original pixels to network input: `x_input = x * scale_x + pad_x`."""

    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int
    width: int
    """Width of the picture inside the square, in input pixels."""
    height: int


def letterbox(height: int, width: int, size: int) -> Letterbox:
    """Fit a `height` x `width` image centred into a square of `size`, keeping its shape."""
    ratio = size / max(height, width)
    inner_width, inner_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    return Letterbox(
        scale_x=inner_width / width,
        scale_y=inner_height / height,
        pad_x=(size - inner_width) // 2,
        pad_y=(size - inner_height) // 2,
        width=inner_width,
        height=inner_height,
    )


def letterbox_image(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 image (h, w, 3), resized and centred on GREY in a `size` x `size` square."""
    box = letterbox(image.shape[0], image.shape[1], size)
    square = np.full((size, size, 3), GREY, np.uint8)
    inner = cv2.resize(image, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
    square[box.pad_y : box.pad_y + box.height, box.pad_x : box.pad_x + box.width] = inner
    return square


def letterbox_boxes(boxes: np.ndarray, box: Letterbox) -> np.ndarray:
    """xyxy boxes (n, 4) of the original image, in pixels of the network input."""
    scale = np.array([box.scale_x, box.scale_y] * 2, np.float32)
    return boxes * scale + np.array([box.pad_x, box.pad_y] * 2, np.float32)


def unletterbox_boxes(boxes: np.ndarray, box: Letterbox, height: int, width: int) -> np.ndarray:
    """xyxy boxes (n, 4) of the network input, in original pixels, clipped to the image."""
    scale = np.array([box.scale_x, box.scale_y] * 2, np.float32)
    original = (boxes - np.array([box.pad_x, box.pad_y] * 2, np.float32)) / scale
    return np.clip(original, 0, np.array([width, height] * 2, np.float32))


def anchor_points(image_size: int, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Cell centres of all levels: (a, 2) as x, y in input pixels, and their strides (a,)."""
    points, steps = [], []
    for stride in strides:
        centres = (np.arange(image_size // stride, dtype=np.float32) + 0.5) * stride
        y, x = np.meshgrid(centres, centres, indexing="ij")
        points.append(np.stack([x.ravel(), y.ravel()], -1))
        steps.append(np.full(x.size, stride, np.float32))
    return np.concatenate(points), np.concatenate(steps)


def ltrb_to_xyxy(
    distances: Float[Array, "*n 4"], points: Float[Array, "*#n 2"]
) -> Float[Array, "*n 4"]:
    """Boxes from the distances of a point to the four sides, all in the same unit."""
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], -1)


def xyxy_to_ltrb(
    boxes: Float[Array, "*n 4"], points: Float[Array, "*#n 2"]
) -> Float[Array, "*n 4"]:
    """Distances of a point to the four sides of a box, all in the same unit."""
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def intersection(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Area that pairs of xyxy boxes share; broadcasts."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    size = jnp.maximum(high - low, 0)
    return size[..., 0] * size[..., 1]


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Area of xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
