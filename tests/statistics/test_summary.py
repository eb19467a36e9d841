"""The eight statistics and the input sizes, against values worked out by hand and slow loops."""

import json
import time

import numpy as np
import pytest

from flaxyolo.base.boxes import anchor_points, letterbox, letterbox_boxes
from flaxyolo.data.images import no_facts
from flaxyolo.data.sources import Dataset, Example, read_dataset
from flaxyolo.statistics import crowding
from flaxyolo.statistics.columns import columns_of, histogram, percent, quantiles
from flaxyolo.statistics.crowding import overlaps
from flaxyolo.statistics.resolution import at_image_size, points_inside, suitable_image_sizes
from flaxyolo.statistics.summary import gini, statistics, statistics_from_dict


def example(boxes, labels=None, *, size=(100, 200), areas=None, crowd=None, number=0):
    """An image of `size` (height, width) without its pixels: no detail is looked at."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Example(
        image_id=number,
        image=np.zeros((1, 1, 3), np.uint8),
        height=size[0],
        width=size[1],
        boxes=boxes,
        labels=np.array(labels or [0] * count, np.int32),
        areas=own if areas is None else np.array(areas, np.float32),
        crowd=np.array(crowd or [False] * count, bool),
    )


def dataset(train, val=(), names=("cat", "dog"), **more):
    return Dataset(
        name="made",
        train=tuple(train),
        val=tuple(val),
        class_names=tuple(names),
        category_ids=tuple(range(len(names))),
        fingerprint="0" * 64,
        **more,
    )


def scattered(images, most, *, seed=0, side=(4, 60)):
    """Random boxes in images of different sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(images):
        height, width = (int(v) for v in rng.integers(80, 400, 2))
        count = int(rng.integers(0, most + 1))
        low = rng.uniform(0, (width - 70, height - 70), (count, 2))
        boxes = np.concatenate([low, low + rng.uniform(*side, (count, 2))], 1)
        labels = [int(label) for label in rng.integers(0, 2, count)]
        found.append(example(boxes, labels, size=(height, width), number=number))
    return found


def iou(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_counts_and_sizes_of_boxes_worked_out_by_hand():
    train = [
        # 20 x 10 (thin no), 50 x 50, and a crowd box that counts nowhere else.
        example([[0, 0, 20, 10], [50, 0, 100, 50], [0, 0, 99, 99]], [0, 1, 0],
                crowd=[False, False, True]),
        example([[0, 0, 98, 99], [0, 0, 10, 50]], [0, 0]),
        example([]),
    ]  # fmt: skip
    found = statistics(dataset(train)).train
    assert (found.images, found.images_without_boxes) == (3, 1)
    assert (found.boxes, found.crowd_boxes) == (4, 1)
    assert (found.small, found.medium, found.large) == (0.5, 0.25, 0.25)
    assert found.thin == 0.25
    assert found.box_side.min == 10
    assert found.box_side.max == 98
    assert [(each.name, each.boxes, each.images) for each in found.classes] == [
        ("cat", 3, 2),
        ("dog", 1, 1),
    ]
    assert found.imbalance_ratio == 3
    assert found.gini == pytest.approx(0.25)
    assert found.boxes_per_image.max == 2
    assert [(s.width, s.height, s.images) for s in found.image_sizes] == [(200, 100, 3)]
    assert found.unread_images == 3
    assert found.brightness is None


def test_size_is_that_of_the_annotated_area_as_coco_scores_it():
    # A box of 50 x 50 around a mask of 1023, 1024 and 9216 square pixels.
    train = [example([[0, 0, 50, 50]] * 3, areas=[1023, 1024, 9216])]
    found = statistics(dataset(train)).train
    assert (found.small, found.medium, found.large) == pytest.approx((1 / 3,) * 3)


def test_histograms_hold_every_box_also_beyond_their_edges():
    train = [example([[0, 0, 0.01, 0.01], [0, 0, 200, 100], [0, 0, 200, 1], [0, 0, 1, 99]])]
    found = statistics(dataset(train)).train
    for values in (found.relative_area, found.aspect_ratio):
        assert sum(values.counts) == 4
        assert len(values.edges) == len(values.counts) + 1
    assert found.relative_area.counts[-1] == 1
    assert found.aspect_ratio.counts[0] == found.aspect_ratio.counts[-1] == 1


def test_a_histogram_counts_values_at_and_beyond_its_edges():
    values = np.array([-5.0, 0.0, 0.5, 1.0, 2.0, 99.0])
    assert histogram(values, np.array([0.0, 1.0, 2.0])).counts == (3, 3)


def test_quantiles_of_nothing_are_none():
    assert quantiles(np.zeros(0)) is None


def test_gini_is_zero_for_equal_counts_and_near_one_for_a_single_one():
    assert gini([5, 5, 5, 5]) == pytest.approx(0)
    assert gini([0] * 99 + [7]) == pytest.approx(0.99)
    assert gini([0, 0]) is None


def test_crowding_is_that_of_a_loop_over_all_pairs():
    train = scattered(40, 12)
    columns = columns_of(train)
    found = overlaps(columns.boxes, columns.labels, columns.image)
    largest, same, earlier, pairs = [], [], [], []
    for each in train:
        for i, box in enumerate(each.boxes):
            values = [0.0 if i == j else iou(box, other) for j, other in enumerate(each.boxes)]
            alike = [value * (each.labels[i] == each.labels[j]) for j, value in enumerate(values)]
            largest.append(max(values))
            same.append(max(alike))
            earlier.append(max(alike[:i], default=0.0))
            pairs += values[:i]
    np.testing.assert_allclose(found.largest, largest, atol=1e-6)
    np.testing.assert_allclose(found.same_class, same, atol=1e-6)
    np.testing.assert_allclose(found.earlier, earlier, atol=1e-6)
    positive = np.array([value for value in pairs if value > 0])
    assert len(positive) > 20
    assert (found.pairs, found.overlapping) == (len(pairs), len(positive))
    assert found.pair_sum == pytest.approx(positive.sum(), rel=1e-5)
    measured = statistics(dataset(train)).train.crowding
    assert measured.mean_iou == pytest.approx(positive.mean(), rel=1e-5)
    assert measured.p95_iou == pytest.approx(
        np.quantile(positive, 0.95, method="inverted_cdf"), abs=1e-4
    )
    assert measured.mean_iou_all_pairs == pytest.approx(np.mean(pairs), rel=1e-5)


def test_crowding_does_not_depend_on_the_size_of_the_chunks(monkeypatch):
    columns = columns_of(scattered(30, 40))
    whole = overlaps(columns.boxes, columns.labels, columns.image)
    monkeypatch.setattr(crowding, "PAIRS_AT_ONCE", 100)
    chunked = overlaps(columns.boxes, columns.labels, columns.image)
    for one, other in zip(whole[:3], chunked[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.pairs == chunked.pairs
    np.testing.assert_array_equal(whole.pair_counts, chunked.pair_counts)


def test_nms_suppresses_a_true_box_that_covers_another_of_its_class():
    box, near, other = [0, 0, 100, 100], [0, 0, 100, 85], [0, 0, 100, 99]
    found = statistics(dataset([example([box, near, other], [0, 0, 1])])).train.crowding
    assert found.largest_iou.max == pytest.approx(0.99)
    assert found.largest_iou_same_class.max == pytest.approx(0.85)
    lost = {each.threshold: each.share for each in found.suppressed}
    assert lost[0.8] == pytest.approx(1 / 3)
    assert lost[0.9] == 0


def test_boxes_at_an_input_size_are_those_that_training_sees():
    train = scattered(25, 15)
    columns = columns_of(train)
    found = at_image_size(columns, 160)
    sides, longer, centres, points = [], [], [], {s: [] for s in (4, 8, 16, 32)}
    for number, each in enumerate(train):
        if not len(each.boxes):
            continue
        boxes = letterbox_boxes(each.boxes, letterbox(each.height, each.width, 160))
        size = boxes[:, 2:] - boxes[:, :2]
        sides += list(size.min(1))
        longer += list(size.max(1))
        centres += [(number, *centre) for centre in (boxes[:, :2] + boxes[:, 2:]) / 2]
        for stride, counted in points.items():
            grid, _ = anchor_points(160, (stride,))
            inside = ((grid > boxes[:, None, :2]) & (grid < boxes[:, None, 2:])).all(2)
            counted += list(inside.sum(1))
    sides, longer = np.array(sides), np.array(longer)
    assert found.side.p50 == pytest.approx(np.median(sides), rel=1e-5)
    for pixels, part in ((8, found.under_8), (16, found.under_16), (32, found.under_32)):
        assert part == pytest.approx((sides < pixels).mean())
    for level in found.strides:
        stride = level.stride
        assert level.cells.p50 == pytest.approx(np.median(sides) / stride, rel=1e-5)
        assert level.covered == pytest.approx((sides >= 2 * stride).mean())
        assert level.longer_side_p95 == pytest.approx(np.quantile(longer, 0.95) / stride, rel=1e-5)
        assert level.without_point == pytest.approx((np.array(points[stride]) == 0).mean())
        cells = [(image, int(x // stride), int(y // stride)) for image, x, y in centres]
        shared = np.mean([cells.count(cell) > 1 for cell in cells])
        assert level.collisions == pytest.approx(shared)
    assert 0 < found.at_stride(32).collisions < 1
    assert sum(found.level_shares().values()) == pytest.approx(1)


def test_a_box_reaches_half_its_longer_side_in_strides_of_the_level_that_suits_it():
    # 200 px at stride 32; 40 px wide suits stride 16 and is 120 px long; 4 px suits no level.
    boxes = [[0, 0, 200, 200], [0, 0, 40, 120], [0, 0, 4, 4]]
    reaches = {}
    for box in boxes:
        found = at_image_size(columns_of([example([box], size=(256, 256))]), 256)
        reaches[box[2]] = [level.reach_p99 for level in found.strides]
    assert reaches[200] == pytest.approx([25, 12.5, 6.25, 3.125])
    assert reaches[40] == pytest.approx([15, 7.5, 3.75, 3.75])
    assert reaches[4] == pytest.approx([0.5, 0.25, 0.25, 0.25])


def test_points_on_the_border_of_a_box_are_outside():
    boxes = np.array([[4, 4, 12, 12], [3.9, 3.9, 12.1, 12.1], [5, 5, 11, 11]], np.float32)
    assert points_inside(boxes, 8).tolist() == [0, 4, 0]


@pytest.mark.parametrize(
    ("side", "first", "last"),
    [(640, 256, 1280), (192, 128, 320), (30, 128, 128), (5000, 800, 1280)],
)
def test_input_sizes_suit_the_images(side, first, last):
    sizes = suitable_image_sizes(columns_of([example([], size=(side, side // 2))]))
    assert (sizes[0], sizes[-1]) == (first, last)


def test_enlarged_images_are_counted():
    train = [example([[0, 0, 50, 50]], size=(100, side)) for side in (100, 128, 200, 300)]
    found = statistics(dataset(train), image_sizes=[256, 128]).resolutions
    assert [each.image_size for each in found] == [128, 256]
    assert [each.enlarged for each in found] == [0.25, 0.75]


def test_pixel_statistics_leave_out_images_that_could_not_be_read():
    facts = no_facts()._replace(
        brightness=np.array([10, np.nan, 30], np.float32),
        contrast=np.array([1, np.nan, 3], np.float32),
        blur=np.array([100, np.nan, 300], np.float32),
    )
    found = statistics(dataset([example([])] * 3, train_facts=facts)).train
    assert found.unread_images == 1
    assert (found.brightness.p50, found.contrast.p50, found.blur.p50) == (20, 2, 200)
    assert sum(found.blur_histogram.counts) == 2


@pytest.mark.parametrize("train", [[], [example([])], [example([[0, 0, 9, 9]], crowd=[True])]])
def test_data_without_boxes_have_statistics_and_no_resolutions(train):
    found = statistics(dataset(train))
    assert found.resolutions == ()
    assert found.train.small is None
    assert found.train.crowding.largest_iou is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_statistics_go_to_json_and_back():
    found = statistics(dataset(scattered(10, 8), scattered(5, 8, seed=1)))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert statistics_from_dict(json.loads(text)) == found


def test_the_digits_are_measured_in_both_splits():
    found = statistics(read_dataset("digits"))
    assert found.train.images == 600
    assert found.val.images == 150
    assert found.train.brightness is not None
    for split in (found.train, found.val):
        assert min(split.small, split.medium, split.large) > 0.1
        assert len(split.classes) == 10
    assert found.resolutions[0].under_16 > found.resolutions[-1].under_16


@pytest.mark.slow
def test_nuclei_are_small_objects(test_data):
    found = statistics(read_dataset(f"coco:{test_data / 'nuclei'}"))
    assert found.train.small == pytest.approx(0.88, abs=0.02)


def test_shares_have_as_many_digits_as_they_need():
    assert [percent(part) for part in (0.0, 0.0004, 0.012, 0.5, 1.0)] == [
        "0 %", "<0.1 %", "1.2 %", "50 %", "100 %",
    ]  # fmt: skip


@pytest.mark.long
def test_a_million_boxes_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.geometric(1 / 10, 100_000), 2000)
    counts[:3] = 3000
    train = []
    for count in counts:
        low = rng.uniform(0, 560, (count, 2)).astype(np.float32)
        side = rng.lognormal(3.2, 0.7, (count, 2)).clip(2, 80).astype(np.float32)
        boxes = np.concatenate([low, low + side], 1)
        labels = rng.integers(0, 80, count).astype(np.int32)
        train.append(
            Example(0, np.zeros((1, 1, 3), np.uint8), 640, 640 - int(count) % 200, boxes, labels,
                    side.prod(1), np.zeros(count, bool))
        )  # fmt: skip
    data = dataset(train, names=[f"class {i}" for i in range(80)])
    start = time.perf_counter()
    found = statistics(data)
    seconds = time.perf_counter() - start
    print(f"{found.train.boxes:,} boxes, {len(found.resolutions)} input sizes: {seconds:.1f} s")
    assert found.train.boxes > 990_000
    assert seconds < 40
