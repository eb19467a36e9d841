"""The pieces of networks, what they count, and the table of their times."""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxyolo.base.kept import unsealed
from flaxyolo.config import read_config
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.measurement import Measurement, Reference
from flaxyolo.cost.table import file as latency_file
from flaxyolo.cost.table import pieces as cut
from flaxyolo.cost.table import table as latency
from flaxyolo.cost.table.correction import FREEDOM, SPREAD, Correction, quantile
from flaxyolo.cost.table.estimate import Regression, described, kind_of
from flaxyolo.cost.table.file import Count
from flaxyolo.cost.table.pieces import KINDS, Piece, count, pieces, program, time_pieces
from flaxyolo.cost.table.table import LatencyTable, Prediction, TableError
from flaxyolo.search.screen import draw
from flaxyolo.search.space import load_space, suggest_detector
from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec
from tests.cost.test_measure import MEASUREMENT
from tests.small import tiny_spec

ROOT = Path(__file__).parents[3]
LARGE = ("rtmdet-s", "yolov8l", "yolov8m", "yolov8x", "yolox-s", "yolov5s", "yolo11s", "yolov8s")
CONFIGS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.long if path.stem in LARGE else ())
    for path in sorted((ROOT / "configs").glob("*.yaml"))
]
SPACES = sorted((ROOT / "sweeps").glob("*.py"))


def keys(spec: DetectorSpec) -> list[str]:
    return [piece.key for piece in pieces(spec)]


def specs(number: int, seed: int = 0) -> list[DetectorSpec]:
    return [each.spec for each in draw(suggest_detector, number, seed).drawn]


class Counts(dict):
    """What pieces count, by their keys: one of two networks counts for the other."""

    def of(self, piece: Piece) -> Count:
        if piece.key not in self:
            self[piece.key] = count(piece)
        return self[piece.key]


COUNTS = Counts()


def assert_pieces_add_up(spec: DetectorSpec) -> None:
    counts = [COUNTS.of(piece) for piece in pieces(spec)]
    assert sum(each.params for each in counts) == count_params(spec)
    assert 2 * sum(each.multiply_adds for each in counts) / 1e9 == count_gflops(spec)


def test_the_pieces_of_a_network_are_its_parts_in_order():
    cut = pieces(tiny_spec())
    assert [piece.kind for piece in cut] == [
        "stem",
        "stage",
        "stage",
        "stage",
        "neck",
        "head",
        "nms",
    ]
    assert [piece.shapes for piece in cut] == [
        ((64, 3),),
        ((32, 8),),
        ((16, 8),),
        ((8, 16),),
        ((8, 16), (4, 16)),
        ((8, 16), (4, 16)),
        # 8 x 8 and 4 x 4 anchor points.
        ((80, 3), (80, 4)),
    ]


def test_networks_share_the_pieces_that_they_have_in_common():
    spec = tiny_spec()
    other_neck = keys(replace(spec, neck=replace(spec.neck, kind="pan")))
    assert [a == b for a, b in zip(keys(spec), other_neck, strict=True)] == [True] * 4 + [
        False,
        True,
        True,
    ]
    assert not set(keys(spec)) & set(keys(replace(spec, image_size=128)))
    # What only training knows makes no difference.
    assert keys(replace(spec, backbone=replace(spec.backbone, drop_path=0.1))) == keys(spec)
    assert keys(replace(spec, norm="sync_batch")) == keys(spec)
    assert keys(replace(spec, norm="group")) != keys(spec)


def test_counts_of_pieces_add_up_to_those_of_a_network():
    assert_pieces_add_up(tiny_spec())
    assert_pieces_add_up(
        tiny_spec(
            backbone=BackboneSpec(
                8,
                (
                    StageSpec("c2f", 16, 2, down_width=8),
                    StageSpec("residual", 16, 1, stride=1),
                    StageSpec("depthwise", 24, 1, attention="se"),
                    StageSpec("repvgg", 32, 2),
                ),
                context="sppf_psa",
                context_place="before",
            ),
            neck=NeckSpec("bifpn", (2, 3, 4), widths=16, repeats=2, out_width=24),
            head=HeadSpec(shared=True, one_to_one=True),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_counts_of_pieces_add_up_for_every_config(path):
    assert_pieces_add_up(read_config(path).detector)


@pytest.mark.slow
@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [2, pytest.param(30, marks=pytest.mark.long)])
def test_counts_of_pieces_add_up_in_every_space(path, number):
    for each in draw(load_space(path), number, seed=5).drawn:
        assert_pieces_add_up(each.spec)


@pytest.mark.parametrize("extra", [{}, {"one_to_one": True}, {"objectness": True}])
def test_every_piece_takes_what_the_one_before_gives(extra):
    spec = tiny_spec(head=HeadSpec(depth=1, reg_max=8, box_width=16, class_width=16, **extra))
    cut = {}
    for piece in pieces(spec):
        run, weights, inputs, _ = program(piece, np.float32)
        cut[piece.kind, piece.number] = inputs, jax.eval_shape(run, weights, *inputs)

    def shapes(tree):
        return [leaf.shape for leaf in jax.tree.leaves(tree)]

    stages = [cut["stage", number] for number in range(3)]
    assert shapes(cut["stem", 0][1]) == shapes(stages[0][0])
    assert shapes(stages[0][1]) == shapes(stages[1][0])
    assert shapes(cut["neck", 0][0]) == shapes([stages[1][1], stages[2][1]])
    assert shapes(cut["head", 0][0]) == shapes(cut["neck", 0][1])
    assert shapes(cut["nms", 0][0]) == shapes(cut["head", 0][1])


@pytest.mark.slow
def test_pieces_are_timed_on_the_device():
    times = time_pieces(pieces(tiny_spec()))
    assert len(times) == 7
    assert all(0.001 < each < 1000 for each in times)


def law(key: str) -> float:
    """Milliseconds of a piece in a world where they follow a simple law."""
    data = json.loads(key)
    work = sum(side**1.5 * width for side, width in data["in"]) / 5000
    slow = 1.5 if data.get("block", data.get("neck")) in ("c2f", "pan") else 1.0
    return 0.05 + work * slow * data.get("depth", 1) ** 0.8


@pytest.fixture
def table(tmp_path, monkeypatch) -> LatencyTable:
    """An empty table of a device whose times follow `law`."""
    monkeypatch.setattr(latency, "time_pieces", lambda batch: [law(piece.key) for piece in batch])
    return LatencyTable(tmp_path / "table.json")


def add_networks(table: LatencyTable, some: list[DetectorSpec], noise: float = 0.0) -> None:
    """Whole networks that take 0.8 of the sum of their pieces and have a p95 30 % above."""
    rng = np.random.default_rng(1)
    here = latency_file.conditions()
    for spec in some:
        p50 = 0.8 * sum(map(law, keys(spec))) * float(np.exp(rng.normal(0, noise)))
        cost = replace(
            MEASUREMENT,
            latency_ms_p50=p50,
            latency_ms_p95=1.3 * p50,
            device=here["device"],
            dtype=here["dtype"],
            versions=here["versions"],
        )
        assert table.add_network(spec, cost)


def test_a_piece_is_measured_once_and_kept_on_disk(table):
    spec = tiny_spec()
    assert table.measure([spec]) == 7
    assert table.measure([spec]) == 0
    again = LatencyTable(table.path)
    assert again.contents.pieces == {key: law(key) for key in keys(spec)}
    assert again.measure([replace(spec, neck=replace(spec.neck, kind="pan"))]) == 1


def test_filling_ends_with_the_batch_in_which_there_are_enough(table):
    some = specs(12)
    table.measure(some[:1])
    known = len(table.contents.pieces)
    assert table.fill(some, 1, batch=4) == 4
    assert table.fill(some, 5, batch=4) == 8
    assert known + 12 + table.measure(some) == len({key for spec in some for key in keys(spec)})


def test_filling_makes_the_table_surer(table):
    some = specs(60)
    unseen = specs(30, seed=9)
    table.measure(unseen[:1])
    before = np.mean([each.p50_spread for each in table.predict(unseen)])
    known = len(table.contents.pieces)
    done = table.fill(some, 40)
    assert done == len(table.contents.pieces) - known >= 40
    assert np.mean([each.p50_spread for each in table.predict(unseen)]) < before


def test_a_damaged_table_is_said_and_made_again(table, caplog):
    spec = tiny_spec()
    for damage in ("{", '{"pieces": {"a": -1.0}}', '{"networks": 3}', "[]", "\0"):
        table.path.write_text(damage)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            fresh = LatencyTable(table.path)
        assert fresh.contents.pieces == {}
        assert len(caplog.messages) == 1
        assert "damaged latency table, which is made again" in caplog.messages[0]
        assert "\n" not in caplog.messages[0]
        fresh.measure([spec])
        caplog.clear()
        assert set(LatencyTable(table.path).contents.pieces) == set(keys(spec))
        assert not caplog.messages


def test_a_changed_figure_in_a_table_is_not_used(table, caplog):
    table.measure([tiny_spec()])
    content = table.path.read_bytes()
    place = content.rindex(b":", 0, content.rindex(b"networks")) + 1
    digit = content[place : place + 1]
    other = b"2" if digit != b"2" else b"3"
    table.path.write_bytes(content[:place] + other + content[place + 1 :])
    assert LatencyTable(table.path).contents.pieces == {}
    assert "another digest than was written" in caplog.text


def test_a_folder_in_the_place_of_a_table_is_moved_away(table):
    table.path.unlink(missing_ok=True)
    table.path.mkdir()
    assert LatencyTable(table.path).contents.pieces == {}
    table.measure([tiny_spec()])
    table.save()
    assert set(LatencyTable(table.path).contents.pieces) == set(keys(tiny_spec()))
    assert table.path.with_name(f"{table.path.name}.damaged").is_dir()


def test_tables_that_share_a_file_keep_what_each_has_added(table):
    some = specs(24)

    def work(rows):
        own = LatencyTable(table.path)
        for row in rows:
            own.contents.pieces.update({key: law(key) for key in keys(some[row])})
            add_networks(own, [some[row]])
            own.save()

    threads = [threading.Thread(target=work, args=(range(k, 24, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents = LatencyTable(table.path).contents
    assert set(contents.pieces) == {key for spec in some for key in keys(spec)}
    assert {network.spec for network in contents.networks.values()} == set(some)
    assert contents.conditions == json.loads(json.dumps(latency_file.conditions()))


def test_another_version_has_another_file(tmp_path, monkeypatch):
    here = LatencyTable.open(tmp_path).path
    assert here == LatencyTable.open(tmp_path).path
    other = latency_file.conditions() | {"versions": {"jax": "0.0.1"}}
    monkeypatch.setattr(latency_file, "conditions", lambda engine: other)
    assert LatencyTable.open(tmp_path).path != here
    assert here.parent == tmp_path / "latency"


def test_a_measurement_of_another_device_is_not_taken(table):
    assert not table.add_network(tiny_spec(), MEASUREMENT)
    assert not table.contents.networks


def measured(p95: float, *, busy: bool = False) -> Measurement:
    here = latency_file.conditions()
    return replace(
        MEASUREMENT,
        latency_ms_p50=p95 / 1.3,
        latency_ms_p95=p95,
        load=0.9 if busy else 0.0,
        device=here["device"],
        dtype=here["dtype"],
        versions=here["versions"],
    )


def test_what_a_busy_machine_told_counts_until_a_calm_one_has(table):
    one, other = specs(2)
    assert table.add_network(one, measured(30.0, busy=True))
    assert [network.p95_ms for network in table._networks()] == [30.0]
    assert table.add_network(other, measured(5.0))
    assert [network.p95_ms for network in table._networks()] == [5.0]
    assert table.add_network(one, measured(7.0))
    assert not table.add_network(one, measured(20.0, busy=True))
    assert sorted(network.p95_ms for network in table._networks()) == [5.0, 7.0]


def test_a_busy_measurement_does_not_take_a_calm_ones_place_on_disk(table):
    spec, other = tiny_spec(), LatencyTable(table.path)
    other.add_network(spec, measured(20.0, busy=True))
    table.add_network(spec, measured(7.0))
    table.save()
    other.save()
    (network,) = LatencyTable(table.path).contents.networks.values()
    assert (network.p95_ms, network.busy) == (7.0, False)


def test_of_the_reference_the_lowest_is_kept(table):
    for best in (Reference(1.0, 1.1, 1.5), Reference(1.2, 1.3, 1.4), None):
        own = latency_file.Contents(reference=best)
        merged = latency_file.merge_into(table.path, own, latency_file.conditions())
    assert merged.reference == Reference(1.0, 1.1, 1.4)
    assert LatencyTable(table.path).contents.reference == Reference(1.0, 1.1, 1.4)


def test_a_table_of_before_there_was_a_reference_is_read(table):
    spec = tiny_spec()
    table.measure([spec])
    table.add_network(spec, measured(7.0))
    table.save()
    old = unsealed(table.path.read_bytes())
    del old["reference"]
    for network in old["networks"].values():
        del network["busy"]
    table.path.write_text(json.dumps(old))
    contents = LatencyTable(table.path).contents
    assert contents == table.contents
    assert contents.reference is None


def test_pieces_are_what_they_take_on_a_calm_device(monkeypatch, tmp_path):
    """Piece number `n` takes n times as long as the reference, on a device twice as slow."""
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path))
    latency_file.best_reference(Reference(1.0, 1.04, 1.2))
    batch = pieces(tiny_spec())
    calls = {piece.key: number for number, piece in enumerate(batch, 1)}
    monkeypatch.setattr(cut, "ready", lambda piece: calls[piece.key])
    monkeypatch.setattr(cut, "reference_call", lambda: 1)
    monkeypatch.setattr(cut, "warm_up", lambda call, count: [2e-3 * call])
    monkeypatch.setattr(cut, "time_calls", lambda call, **_: np.full(5, 2.0 * call))
    monkeypatch.setattr(cut, "time_block", lambda reference, size: [2.0] * size)
    expected = [1.04 * number for number in range(1, len(batch) + 1)]
    # The reference beside a piece of n times its length is as steady as n calls are.
    assert time_pieces(batch) == pytest.approx(expected, rel=1e-6)


def test_an_error_is_not_known_before_four_networks_are_measured(table):
    some = specs(4)
    add_networks(table, some[:3])
    assert table.error() == TableError(3, None, None)
    assert table.error().describe() == "error not known yet (3 of 4 networks measured)"
    add_networks(table, some)
    assert table.error().networks == 4
    assert table.error().mape is not None


def test_a_new_table_measures_one_network_and_says_how_little_it_knows(table):
    some = specs(50)
    predictions = table.predict(some)
    assert set(table.contents.pieces) == set(keys(some[0]))
    assert all(each.upper("p50") > 1.4 * each.p50_ms for each in predictions)


def test_unseen_networks_are_predicted_from_measured_ones(table):
    seen, unseen = specs(30), specs(60, seed=3)
    table.measure(seen)
    add_networks(table, seen)
    truth = np.array([0.8 * sum(map(law, keys(spec))) for spec in unseen])
    predictions = table.predict(unseen)
    for stat, factor in (("p50", 1.0), ("p95", 1.3)):
        found = np.array([getattr(each, f"{stat}_ms") for each in predictions])
        errors = np.abs(found / (factor * truth) - 1)
        assert errors.mean() < 0.06
        # The table's own word on its error is about right.
        assert table.error(stat).mape == pytest.approx(errors.mean(), abs=0.03)


@pytest.mark.parametrize("noise", [0.03, 0.15])
def test_predicted_bounds_hold_as_often_as_they_say(table, noise):
    seen, unseen = specs(20), specs(200, seed=4)
    table.measure(seen)
    add_networks(table, seen, noise)
    rng = np.random.default_rng(2)
    truth = np.array([1.04 * sum(map(law, keys(spec))) for spec in unseen])
    truth *= np.exp(rng.normal(0, noise, len(truth)))
    for confidence in (0.5, 0.9):
        upper = np.array([each.upper("p95", confidence) for each in table.predict(unseen)])
        assert np.mean(truth <= upper) > confidence - 0.12
    assert np.mean(upper / truth) < np.exp(3 * (noise + 0.06))
    drawn = np.random.default_rng(1).normal(0, noise, len(seen))
    assert table.error().mape == pytest.approx(np.abs(np.exp(-drawn) - 1).mean(), abs=0.04)


def test_counts_of_networks_are_kept(table, monkeypatch):
    spec = tiny_spec()
    total = table.count([spec])[0]
    assert total.params == count_params(spec)
    assert 2 * total.multiply_adds / 1e9 == count_gflops(spec)
    monkeypatch.setattr(latency, "count", lambda piece: pytest.fail("it is known"))
    assert LatencyTable(table.path).count([spec, spec]) == [total, total]


def test_a_bound_is_the_prediction_times_its_spread():
    prediction = Prediction(4.0, 5.0, 0.1, 0.2, 10.0)
    # Student's t of 10 degrees of freedom is below 1.372 in 90 % of cases.
    assert prediction.upper("p50") == pytest.approx(4 * np.exp(1.372 * 0.1), rel=1e-3)
    assert prediction.upper("p95", 0.5) == pytest.approx(5.0)
    assert quantile(0.9, 10.0) == pytest.approx(1.372, abs=1e-3)


def test_a_piece_is_described_by_its_numbers_and_names():
    key = '{"kind":"stage","in":[[10,4]],"stage":{"block":"c2f","depth":2,"reduce":false}}'
    numbers, names = described(key)
    assert numbers == pytest.approx(
        {
            "in.0.0": np.log(10),
            "in.0.1": np.log(4),
            "stage.depth": np.log(2),
            "volume": np.log(400),
            "work": np.log(1600),
        }
    )
    assert names == {"kind=stage", "in: 1", "in.0: 2", "stage.block=c2f", "stage.reduce=False"}
    assert kind_of(key) == "stage"


def test_leaving_pieces_out_equals_learning_without_them():
    found = sorted({key for spec in specs(12) for key in keys(spec) if kind_of(key) == "stage"})
    rng = np.random.default_rng(0)
    times = [law(key) * float(np.exp(rng.normal(0, 0.1))) for key in found]
    regression = Regression(found, times)
    out = [found[3], found[11], found[12]]
    rest = [row for row in range(len(found)) if row not in (3, 11, 12)]
    matrix = np.linalg.inv(regression.precision)
    across = matrix[np.ix_([3, 11, 12], rest)]
    inverse = np.linalg.inv(matrix[np.ix_(rest, rest)])
    mean, variance = regression.without(out)
    np.testing.assert_allclose(
        mean, regression.mean + across @ inverse @ regression.logs[rest], rtol=1e-6
    )
    expected = np.diag(matrix[np.ix_([3, 11, 12], [3, 11, 12])] - across @ inverse @ across.T)
    np.testing.assert_allclose(variance, expected - regression.lengths.noise**2, rtol=1e-4)


def test_a_correction_without_networks_is_the_sum_and_its_wide_spread():
    none = Correction(np.zeros((0, len(KINDS))), np.zeros(0), np.zeros(0))
    parts = np.full((1, len(KINDS)), 2.0)
    mean, spread = none.correct(parts, np.zeros(1))
    assert np.exp(mean[0]) == pytest.approx(2.0 * len(KINDS))
    assert spread[0] > SPREAD
    assert none.freedom == FREEDOM


def test_a_correction_finds_a_factor_and_one_wild_network_does_not_move_it():
    rng = np.random.default_rng(0)
    parts = rng.uniform(0.5, 3, (20, len(KINDS)))
    latency_ms = 0.7 * parts.sum(1)
    latency_ms[4] *= 3
    corrected = Correction(parts, np.zeros(20), latency_ms).correct(parts, np.zeros(20))
    rest = np.arange(20) != 4
    np.testing.assert_allclose(np.exp(corrected.mean)[rest], latency_ms[rest], rtol=0.08)
