"""Clients that know nothing of this project find in exported models what our detectors find."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from flaxyolo.deploy.bundles import BUNDLES
from flaxyolo.deploy.onnx import OnnxForm, write_onnx
from flaxyolo.deploy.openvino import write_openvino
from flaxyolo.deploy.quantize import write_int8
from flaxyolo.deploy.runners import RUNNERS, detections
from tests.deploy.learnt import IMAGES, NAMES, learnt

pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

pytestmark = pytest.mark.slow

SCORE = 0.25
FORMS = {"raw": OnnxForm(), "nms": OnnxForm(nms=True), "end2end": OnnxForm()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A detector and its file, for each form."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: (
            learnt(name == "end2end"),
            write_onnx(learnt(name == "end2end"), folder / name, form),
        )
        for name, form in FORMS.items()
    }


def corners(found):
    return np.concatenate([found.xywh[:, :2], found.xywh[:, :2] + found.xywh[:, 2:]], 1)


def check(detector, client, pixels=0.1, score=1e-4):
    """In every image the client's boxes, scores and labels are ours, the best first.

    Clients need not cut boxes off at the image's border, so this does.
    """
    objects = 0
    for image in IMAGES:
        mine = detector(image, min_score=SCORE)
        boxes, scores, labels = map(np.asarray, client(image))
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_allclose(scores[order], mine.scores, atol=score)
        np.testing.assert_array_equal(labels[order], mine.labels)
        inside = np.clip(boxes[order].reshape(-1, 4), 0, image.shape[0])
        np.testing.assert_allclose(inside, corners(mine), atol=pixels)
        objects += len(mine)
    assert objects >= len(IMAGES)


@pytest.mark.parametrize("form", FORMS)
def test_onnx_predictor_yolo(models, form):
    library = pytest.importorskip("onnx_predictor_yolo", reason="a client of the extra `dev`")
    detector, path = models[form]
    predictor = library.YoloPredictor(path, output_format="raw" if form == "raw" else "end2end")
    assert dict(predictor.names) == dict(enumerate(NAMES))

    def client(image):
        found = predictor.predict(image[..., ::-1].copy(), conf=SCORE, iou=0.7)
        found = found[0] if isinstance(found, list | tuple) else found
        return found.boxes, found.scores, found.class_ids

    check(detector, client)


@pytest.mark.parametrize("form", FORMS)
def test_yolonnx(models, form):
    services = pytest.importorskip("yolonnx.services", reason="a client of the extra `dev`")
    from yolonnx.to_tensor_strategies import PillowToTensorContainStrategy

    detector, path = models[form]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    library = services.Detector(session, PillowToTensorContainStrategy(), SCORE, 0.7)

    def client(image):
        found = library.run(Image.fromarray(image))
        boxes = [(one.x, one.y, one.x + one.width, one.y + one.height) for one in found]
        return boxes, [one.score for one in found], [NAMES.index(one.name) for one in found]

    if form != "raw":
        # Its boxes are whole pixels.
        return check(detector, client, pixels=2)
    # Its own suppression takes the hull of two boxes for what they share, so it keeps one at most
    # of those that our detector finds apart: the best.
    for image in IMAGES:
        mine, (boxes, scores, labels) = detector(image, min_score=SCORE), client(image)
        assert labels[0] == mine.labels[0]
        assert abs(scores[0] - mine.scores[0]) < 1e-4
        np.testing.assert_allclose(boxes[0], corners(mine)[0], atol=2)
    return None


@pytest.mark.parametrize("form", ["raw", "end2end"])
def test_opencv(models, form):
    detector, path = models[form]
    network = cv2.dnn.readNetFromONNX(str(path))

    def client(image):
        network.setInput(cv2.dnn.blobFromImage(image, 1 / 255))
        output = network.forward()[0]
        if form == "end2end":
            rows = output[output[:, 4] >= SCORE]
            return rows[:, :4], rows[:, 4], rows[:, 5]
        rows = output.T[output.T[:, 4:].max(1) >= SCORE]
        scores, labels = rows[:, 4:].max(1), rows[:, 4:].argmax(1)
        low, size = rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]
        boxes = np.concatenate([low, size], 1)
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, labels, SCORE, 0.7)
        kept = np.asarray(kept, int).reshape(-1)
        return np.concatenate([low, low + size], 1)[kept], scores[kept], labels[kept]

    check(detector, client)


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_openvino_model_api(models, tmp_path, suffix):
    library = pytest.importorskip("model_api.models", reason="a client of the extra `dev`")
    detector, path = models["raw"]
    if suffix == "xml":
        path = write_openvino(detector, tmp_path / "model.xml")
    settings = {"confidence_threshold": SCORE}
    model = library.Model.create_model(
        str(path), model_type="YOLOv8", configuration=settings, preload=True
    )
    if suffix == "xml":
        # It reads no names from an ONNX file.
        assert [name.replace("_", " ") for name in model.params.labels] == list(NAMES)

    def client(image):
        found = model(image[..., ::-1].copy())
        return found.bboxes, found.scores, found.labels

    # Its boxes are whole pixels, and OpenVINO computes in bfloat16 where a processor can.
    check(detector, client, pixels=2, score=0.02)


@pytest.mark.parametrize("engine", RUNNERS)
@pytest.mark.parametrize("form", FORMS)
def test_our_own_runners(models, engine, form):
    pytest.importorskip(engine, reason="the extra `export` is not installed")
    detector, path = models[form]
    runner = RUNNERS[engine](path)
    assert (runner.image_size, runner.end2end) == (64, form != "raw")

    def client(image):
        (found,) = detections(runner, image[None], [image.shape[:2]])
        found = found.part(found.scores >= SCORE)
        return corners(found), found.scores, found.labels

    check(detector, client)


def test_eight_bits_find_the_same_objects(tmp_path):
    detector = learnt()
    runner = RUNNERS["onnxruntime"](write_int8(detector, tmp_path / "model.onnx", IMAGES))

    def client(image):
        (found,) = detections(runner, image[None], [image.shape[:2]])
        found = found.part(found.scores >= SCORE)
        return corners(found), found.scores, found.labels

    check(detector, client, pixels=3, score=0.2)


def test_deepstream_bundle(tmp_path):
    files = BUNDLES["deepstream"](learnt(), tmp_path, OnnxForm())
    assert [path.name for path in files] == ["model.onnx", "labels.txt", "config_infer_primary.txt"]
    assert files[1].read_text() == "nut\nhex bolt\nwasher\n"
    assert "num-detected-classes=3\n" in files[2].read_text()
    (output,) = onnxruntime.InferenceSession(files[0]).get_outputs()
    assert output.shape == [1, 80, 6]


def test_frigate_bundle(tmp_path):
    files = BUNDLES["frigate"](learnt(), tmp_path, OnnxForm(nms=True))
    assert files[1].read_text() == "0 nut\n1 hex bolt\n2 washer\n"
    assert "model_type: yolo-generic" in files[2].read_text()
    (output,) = onnxruntime.InferenceSession(files[0]).get_outputs()
    assert output.shape == [1, 7, 80]


def test_roboflow_bundle(tmp_path):
    files = BUNDLES["roboflow"](learnt(), tmp_path, OnnxForm())
    names = ["weights.onnx", "class_names.txt", "model_config.json", "inference_config.json"]
    assert [path.name for path in files] == names
    told = json.loads(files[3].read_text())
    assert told["network_input"]["training_input_size"] == {"height": 64, "width": 64}
    assert told["post_processing"] == {"type": "nms", "fused": False}
