"""The benchmark of early scores, on curves of which the answer is known."""

import json

import numpy as np
import pytest

from benchmarks.rank_correlation import blend, inherited, judge, judged, read, shipped
from benchmarks.trained import columns


def row(number, early, end, *, loss=1.0, in_band=True):
    curve = [
        {"epoch": 1, "map": 0.0, "objective": early, "val_loss": loss, "loss": 1.0},
        {"epoch": 2, "loss": 1.0},
        {"epoch": 3, "map": end, "objective": end, "val_loss": 0.0, "loss": 0.0},
    ]
    return {"number": number, "in_band": in_band, "curve": curve}


def test_a_loss_that_falls_with_the_end_correlates_fully_and_a_constant_not_at_all():
    rows = [row(i, early=-i, end=i / 10, loss=10 - i) for i in range(12)]
    by_name = {one.score: one for one in judged(rows, [1], 3)}
    assert by_name["validation loss"].spearman == pytest.approx(1)
    assert by_name["validation loss"].kendall == pytest.approx(1)
    assert by_name["objective"].spearman == pytest.approx(-1)
    assert by_name["mAP"].spearman == 0
    with pytest.raises(SystemExit, match="epoch 2 was not scored"):
        judged(rows, [2], 3)
    assert by_name["blend"].spearman > 0.9, "a constant and a wrong sign do no harm"


def test_runs_that_inherit_are_held_against_the_end_from_fresh_weights():
    rows = [row(i, early=-i, end=i / 10) for i in range(12)]
    for i, each in enumerate(rows[1:], 1):
        first = {"epoch": 1, "map": i, "objective": i, "val_loss": 1.0, "loss": 1.0}
        each["inherited"] = {"share": 1 / i, "curve": [first]}
    begun = inherited(rows, 3)
    assert [each["number"] for each in begun] == list(range(1, 12)), "the first is the parent"
    by_name = {one.score: one for one in judged(begun, [1], 3)}
    assert by_name["objective"].spearman == pytest.approx(1)
    assert by_name["inherited"].spearman == pytest.approx(-1)
    for each in rows[1:]:
        last = {**each["inherited"]["curve"][0], "epoch": 2, "objective": -each["number"]}
        each["inherited"]["curve"].append(last)
    own = {one.score: one for one in judged(shipped(inherited(rows, 3)), [1], 2)}
    assert own["objective"].spearman == pytest.approx(-1)


def test_the_blend_of_a_network_does_not_see_its_end():
    random = np.random.default_rng(0)
    features, final = random.normal(size=(30, 3)), random.normal(size=30)
    before = blend(features, final)
    changed = final.copy()
    changed[7] += 100
    assert blend(features, changed)[7] == pytest.approx(before[7])
    told = features @ [1.0, 2.0, 0.0]
    assert np.corrcoef(blend(features, told), told)[0, 1] > 0.99


def test_what_a_rung_loses_is_the_best_that_it_drops():
    final = np.array([0.9, 0.5, 0.6, 0.1, 0.2, 0.3])
    score = np.array([0.0, 0.5, 0.6, 0.1, 0.2, 0.3])
    assert judge(score, final)["lost"] == pytest.approx(0.3)
    assert judge(final, final)["lost"] == 0


def test_the_interval_holds_the_value_and_is_narrower_with_more_networks():
    random = np.random.default_rng(0)
    widths = []
    for count in (10, 100):
        final = random.normal(size=count)
        found = judge(final + random.normal(size=count), final)
        low, high = found["kendall_interval"]
        assert low < found["kendall"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_half_a_line_and_a_network_that_diverged_are_left_out(tmp_path):
    whole, again, broken = row(0, 0.1, 0.2), row(0, 0.1, 0.9), row(1, 0.1, 0.2)
    lines = [{"epochs": 3}]
    for seed, each, length in ((0, whole, 3), (1, again, 3), (0, broken, 2)):
        lines.append({**each, "seed": seed, "curve": columns(each["curve"][:length])})
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"number": 2, "cur')
    settings, rows = read(path)
    assert settings == {"epochs": 3}
    assert [one["number"] for one in rows] == [0]
    assert rows[0]["curve"] == whole["curve"], "the first seed's"
