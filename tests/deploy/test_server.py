"""The server by its clients: right answers, one clear line where something is wrong, none lost."""

import asyncio
import json
import re
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress
from functools import partial

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from flaxyolo.base.exif import upright
from flaxyolo.deploy import server as server_module
from flaxyolo.deploy import uploads
from flaxyolo.deploy.service import Limits, Service, shares
from flaxyolo.deploy.uploads import prepare
from tests.deploy.learnt import learnt
from tests.deploy.serving import NAMES, picture, png, running, service_of, untrained

LONG = 60.0
KILO = 1000


LOW = 0.001
"""The least score that the network gives: what is not trained is sure of nothing."""


@pytest.fixture(scope="module")
def service():
    limits = {"max_bytes": 200 * KILO, "max_pixels": 1_000_000, "batch": 2, "min_score": LOW}
    return service_of(untrained(), **limits)


@pytest.fixture(scope="module")
def url(service):
    with running(service) as url:
        yield url


@pytest.fixture
def expected(service):
    """A function of an image: what the service's detector says."""
    return partial(answer_of, service.detector)


def answer_of(detector, pixels, min_score=LOW):
    """The answer to an image, but for the time."""
    found = detector(pixels, min_score=min_score)
    return {
        "detections": [
            {"box": box, "score": score, "class_name": name, "class_index": label}
            for box, score, name, label in zip(
                found.boxes.tolist(),
                found.scores.tolist(),
                found.names,
                found.labels.tolist(),
                strict=True,
            )
        ],
        "image": {"width": pixels.shape[1], "height": pixels.shape[0]},
    }


def assert_answers(response, wanted, exact=True):
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.pop("milliseconds") > 0
    if exact:
        assert answer == wanted
        return
    # A program for more images rounds otherwise.
    assert answer["image"] == wanted["image"]
    assert len(answer["detections"]) == len(wanted["detections"])
    for got, one in zip(answer["detections"], wanted["detections"], strict=True):
        assert got["class_index"] == one["class_index"]
        assert got["box"] == pytest.approx(one["box"], abs=0.02)
        assert got["score"] == pytest.approx(one["score"], abs=1e-4)


def sure_of(expected):
    """A score that cuts off some of what is found in the second image, and not all."""
    scores = [one["score"] for one in expected(picture(1, scale=3))["detections"]]
    assert scores[0] > scores[-1] > LOW
    return (scores[0] + scores[-1]) / 2


def test_a_form_is_answered_as_the_detector_answers(url, expected):
    pixels = picture(1, scale=3)
    for min_score in (None, sure_of(expected), 1.0):
        data = {} if min_score is None else {"min_score": str(min_score)}
        files = {"file": ("a.png", png(pixels), "image/png")}
        response = httpx.post(f"{url}/predict", files=files, data=data)
        assert_answers(response, expected(pixels, LOW if min_score is None else min_score))
    assert response.json()["detections"] == []


@pytest.mark.parametrize(
    "kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
def test_a_bare_body_is_answered(url, expected, kind):
    pixels, least = picture(1, scale=3), sure_of(expected)
    headers = {} if kind is None else {"Content-Type": kind}
    response = httpx.post(f"{url}/predict?min_score={least}", content=png(pixels), headers=headers)
    assert_answers(response, expected(pixels, least))


def test_a_turned_photograph_is_seen_upright(url, expected, tmp_path):
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3, scale=2)[:100]).save(path, exif=exif, quality=95)
    response = httpx.post(f"{url}/predict", content=path.read_bytes())
    seen = upright(cv2.cvtColor(cv2.imread(str(path), 128 | 1), cv2.COLOR_BGR2RGB), 6)
    assert response.json()["image"] == {"width": 100, "height": 128}
    assert_answers(response, expected(seen))


@pytest.mark.slow
def test_64_at_once_are_each_answered_with_their_own():
    pictures = [picture(number, scale=1 + number // 12) for number in range(64)]
    wanted = [answer_of(learnt(), one, 0.25) for one in pictures]
    assert sum(len(one["detections"]) for one in wanted) >= 64

    async def ask_all(url):
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=LONG) as client:
            asked = (client.post(f"{url}/predict", content=png(one)) for one in pictures)
            return await asyncio.gather(*asked)

    with running(service_of(learnt(), batch=8)) as url:
        for one, response in zip(wanted, asyncio.run(ask_all(url)), strict=True):
            assert_answers(response, one, exact=False)
        told = httpx.get(f"{url}/health").json()
    assert told["answered"] == 64
    assert told["refused"] == told["waiting"] == told["failed"] == told["cancelled"] == 0
    assert 8 <= told["batches"] <= 64


BROKEN = png(picture(0))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the body: expected an image (JPEG, PNG, "),
        (b"no image at all", "got 15 bytes that are none, or one that is cut off"),
        (BROKEN[: len(BROKEN) // 2], "that is cut off"),
        (BROKEN[:20], "that is cut off"),
        (png(np.zeros((1001, 1000, 3), np.uint8)), "at most 1 megapixels, got 1000 x 1001 pixels"),
    ],
    ids=["empty", "text", "half", "head", "many pixels"],
)
def test_what_is_no_image_is_told_in_a_line(url, content, says):
    response = httpx.post(f"{url}/predict", content=content)
    assert response.status_code == 400
    told = response.json()
    assert list(told) == ["detail"]
    assert says in told["detail"]
    assert "\n" not in told["detail"]


def bomb(side):
    """A black PNG of few bytes, all the same."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = zlib.compress(bytes(1 + side // 8) * side, 9)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [2000, 11_000, 20_000])
def test_few_bytes_of_many_pixels_are_refused_before_they_are_decoded(url, side, monkeypatch):
    content = bomb(side)
    assert len(content) < 100 * KILO
    monkeypatch.setattr(cv2, "imdecode", None)
    response = httpx.post(f"{url}/predict", content=content)
    assert response.status_code == 400
    assert response.json()["detail"].startswith("the body: expected at most 1 megapixels, got ")


def test_noise_in_a_file_is_never_a_fault_of_the_server(url):
    drawn = np.random.default_rng(0)
    sent = [cv2.imencode(kind, picture(0))[1].tobytes() for kind in
            (".png", ".jpg", ".bmp", ".webp", ".tiff", ".gif", ".ppm")]  # fmt: skip
    with httpx.Client() as client:
        for content in sent:
            for _ in range(6):
                bytes_ = bytearray(content)
                for place in drawn.integers(0, min(len(bytes_), 400), 8):
                    bytes_[place] = drawn.integers(256)
                assert client.post(f"{url}/predict", content=bytes(bytes_)).status_code in (
                    200,
                    400,
                )


@pytest.mark.parametrize("way", ["declared", "chunked", "form"])
@pytest.mark.parametrize("size", [200 * KILO + 17 * 1024, 700 * KILO])
def test_a_large_file_is_refused_and_the_client_hears_why(url, way, size):
    content = bytes(size)
    if way == "declared":
        given = {"content": content}
    elif way == "chunked":
        given = {"content": (content[place : place + 5000] for place in range(0, size, 5000))}
    else:
        given = {"files": {"file": content}}
    response = httpx.post(f"{url}/predict", **given)
    assert response.status_code == 413
    assert response.json() == {"detail": "expected an image of at most 0.2 MB, got more"}


def test_a_file_of_a_form_may_not_use_the_room_of_its_words(url):
    response = httpx.post(f"{url}/predict", files={"file": bytes(200 * KILO + 1)})
    assert response.status_code == 413
    response = httpx.post(f"{url}/predict", files={"file": bytes(200 * KILO)})
    assert response.status_code == 400


def test_a_body_without_an_end_is_not_read_without_end(url):
    given = 0

    def endless():
        nonlocal given
        while given < 100_000 * KILO:
            given += 64 * KILO
            yield bytes(64 * KILO)

    # It is not read to its end: whether the client hears why depends on the network's buffers.
    with suppress(httpx.TransportError):
        assert httpx.post(f"{url}/predict", content=endless()).status_code == 413
    assert given < 50_000 * KILO


def heard(url, *lines, body=b""):
    """What the server says to a head and a part of a body."""
    host, port = url.removeprefix("http://").split(":")
    head = "\r\n".join(["POST /predict HTTP/1.1", "Host: x", *lines, "", ""])
    with socket.create_connection((host, int(port)), timeout=LONG) as wire:
        wire.sendall(head.encode() + body)
        return wire.recv(1000).decode()


def test_who_asks_before_sending_hears_at_once(url):
    said = heard(url, "Content-Length: 1000000", "Expect: 100-continue")
    assert said.startswith("HTTP/1.1 413 ")
    assert heard(url, "Content-Length: 10", "Expect: 100-continue").startswith("HTTP/1.1 100 ")


def test_who_does_not_send_is_not_waited_for_for_ever(url, monkeypatch):
    monkeypatch.setattr(uploads, "READ_SECONDS", 0.1)
    said = heard(url, "Content-Length: 1000", body=b"x")
    assert said.startswith("HTTP/1.1 408 ")
    assert "connection: close" in said.lower()


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "says"),
    [
        ("GET", "predict", {}, 405, "Method Not Allowed"),
        ("POST", "health", {}, 405, "Method Not Allowed"),
        ("GET", "nothing", {}, 404, "Not Found"),
        ("POST", "predict", {"json": {}}, 415, "expected an image or a form (multipart/form-data)"),
        ("POST", "predict", {"files": {"a": b"", "b": b""}}, 400, "Too many files"),
        ("POST", "predict", {"files": {"a": (None, "x")}}, 400, "one image file, got a"),
        (
            "POST",
            "predict?min_score=2",
            {"content": BROKEN},
            422,
            "min_score: Input should be less",
        ),
        ("POST", "predict?min_score=nan", {"content": BROKEN}, 422, "min_score: Input should be"),
        ("POST", "predict?min_score=x", {"content": BROKEN}, 422, "min_score: Input should be a"),
        (
            "POST",
            "predict",
            {"files": {"file": BROKEN}, "data": {"min_score": "-1"}},
            422,
            "min_score: Input should be greater than or equal to 0, got '-1'",
        ),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_line(url, method, path, given, status, says):
    response = httpx.request(method, f"{url}/{path}", **given)
    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert says in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


def test_health_tells_what_is_served(url):
    before = httpx.get(f"{url}/health").json()
    httpx.post(f"{url}/predict", content=png(picture(0))).raise_for_status()
    assert httpx.post(f"{url}/predict", content=b"none").status_code == 400
    after = httpx.get(f"{url}/health").json()
    assert after["status"] == "ready"
    assert after["model"] == "runs/best"
    assert after["classes"] == list(NAMES)
    assert after["image_size"] == 64
    assert (after["max_bytes"], after["max_pixels"], after["batch"]) == (200_000, 1_000_000, 2)
    assert after["answered"] - before["answered"] == 1
    assert after["refused"] - before["refused"] == 1
    assert after["batches"] - before["batches"] == 1
    assert after["uptime_seconds"] > before["uptime_seconds"] > 0


class Held(Service):
    """A service whose detector waits until it may go on, and may fail."""

    def detect(self, images):
        HOLD.entered.release()
        assert HOLD.go_on.wait(LONG)
        HOLD.detected += len(images)
        if HOLD.fails:
            raise RuntimeError("a fault of the device")
        return super().detect(images)


class HOLD:
    entered = threading.Semaphore(0)
    go_on = threading.Event()
    detected = 0
    fails = False


@pytest.fixture
def held(service):
    HOLD.entered, HOLD.go_on, HOLD.detected = threading.Semaphore(0), threading.Event(), 0
    HOLD.fails = False
    with running(Held(service.detector, "held", service.limits)) as url:
        try:
            yield url
        finally:
            HOLD.go_on.set()


def until(url, **wanted):
    """Health, once it tells this."""
    for _ in range(int(LONG * 20)):
        told = httpx.get(f"{url}/health").json()
        if all(told[key] == value for key, value in wanted.items()):
            return told
        time.sleep(0.05)
    raise AssertionError(told)


async def three_of_which_one_leaves(url):
    async with httpx.AsyncClient(timeout=LONG) as client:

        def ask(number):
            return asyncio.ensure_future(
                client.post(f"{url}/predict", content=png(picture(number)))
            )

        first = ask(0)
        await asyncio.to_thread(HOLD.entered.acquire, True, LONG)
        leaving, staying = ask(1), ask(2)
        await asyncio.to_thread(until, url, waiting=2)
        leaving.cancel()
        await asyncio.to_thread(until, url, cancelled=1)
        HOLD.go_on.set()
        return await asyncio.gather(first, staying)


def test_who_leaves_is_not_worked_for_and_nothing_blocks_meanwhile(held, expected):
    first, staying = asyncio.run(three_of_which_one_leaves(held))
    assert_answers(first, expected(picture(0)))
    assert_answers(staying, expected(picture(2)))
    assert HOLD.detected == 2
    told = until(held, answered=2)
    assert (told["waiting"], told["failed"], told["refused"]) == (0, 0, 0)


def test_a_fault_is_told_and_the_next_is_answered(held, expected, caplog):
    HOLD.fails = True
    HOLD.go_on.set()
    response = httpx.post(f"{held}/predict", content=png(picture(0)))
    assert response.status_code == 500
    assert "a fault of the device" not in response.text
    for _ in range(int(LONG * 20)):  # it is logged after it is answered
        if "a fault of the device" in caplog.text:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the fault is not in the log")
    HOLD.fails = False
    assert_answers(httpx.post(f"{held}/predict", content=png(picture(0))), expected(picture(0)))
    until(held, answered=1, failed=1)


def test_what_has_come_is_finished_at_the_end(service, expected):
    HOLD.entered, HOLD.go_on, HOLD.fails = threading.Semaphore(0), threading.Event(), False
    answers = []
    with running(Held(service.detector, "held", service.limits)) as url:

        def ask():
            answers.append(httpx.post(f"{url}/predict", content=png(picture(4)), timeout=LONG))

        asking = threading.Thread(target=ask)
        asking.start()
        assert HOLD.entered.acquire(timeout=LONG)
        threading.Timer(0.3, HOLD.go_on.set).start()
    asking.join(LONG)
    assert_answers(answers[0], expected(picture(4)))


def test_too_many_at_once_are_asked_to_come_again(url, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_AT_ONCE", 0)
    response = httpx.post(f"{url}/predict", content=BROKEN)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    monkeypatch.undo()
    assert httpx.post(f"{url}/predict", content=BROKEN).status_code == 200


@pytest.mark.parametrize("path", ["", "docs", "page.js", "page.css"])
def test_pages_name_no_other_host(url, path):
    response = httpx.get(f"{url}/{path}")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert set(re.findall(r"(?:https?:)?//[\w.:-]+", response.text)) <= {url, url[5:]}


def test_the_page_of_the_api_tells_all_of_it(url):
    document = httpx.get(f"{url}/openapi.json").json()
    assert set(document["paths"]) == {"/predict", "/health"}
    assert json.dumps(document["paths"]["/predict"]["post"]["requestBody"]).count("binary") == 3
    told = httpx.get(f"{url}/docs").text
    fields = [
        key for one in document["components"]["schemas"].values() for key in one["properties"]
    ]
    statuses = document["paths"]["/predict"]["post"]["responses"]
    for word in ("POST /predict", "GET /health", "min_score", *fields, *statuses):
        assert f"<code>{word}</code>" in told
    assert f"{url}/predict" in told


@pytest.mark.parametrize(
    ("count", "on_cpu", "on_accelerator"),
    [(1, [1], [1]), (3, [2, 1], [4]), (5, [4, 1], [6]), (6, [6], [6]), (9, [6, 2, 1], [6, 4])],
)
def test_batches_have_sizes_that_are_compiled(service, count, on_cpu, on_accelerator):
    sizes = Service(service.detector, "x", Limits(batch=6)).sizes
    assert sizes == (1, 2, 4, 6)
    assert shares(count, sizes, fill=False) == on_cpu
    assert shares(count, sizes, fill=True) == on_accelerator
    assert Service(service.detector, "x", Limits(batch=1)).sizes == (1,)


def test_a_batch_that_is_filled_up_gives_as_many_as_were_asked_for(service, monkeypatch):
    numbers = (0, 1, 2)
    prepared = [prepare(png(picture(number)), "x", 64, 10_000) for number in numbers]
    split = service.detect(prepared)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    filled = service.detect(prepared)
    assert len(split) == len(filled) == 3
    for number, *both in zip(numbers, split, filled, strict=True):
        best = service.detector(picture(number), min_score=LOW).scores[0]
        assert [one.scores[0] for one in both] == pytest.approx([best, best], abs=1e-5)
