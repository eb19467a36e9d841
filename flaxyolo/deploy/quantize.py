"""Weights and activations in 8 bits, by onnxruntime, calibrated on training images."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich.progress import track

from flaxyolo.base import cli
from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.data.cache import Pixels
from flaxyolo.data.feeds import open_pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.deploy.onnx import INPUT, PLAIN, OnnxForm, needs, write_onnx
from flaxyolo.deploy.runners import Runner, as_input, detect_all, onnxruntime_runner
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.scoring.average_precision import Scores, coco_scores
from flaxyolo.scoring.truth import ground_truth

log = logging.getLogger(__name__)

IMAGES = 64
"""Images that activations are calibrated on."""


class Cost(NamedTuple):
    """Average precision on the validation images, both on onnxruntime."""

    float32: Scores
    int8: Scores


class Reader:
    """Calibration images as onnxruntime asks for them, one at a time."""

    def __init__(self, images: UInt8[np.ndarray, "n s s 3"]):
        self._left: Iterator[Any] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next image as an input; None at the end."""
        image = next(self._left, None)
        return None if image is None else {INPUT: as_input(image[None])}


def write_int8(
    detector: TrainedDetector,
    path: Path,
    images: UInt8[np.ndarray, "n s s 3"],
    form: OnnxForm = PLAIN,
) -> Path:
    """Write the model with its convolutions in 8 bits (QDQ, weights by channel).

    Decoding stays in float32: boxes in pixels and scores in 0..1 do not fit one scale. `images` are
    letterbox images of the training data.
    """
    needs("onnx", "onnxruntime")
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        source, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        write_onnx(detector, source, form)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(made),
            Reader(images),  # type: ignore[arg-type]
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        _with_metadata(source, made)
        made.replace(path)
    return path


def _with_metadata(source: Path, made: Path) -> None:
    """Copy what clients ask for, which quantizing may lose."""
    import onnx

    old, new = onnx.load(str(source)), onnx.load(str(made))
    onnx.helper.set_model_props(new, {each.key: each.value for each in old.metadata_props})
    onnx.save(new, str(made))


def write_with_cost(
    detector: TrainedDetector, path: Path, data: Dataset, form: OnnxForm = PLAIN
) -> Cost:
    """Write the int8 model, calibrated on images of `data`, and score it beside the float32 one."""
    if tuple(data.class_names) != detector.class_names:
        raise InputError(
            f"expected data with the classes of the checkpoint, {', '.join(detector.class_names)}; "
            f"got {', '.join(data.class_names)}"
        )
    size = detector.spec.image_size
    pixels = open_pixels(data, "train", size).images
    chosen = np.linspace(0, len(pixels) - 1, min(IMAGES, len(pixels))).astype(int)
    log.info("calibrating on %d training images", len(chosen))
    write_int8(detector, path, np.stack([np.asarray(pixels[index]) for index in chosen]), form)
    val = open_pixels(data, "val", size)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        plain = write_onnx(detector, Path(folder) / "model.onnx", form)
        scores = (_scores(onnxruntime_runner(model), data, val) for model in (plain, path))
        return Cost(*scores)


def _scores(runner: Runner, data: Dataset, val: Pixels) -> Scores:
    shapes = [(example.height, example.width) for example in data.val]
    found = track(
        detect_all(runner, val.images, shapes),
        description="detecting",
        total=len(shapes),
        console=cli.CONSOLE,
        transient=True,
        disable=not cli.CONSOLE.is_terminal,
    )
    truth = ground_truth(data.val, data.class_names, data.category_ids)
    return coco_scores(truth, Detections.joined(list(found)))
