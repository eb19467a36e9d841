import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.readers import scenes
from flaxyolo.data.readers.scene_objects import (
    BRIGHTNESS,
    CONTRASTS,
    FULL,
    SIDE,
    VISIBLE,
    colour_of,
    ious,
)
from flaxyolo.data.readers.scenes import (
    CLASS_NAMES,
    FULL_AREA,
    Scene,
    draw_scene,
    rendered,
    sources_of,
)
from flaxyolo.data.sources import read_dataset


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    """A tenth of the training scenes."""
    sources = sources_of("train")
    return [draw_scene("train", sources, index) for index in range(200)]


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Nine scenes, and a cache of their own."""
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path))
    monkeypatch.setattr(scenes, "SCENES", {"train": 6, "val": 3})
    return tmp_path


def sides(scene: Scene) -> np.ndarray:
    return scene.boxes[:, 2:] - scene.boxes[:, :2]


def test_a_scene_depends_on_its_split_and_number_alone(drawn):
    again = draw_scene("train", sources_of("train"), 7)
    for one, other in zip(drawn[7][:4], again[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(drawn[6].image, drawn[7].image)
    held_out = draw_scene("val", sources_of("val"), 7)
    assert not np.array_equal(drawn[7].image, held_out.image)


def test_boxes_lie_inside_their_scene_with_at_least_one_object(drawn):
    for scene in drawn:
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert scene.image.dtype == np.uint8
        assert 1 <= len(scene.boxes) == len(scene.labels) == len(scene.layers)
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= SIDE
        assert sides(scene).min() >= 1
        assert 0 <= scene.labels.min() <= scene.labels.max() < len(CLASS_NAMES)


def test_without_an_object_nothing_outside_its_box_is_different(drawn):
    exact = []
    for scene in drawn[:25]:
        np.testing.assert_array_equal(rendered(scene.backdrop, scene.layers), scene.image)
        for place, box in enumerate(scene.boxes.astype(int)):
            others = scene.layers[:place] + scene.layers[place + 1 :]
            changed = (rendered(scene.backdrop, others) != scene.image).any(-1)
            rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
            seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (seen[:2] >= box[:2]).all()
            assert (seen[2:] <= box[2:]).all()
            exact.append((seen == box).mean())
    # A side may have the colour of what is beneath, or be all but covered.
    assert np.mean(exact) > 0.95


def test_every_object_is_mostly_visible_and_some_are_partly_covered(drawn):
    shares = []
    for scene in drawn[:100]:
        above = np.zeros((SIDE, SIDE), bool)
        for layer in reversed(scene.layers):
            x1, y1, x2, y2 = layer.box
            mask = layer.cover > 0
            shares.append((mask & ~above[y1:y2, x1:x2]).sum() / mask.sum())
            above[y1:y2, x1:x2] |= layer.cover == FULL
    assert min(shares) >= VISIBLE
    assert 0.03 < np.mean(np.array(shares) < 0.99) < 0.5


def test_boxes_overlap_by_a_bounded_part(drawn):
    largest = []
    for scene in drawn:
        overlaps = [ious(box, scene.boxes) for box in scene.boxes]
        largest.append(max(np.sort(row)[-2] if len(row) > 1 else 0 for row in overlaps))
    assert np.mean(np.array(largest) > 0.05) > 0.2
    assert max(largest) < 0.5


def test_classes_are_balanced(drawn):
    counts = np.bincount(np.concatenate([scene.labels for scene in drawn]), minlength=12)
    assert len(counts) == len(CLASS_NAMES) == 12
    assert counts.min() > 0.6 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()


def test_sizes_go_from_8_pixels_to_half_of_the_image(drawn):
    spans = np.concatenate([np.sqrt(sides(scene).prod(1)) for scene in drawn])
    assert 5 < spans.min() < 9.5
    assert 140 < spans.max() < 180
    shares = [np.mean(spans < 32), np.mean((spans >= 32) & (spans < 96)), np.mean(spans >= 96)]
    assert shares[0] > 0.4
    assert shares[1] > 0.2
    assert shares[2] > 0.03


def test_a_scene_takes_a_bounded_amount_of_work(drawn):
    for scene in drawn:
        assert len(scene.layers) <= 30
        # Two pixels of margin at each side of what covers FULL_AREA at most.
        area = sum(layer.cover.size for layer in scene.layers)
        assert area < FULL_AREA * SIDE**2 + 4 * 2 * 30 * SIDE
    assert np.mean([len(scene.layers) for scene in drawn]) < 15


def test_colours_have_many_contrasts_and_none_is_invisible():
    rng = np.random.default_rng(0)
    contrasts = []
    for level in np.repeat([0, 60, 128, 200, 255], 40):
        beneath = np.full((4, 3), level, np.uint8)
        tint = rng.integers(0, 256, 3) if rng.random() < 0.5 else None
        colour = colour_of(rng, beneath, 40.0, tint)
        assert colour.min() >= 0
        assert colour.max() <= 255
        contrasts.append(abs(colour @ BRIGHTNESS / 256 - level))
    assert min(contrasts) > CONTRASTS[0] - 2
    assert np.percentile(contrasts, 20) < 60
    assert np.percentile(contrasts, 80) > 90


def test_splits_share_no_handwritten_digit():
    parts = [sources_of(split).written for split in ("train", "val")]
    points = [{np.concatenate(outline).tobytes() for outline in part} for part in parts]
    assert [len(part) for part in parts] == [1123, 674]
    assert len(points[0] & points[1]) <= 2, "two people may write a one alike"


def test_scenes_are_a_dataset_kept_in_the_cache(few, monkeypatch):
    dataset = read_dataset("scenes")
    assert dataset.name == "scenes"
    assert (len(dataset.train), len(dataset.val)) == (6, 3)
    assert dataset.class_names == CLASS_NAMES
    assert dataset.category_ids == tuple(range(12))
    assert not dataset.mirror
    assert dataset.audit.findings == ()
    assert [example.image_id for example in (*dataset.train, *dataset.val)] == list(range(1, 10))
    for split, examples in (("train", dataset.train), ("val", dataset.val)):
        sources = sources_of(split)
        for index, example in enumerate(examples):
            scene = draw_scene(split, sources, index)
            np.testing.assert_array_equal(decode(example.image), scene.image)
            np.testing.assert_array_equal(example.boxes, scene.boxes)
            np.testing.assert_array_equal(example.labels, scene.labels)

    def draw_again(*_):
        raise AssertionError("what is kept is not drawn again")

    monkeypatch.setattr(scenes, "draw_scene", draw_again)
    assert read_dataset("scenes").fingerprint == dataset.fingerprint


def test_the_fingerprint_is_that_of_the_pixels(few, monkeypatch):
    first = read_dataset("scenes").fingerprint
    monkeypatch.setenv("FLAXYOLO_CACHE", str(few / "another"))
    assert read_dataset("scenes").fingerprint == first
    monkeypatch.setattr(scenes, "SCENES", {"train": 5, "val": 4})
    assert read_dataset("scenes").fingerprint != first


def test_an_interrupted_drawing_leaves_nothing(few, monkeypatch):
    draw = draw_scene

    def interrupted(split, sources, index):
        if split == "val":
            raise KeyboardInterrupt
        return draw(split, sources, index)

    monkeypatch.setattr(scenes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_dataset("scenes")
    assert [path.name for path in few.iterdir()] == ["scenes-1-6-3-320.lock"]
    monkeypatch.setattr(scenes, "draw_scene", draw)
    assert len(read_dataset("scenes").train) == 6


def test_a_folder_is_refused():
    with pytest.raises(InputError, match="scenes is built in and takes no folder, got 'x'"):
        read_dataset("scenes:x")
