"""The benchmark of the server counts what is right, wrong and lost."""

import copy

import httpx
import pytest

from benchmarks import serving as benchmark
from tests.deploy.serving import picture, png, running, service_of, untrained

WANTED = {
    "image": {"width": 64, "height": 64},
    "detections": [{"box": [1.0, 2.0, 30.0, 40.0], "score": 0.9, "class_index": 1}],
}


def changed(**changes):
    answer = copy.deepcopy(WANTED)
    answer["detections"][0] |= changes
    return answer


def test_an_answer_is_right_where_all_that_is_clear_is_found():
    assert benchmark.alike(WANTED, WANTED)
    assert benchmark.alike(changed(box=[1.2, 2.0, 30.0, 40.0], score=0.8), WANTED)
    assert not benchmark.alike(changed(box=[2.0, 2.0, 30.0, 40.0]), WANTED)
    assert not benchmark.alike(changed(class_index=2), WANTED)
    assert not benchmark.alike(WANTED | {"detections": []}, WANTED)
    assert not benchmark.alike(WANTED | {"image": {"width": 64, "height": 65}}, WANTED)
    assert benchmark.alike(WANTED | {"detections": []}, changed(score=0.27))


@pytest.mark.slow
def test_all_requests_of_several_clients_are_counted(monkeypatch):
    images = [png(picture(number)) for number in range(3)]
    with running(service_of(untrained(), batch=2, min_score=0.001)) as url:
        row = benchmark.measure(url, images, 3, 20)
        assert (row["requests"], row["lost"], row["wrong"]) == (20, 0, 0)
        assert 1 <= row["images_in_a_batch"] <= 2
        assert row["per_second"] > 0
        ask, seen = benchmark.ask, []

        def sometimes(client, image):
            seen.append(image)
            return None if len(seen) in (5, 9) else ask(client, image)

        monkeypatch.setattr(benchmark, "ask", sometimes)
        row = benchmark.measure(url, images, 2, 10)
        assert (row["requests"], row["lost"]) == (10, 2)


def test_what_is_refused_is_no_answer():
    refusing = httpx.MockTransport(lambda _: httpx.Response(503, json={"detail": "busy"}))
    with httpx.Client(base_url="http://x", transport=refusing) as client:
        assert benchmark.ask(client, b"") is None
