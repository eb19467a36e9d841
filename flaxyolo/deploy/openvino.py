"""A detector in OpenVINO's own form: `NAME.xml` beside `NAME.bin`."""

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flaxyolo.base.boxes import GREY
from flaxyolo.deploy.onnx import PLAIN, OnnxForm, metadata, needs, write_onnx
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.nn.nms import IOU_THRESHOLD

MODEL_API = {
    "model_type": "YOLOv8",
    "resize_type": "fit_to_window_letterbox",
    "pad_value": GREY,
    "scale_values": 255,
    "reverse_input_channels": True,
    "iou_threshold": IOU_THRESHOLD,
}
"""What the client openvino-model-api asks of a model; its images are BGR, as OpenCV reads them."""


def openvino_library() -> Any:
    """The library, imported without its telemetry; InputError where it is not here.

    Telemetry would fork this process, in which JAX has threads, to report the import.
    """
    needs("openvino")
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def write_openvino(detector: TrainedDetector, path: Path, form: OnnxForm = PLAIN) -> Path:
    """Write `path` (xml) and its bin, from the ONNX form; both are whole or not there."""
    needs("onnx")
    openvino = openvino_library()
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        source = write_onnx(detector, Path(folder) / "model.onnx", form)
        model: Any = openvino.Core().read_model(str(source))
        told = metadata(detector, form)
        for key, value in told.items():
            if not key.startswith("model_info"):
                model.set_rt_info(value, ["framework", key])
        for key, value in {**MODEL_API, "labels": told["model_info labels"]}.items():
            model.set_rt_info(str(value), ["model_info", key])
        made = Path(folder) / path.name
        openvino.save_model(model, str(made), compress_to_fp16=form.half)
        for suffix in (".bin", ".xml"):
            made.with_suffix(suffix).replace(path.with_suffix(suffix))
    return path
