import json
import pickle
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from flaxyolo.base.detections import (
    Detections,
    check_boxes,
    check_places,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from flaxyolo.base.errors import InputError
from flaxyolo.base.picture import Picture


def made(count=3, image=0):
    boxes = np.arange(4 * count, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)
    return Detections.from_corners(
        boxes, scores, np.arange(count, dtype=np.int32), np.full(count, image)
    )


def test_corners_become_left_top_width_height():
    boxes = np.array([[1, 2, 4, 8]], np.float32)
    assert xyxy_to_xywh(boxes).tolist() == [[1, 2, 3, 6]]
    assert xywh_to_xyxy(xyxy_to_xywh(boxes)).tolist() == boxes.tolist()
    assert xyxy_to_xywh(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_corners_in_float32_come_back_to_the_bit():
    random = np.random.default_rng(0)
    # From a billionth of a pixel to a large image: also sizes that float64 has to round.
    ends = np.sort(10 ** random.uniform(-9, 4, (20_000, 2, 2)), 1).astype(np.float32)
    boxes = ends.reshape(-1, 4)
    found = Detections.from_corners(
        boxes, np.zeros(len(boxes), np.float32), np.zeros(len(boxes), np.int32)
    )
    assert found.boxes.dtype == np.float32
    np.testing.assert_array_equal(found.boxes, boxes)


def test_a_part_keeps_the_columns_together():
    found = made()
    for chosen in (found.scores < 0.8, np.array([1, 2])):
        part = found.part(chosen)
        np.testing.assert_array_equal(part.boxes, found.boxes[1:])
        assert (len(part), part.labels.tolist()) == (2, [1, 2])
        assert part.scores.dtype == np.float32


def test_each_has_the_name_of_its_class():
    assert made(3).names == ("0", "1", "2")
    named = replace(made(3), class_names=("cat", "dog", "cow"))
    assert named.names == ("cat", "dog", "cow")
    assert named.part(named.scores < 0.8).names == ("dog", "cow")
    assert Detections.joined([named, named]).names == ("cat", "dog", "cow") * 2
    assert Detections.joined([]).names == ()


def test_images_are_joined_and_taken_apart():
    joined = Detections.joined([made(2), made(0), made(3, image=7)])
    assert joined.image.tolist() == [0, 0, 2, 2, 2]
    assert joined.labels.tolist() == [0, 1, 0, 1, 2]
    assert joined.scores.dtype == np.float32
    np.testing.assert_array_equal(joined.part(joined.image == 2).boxes, made(3).boxes)
    assert len(Detections.joined([])) == 0


GOOD = {
    "xywh": np.array([[0.0, 0, 5, 5], [1, 1, 5, 5]]),
    "scores": np.array([0.5, 0.4]),
    "labels": np.array([0, 1]),
    "image": np.array([0, 0]),
}


@pytest.mark.parametrize(
    ("check", "says"),
    [
        # Called themselves: in tests the annotated shapes of the columns are checked first.
        (lambda: check_boxes("x", np.zeros((2, 5))), r"boxes of shape \(n, 4\), got \(2, 5\)"),
        (
            lambda: check_boxes("x", np.zeros((2, 4)), scores=np.zeros(3)),
            r"scores of 2 boxes, got shape \(3,\)",
        ),
        (
            lambda: check_places("x", 2, labels=np.zeros((2, 1), int)),
            r"labels of 2 boxes, got shape \(2, 1\)",
        ),
        (lambda: check_places("x", 2, image=np.array([0.0, 1.0])), "image as integers from 0 on"),
        (
            lambda: Detections(**GOOD | {"labels": np.array([0, -1])}),
            "labels as integers from 0 on",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(check, says):
    with pytest.raises(ValueError, match=f": expected {says}"):
        check()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"xywh": np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]])}, "a box of 4 finite numbers"),
        ({"xywh": np.array([[0, 0, 1, 1], [0, 0, 1, -1.0]])}, "no negative size"),
        ({"scores": np.array([0.5, np.inf])}, "finite scores, got inf"),
    ],
)
def test_what_is_no_number_is_named_with_its_row(change, says):
    with pytest.raises(InputError, match=f"detections: row 1: expected .*{says}"):
        Detections(**GOOD | change)


def named(count=3):
    return replace(made(count), class_names=("cat", "dog", "<b>cow</b>"))


def test_they_are_told_in_a_line():
    assert repr(made(0)) == "<no detections>"
    assert repr(made(1)) == "<1 detection: 0 (1); best score 0.90>"
    several = Detections.joined([named(), named(2)])
    assert repr(several) == "<5 detections: cat (2), dog (2), <b>cow</b> (1); best score 0.90>"
    assert list(several.counts) == ["cat", "dog", "<b>cow</b>"]


def test_coco_results_have_the_ids_that_are_given():
    assert named(1).to_coco() == [
        {"image_id": 0, "category_id": 1, "bbox": [0.0, 1.0, 2.0, 2.0], "score": pytest.approx(0.9)}
    ]
    both = Detections.joined([named(1), named(2)])
    records = both.to_coco([7, "b"], (3, 17, 5))
    assert [(one["image_id"], one["category_id"]) for one in records] == [
        (7, 3),
        ("b", 3),
        ("b", 17),
    ]
    json.dumps(records)
    with pytest.raises(InputError, match="image_id for 2, got 1"):
        both.to_coco(7)
    with pytest.raises(InputError, match="category_ids for 2, got 1"):
        both.to_coco([7, 8], (3,))


def test_coco_results_come_back_by_pycocotools(tmp_path):
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}], "categories": [{"id": 3}, {"id": 17}, {"id": 5}]}
    truth.createIndex()
    loaded = truth.loadRes(named().to_coco(7, (3, 17, 5)))
    assert [one["bbox"] for one in loaded.anns.values()] == named().xywh.tolist()


def test_boxes_are_drawn_in_the_pixels_of_the_image():
    image = np.zeros((60, 90, 3), np.uint8)
    found = Detections.from_corners(
        np.array([[20, 30, 70, 50]], np.float32), np.array([0.5]), np.array([1])
    )
    picture = found.plot(image)
    assert picture.size == (90, 60)
    drawn = np.asarray(picture).any(-1)
    assert drawn[30, 20:71].all()
    assert drawn[30:51, 70].all()
    assert not drawn[33:48, 23:67].any()
    assert not image.any()
    assert not np.asarray(made(0).plot(image)).any()


@pytest.mark.parametrize("name", ["$5 and $10", "螺丝 🔩", "x" * 300, "", "two\nlines"])
@pytest.mark.parametrize("side", [1, 8, 3000])
def test_any_name_is_drawn_on_any_picture(name, side):
    found = Detections.from_corners(
        np.array([[-5, -5, side + 5, side + 5], [side / 2, side - 1, side, side]], np.float32),
        np.array([0.5, 0.9]),
        np.array([0, 0]),
    )
    picture = replace(found, class_names=(name,)).plot(np.zeros((side, side, 3), np.uint8))
    assert picture.size == (side, side)


def test_those_of_several_images_are_not_drawn_on_one():
    several = Detections.joined([named(), named()])
    with pytest.raises(InputError, match="expected detections of one image to plot"):
        several.plot(np.zeros((9, 9, 3), np.uint8))
    assert "<img" not in several._repr_html_()


def test_a_notebook_shows_picture_and_table_with_names_as_they_are_written(tmp_path):
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    found = replace(named(), picture=Picture(path))
    html = found._repr_html_()
    assert "&lt;b&gt;cow&lt;/b&gt;</td><td>0.10</td>" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 4
    assert 'src="data:image/png;base64,' in html
    # A file that is gone leaves the table.
    path.unlink()
    assert "<img" not in found._repr_html_()
    assert "and 15 more" in made(25)._repr_html_()
    assert made(0)._repr_html_() == "<div>&lt;no detections&gt;</div>"


def test_they_can_be_sent_to_another_process(tmp_path):
    image = np.zeros((30, 40, 3), np.uint8)
    sent = pickle.loads(pickle.dumps(replace(named(), picture=Picture(image))))
    np.testing.assert_array_equal(sent.boxes, named().boxes)
    assert sent.picture.pixels() is None


def test_an_image_is_not_kept_alive():
    image = np.zeros((30, 40, 3), np.uint8)
    picture = Picture(image)
    assert picture.pixels() is not None
    del image
    assert picture.pixels() is None


def test_supervision_has_the_same_columns():
    supervision = pytest.importorskip("supervision")
    for count in (3, 0):
        found = named(count).to_supervision()
        assert isinstance(found, supervision.Detections)
        assert len(found) == count
        np.testing.assert_array_equal(found.xyxy, made(count).boxes)
        assert list(found["class_name"]) == list(named(count).names)
    assert supervision.Detections.merge([named().to_supervision(), found]).class_id.tolist() == [
        0, 1, 2,
    ]  # fmt: skip


def test_without_supervision_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match=r"pip install supervision$") as caught:
        named().to_supervision()
    assert "\n" not in str(caught.value)
