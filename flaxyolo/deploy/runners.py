"""Exported models run: letterboxed uint8 images in, the same detections as `detect` out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.deploy.onnx import INPUT, needs
from flaxyolo.deploy.openvino import openvino_library
from flaxyolo.nn.detector import Slots, in_original
from flaxyolo.nn.nms import MAX_DETECTIONS, batched_nms

Run = Callable[[Float[np.ndarray, "b 3 s s"]], Float[np.ndarray, "..."]]


class Runner(NamedTuple):
    """A model that an engine has loaded."""

    engine: str
    run: Run
    image_size: int
    end2end: bool
    """Whether its output is [B, 300, 6] already."""

    def __call__(self, images: UInt8[np.ndarray, "b s s 3"]) -> Float[np.ndarray, "..."]:
        """The model's output for letterboxed images."""
        return self.run(as_input(images))


def as_input(images: UInt8[np.ndarray, "b s s 3"]) -> Float[np.ndarray, "b 3 s s"]:
    """What the models take: float32 in 0..1, channels first."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def onnxruntime_runner(path: Path, threads: int = 0) -> Runner:
    """A model on onnxruntime's CPU provider; 0 threads are as many as it likes."""
    needs("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would go on spinning after a call, and slow whatever is timed in turn with it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise InputError(f"{path}: onnxruntime does not take the model: {error}") from None
    (output,) = session.get_outputs()
    size = session.get_inputs()[0].shape[-1]

    def run(images: Any) -> Any:
        return session.run(None, {INPUT: images})[0]

    return Runner("onnxruntime", run, size, tuple(output.shape[1:]) == (MAX_DETECTIONS, 6))


def openvino_runner(path: Path, threads: int = 0) -> Runner:
    """A model (.onnx or .xml) on OpenVINO's CPU device, tuned for the latency of one image."""
    openvino = openvino_library()
    core: Any = openvino.Core()
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core.compile_model(core.read_model(str(path)), "CPU", config)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: openvino does not take the model: {line}") from None
    request, shape = model.create_infer_request(), model.output(0).partial_shape

    def run(images: Any) -> Any:
        return request.infer([images], share_inputs=True)[model.output(0)]

    end2end = str(shape[1]) == str(MAX_DETECTIONS) and str(shape[2]) == "6"
    size = model.input(0).partial_shape[3].get_length()
    return Runner("openvino", run, size, end2end)


RUNNERS: dict[str, Callable[..., Runner]] = {
    "onnxruntime": onnxruntime_runner,
    "openvino": openvino_runner,
}


def detections(
    runner: Runner,
    images: UInt8[np.ndarray, "b s s 3"],
    shapes: Sequence[tuple[int, int]],
) -> list[Detections]:
    """The detections of letterboxed images in pixels of their originals of these shapes (h, w)."""
    output = runner(images)
    found = _rows(output) if runner.end2end else _suppressed(output)
    return in_original(Slots(*found), shapes, runner.image_size)


def _rows(output: Any) -> Any:
    """Boxes, scores, labels and validity of an end2end output [B, 300, 6]."""
    scores = output[..., 4]
    return output[..., :4], scores, output[..., 5].astype(np.int32), scores > 0


@jax.jit
def _suppressed(output: Any) -> Any:
    """Class-wise NMS of a raw output [B, 4 + classes, N]."""
    rows = output.transpose(0, 2, 1)
    centres, half = rows[..., :2], rows[..., 2:4] / 2
    boxes = jax.numpy.concatenate([centres - half, centres + half], -1)
    return batched_nms(rows[..., 4:], boxes)


def detect_all(
    runner: Runner, images: Any, shapes: Sequence[tuple[int, int]]
) -> Iterator[Detections]:
    """The detections of many letterboxed images, one at a time."""
    for index, shape in enumerate(shapes):
        yield from detections(runner, np.asarray(images[index : index + 1]), [shape])
