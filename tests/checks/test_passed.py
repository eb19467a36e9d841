"""Checks that have passed are not run again on the same, and are on anything else."""

import logging
from dataclasses import replace

import pytest

from flaxyolo.checks import passed
from flaxyolo.checks.check import Check
from flaxyolo.checks.passed import place_of, read_passed, write_passed
from flaxyolo.checks.run import COSTLY, preflight
from tests.checks.scenes import CONFIG, NAMES, scenes, with_boxes
from tests.small import tiny_feed, tiny_spec

FEED = tiny_feed()
CHECK = Check("memory", True, "enough", seconds=1.5, step_seconds=0.2)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path))


def place(**changes):
    given = {
        "spec": tiny_spec(),
        "feed": FEED,
        "class_names": NAMES,
        "config": CONFIG,
        "fingerprint": "data",
    }
    return place_of(**{**given, **changes})


def test_what_was_written_is_read():
    write_passed(place(), {"memory": CHECK})
    assert read_passed(place()) == {"memory": CHECK}


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": tiny_spec(num_classes=4)},
        {"feed": tiny_feed(11)},
        {"class_names": NAMES[::-1]},
        {"config": replace(CONFIG, batch_size=5)},
        {"config": replace(CONFIG, class_gain=0.0)},
        {"fingerprint": "other"},
        {"teacher": "big"},
    ],
)
def test_nothing_is_known_of_another_run(changes):
    write_passed(place(), {"memory": CHECK})
    assert place(**changes) != place()
    assert read_passed(place(**changes)) == {}


def test_nothing_is_known_to_other_code(monkeypatch):
    before = place()
    monkeypatch.setattr(passed, "code_digest", lambda: "other")
    assert place() != before


def test_a_damaged_file_is_no_evidence(caplog):
    write_passed(place(), {"memory": CHECK})
    for text in ("[{", '[{"name": 1}]', "7"):
        place().write_text(text)
        assert read_passed(place()) == {}
    assert "is damaged" in caplog.text


def fly(dataset, feed, **more):
    seen = []
    done = preflight(
        tiny_spec(), feed, dataset.train, NAMES, CONFIG, skip=COSTLY, report=seen.append, **more
    )
    return done, [check.name for check in seen]


def test_the_second_time_only_what_failed_is_run_again(tmp_path, caplog):
    from flaxyolo.data.feeds import Resident
    from tests.checks.scenes import pixels_of

    dataset = scenes()
    feed = Resident(pixels_of(dataset, tmp_path / "sound"))
    first, seen = fly(dataset, feed, fingerprint="scenes")
    assert seen == ["labels", "objects", "transforms", "shapes"]
    with caplog.at_level(logging.INFO, logger="flaxyolo"):
        again, seen = fly(dataset, feed, fingerprint="scenes")
    assert seen == []
    assert again == first
    assert "not run again: labels, objects, transforms, shapes" in caplog.text
    assert fly(dataset, feed)[1] == ["labels", "objects", "transforms", "shapes"]

    wrong = with_boxes(dataset, lambda boxes: boxes[:, [1, 0, 3, 2]])
    bad = Resident(pixels_of(wrong, tmp_path / "wrong"))
    for _ in range(2):
        done, seen = fly(wrong, bad, fingerprint="wrong")
        assert seen == ["labels"]
        assert not done[-1].passed
