"""A detector as one StableHLO program for CPU, CUDA and TPU at once (`jax.export`)."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Num

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file
from flaxyolo.deploy.batches import Batch, shape_of
from flaxyolo.nn.detector import Slots, TrainedDetector, detect_batch, fuse
from flaxyolo.nn.platform import traced_for

PLATFORMS = ("cpu", "cuda", "tpu")


def exported(detector: TrainedDetector, batch: Batch = 1) -> export.Exported:
    """`detect` with its weights inside: uint8 images (B, S, S, 3) to boxes, scores, labels, valid.

    Boxes are xyxy in input pixels, in 300 slots an image, as `Slots` has them. It runs in float32;
    what it is called with later needs JAX, but neither flaxyolo nor Flax.
    """
    spec = detector.spec
    weights = fuse(spec, detector.weights, jnp.float32)

    def found(images: Num[Array, "b s s 3"]) -> tuple[Array, Array, Array, Array]:
        slots: Slots = detect_batch(spec, weights, images, jnp.float32)
        return slots.boxes, slots.scores, slots.labels, slots.valid

    images = jax.ShapeDtypeStruct(shape_of(spec, batch), jnp.uint8)
    with traced_for(*PLATFORMS):
        return export.export(jax.jit(found), platforms=PLATFORMS)(images)


def write_stablehlo(detector: TrainedDetector, path: Path, batch: Batch = 1) -> Path:
    """Write the serialized program; `jax.export.deserialize(path.read_bytes()).call(images)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, bytes(exported(detector, batch).serialize()))
    return path


def read_stablehlo(path: Path) -> export.Exported:
    """The program of a file; InputError where it is none."""
    try:
        return export.deserialize(bytearray(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot read the program: {error.strerror}") from None
    except Exception as error:
        raise InputError(f"{path}: expected a serialized StableHLO program: {error}") from None
