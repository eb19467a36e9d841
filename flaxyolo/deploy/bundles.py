"""Folders that other programs take as they are: the model with the files beside it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from flaxyolo.base.boxes import GREY
from flaxyolo.base.files import replace_file
from flaxyolo.deploy.onnx import OnnxForm, write_onnx
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.nn.nms import IOU_THRESHOLD, MAX_DETECTIONS, MIN_SCORE

Bundle = Callable[[TrainedDetector, Path, OnnxForm], list[Path]]


def roboflow(detector: TrainedDetector, folder: Path, form: OnnxForm) -> list[Path]:
    """A local package of Roboflow's inference-models: `AutoModel.from_pretrained(folder)`."""
    size, fused = detector.spec.image_size, form.nms or detector.spec.head.one_to_one
    inference: dict[str, Any] = {
        "network_input": {
            "training_input_size": {"height": size, "width": size},
            "dynamic_spatial_size_supported": False,
            "color_mode": "rgb",
            "resize_mode": "letterbox",
            "padding_value": GREY,
            "input_channels": 3,
            "scaling_factor": 255,
        },
        "forward_pass": {"static_batch_size": form.batch}
        if form.batch
        else {"max_dynamic_batch_size": 16},
        "post_processing": {"type": "nms", "fused": fused},
    }
    if fused:
        inference["post_processing"]["nms_parameters"] = {
            "max_detections": MAX_DETECTIONS, "confidence_threshold": MIN_SCORE,
            "iou_threshold": IOU_THRESHOLD, "class_agnostic": 0,
        }  # fmt: skip
    model = {"model_architecture": "yolov8", "task_type": "object-detection",
             "backend_type": "onnx"}  # fmt: skip
    return [
        write_onnx(detector, folder / "weights.onnx", form),
        _text(folder / "class_names.txt", lines(detector.class_names)),
        _text(folder / "model_config.json", json.dumps(model, indent=1) + "\n"),
        _text(folder / "inference_config.json", json.dumps(inference, indent=1) + "\n"),
    ]


def deepstream(detector: TrainedDetector, folder: Path, form: OnnxForm) -> list[Path]:
    """A model for the parser of DeepStream-Yolo (marcoslucianops), with its configuration.

    Its output is [B, N, 6] before suppression: corners, best score, class; the pipeline suppresses
    (`cluster-mode=2`), so suppression inside is left out.
    """
    spec = detector.spec
    settings = {
        "gpu-id": 0,
        "net-scale-factor": 0.0039215697906911373,
        "model-color-format": 0,
        "onnx-file": "model.onnx",
        "labelfile-path": "labels.txt",
        "batch-size": form.batch or 1,
        "network-mode": 2 if form.half else 0,
        "num-detected-classes": spec.num_classes,
        "interval": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 0,
        # Without suppression for a head that needs none.
        "cluster-mode": 4 if spec.head.one_to_one else 2,
        "maintain-aspect-ratio": 1,
        "symmetric-padding": 1,
        "parse-bbox-func-name": "NvDsInferParseYolo",
        "custom-lib-path": "nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so",
    }
    per_class = {"nms-iou-threshold": 0.45, "pre-cluster-threshold": 0.25, "topk": MAX_DETECTIONS}
    config = "".join(
        f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in rows.items()) + "\n"
        for title, rows in (("property", settings), ("class-attrs-all", per_class))
    )
    plain = replace(form, nms=False, best_class=True)
    return [
        write_onnx(detector, folder / "model.onnx", plain),
        _text(folder / "labels.txt", lines(detector.class_names)),
        _text(folder / "config_infer_primary.txt", config),
    ]


def frigate(detector: TrainedDetector, folder: Path, form: OnnxForm) -> list[Path]:
    """A raw model for Frigate's `yolo-generic`, its label map, and the lines for its settings."""
    size = detector.spec.image_size
    settings = {
        "detectors": {"onnx": {"type": "onnx"}},
        "model": {
            "model_type": "yolo-generic", "width": size, "height": size, "input_tensor": "nchw",
            "input_dtype": "float", "path": "/config/model_cache/model.onnx",
            "labelmap_path": "/config/model_cache/labelmap.txt",
        },
    }  # fmt: skip
    rows = "".join(
        f"{index} {name}\n" for index, name in enumerate(map(_one, detector.class_names))
    )
    return [
        write_onnx(detector, folder / "model.onnx", replace(form, nms=False, batch=1)),
        _text(folder / "labelmap.txt", rows),
        _text(folder / "frigate.yml", yaml.safe_dump(settings, sort_keys=False)),
    ]


BUNDLES: dict[str, Bundle] = {"roboflow": roboflow, "deepstream": deepstream, "frigate": frigate}


def lines(names: tuple[str, ...]) -> str:
    """A file of class names, a line each."""
    return "".join(f"{_one(name)}\n" for name in names)


def _one(name: str) -> str:
    """A name on one line, which is not empty."""
    return " ".join(name.split()) or "_"


def _text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text)
    return path
