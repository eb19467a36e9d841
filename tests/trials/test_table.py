import io
import json
from dataclasses import replace

import optuna
import pytest
from rich.console import Console

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import INTERRUPTED
from flaxyolo.scoring.average_precision import KEYS, ClassScores, Scores
from flaxyolo.search.controls import SCALED
from flaxyolo.search.objective import Objective
from flaxyolo.search.space import REFERENCE, suggest_detector
from flaxyolo.spec import detector_from_dict
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import (
    Report,
    best_found,
    costs,
    flat_rows,
    markdown,
    outcome,
    rows,
    table,
    write,
)
from tests.search.made import final
from tests.search.made import result as made_result

SPEC = suggest_detector(optuna.trial.FixedTrial(REFERENCE))
COST = Measurement(
    latency_ms_p50=5.0,
    latency_ms_p95=6.25,
    network_ms_p50=4.0,
    fps=200.0,
    vram_mib=64.0,
    train_vram_mib=512.0,
    params=1_234_567,
    gflops=0.5,
    device="a device",
    dtype="float32",
    image_size=192,
    batch_size=1,
    train_batch_size=16,
    versions={"jax": "0"},
)
SCORES = Scores(
    **{key: 0.1 for key in KEYS}
    | {"map": 0.4, "map_50": 0.6, "map_small": 0.2, "map_medium": None, "map_large": 0.5},
    per_class=(ClassScores("a|b", 0.4, 0.6),),
)
BUDGET = Budget(8.0)


def result(number, state="complete", rungs=((10, 0.7),), **changes):
    given = {
        "spec": SPEC,
        "cost": COST,
        "scores": SCORES,
        "run": "r",
        "params": REFERENCE,
        "seconds": {"train": 1.5},
    }
    return made_result(number, state, rungs, **given | changes)


def unscored(number, state, reason, **changes):
    return result(number, state, (), reason=reason, scores=None, **changes)


OVER = unscored(
    1,
    "pruned",
    "over budget by 1.30 ms",
    constraints={"latency_ms": 0.16},
    cost=replace(COST, latency_ms_p95=9.3, train_vram_mib=None),
)
BEHIND = result(2, "pruned", [(3, 0.9)], reason="behind after 3 of 10 epochs")
TWIN = result(3, "pruned", reason="the same detector as trial 0", duplicate_of=0)
FAILED = unscored(4, "fail", "diverged: epoch 1", cost=None)
KILLED = unscored(5, "fail", INTERRUPTED, cost=None, spec=None)
BEST = result(6, history=(CurvePoint(10, 0.8, objective_se=0.031),))
ALL = (result(0), OVER, BEHIND, TWIN, FAILED, KILLED, BEST)


def report(*records, budget=BUDGET):
    return Report(Standings(records, budget, Objective()), "digits")


def test_the_best_complete_trial_comes_first_and_failures_last():
    assert [each.number for each in report(*ALL).standings.ranked] == [6, 0, 2, 1, 4, 5]


def test_json_rows_hold_spec_cost_and_scores_under_the_commands_names():
    first, *_ = written = json.loads(json.dumps(rows(report(*ALL).standings)))
    assert first["number"] == 6
    assert first["state"] == "complete"
    assert first["objective_se"] == first["runs"][0]["objective_se"] == 0.031
    assert detector_from_dict(first["spec"]) == SPEC
    assert first["cost"] == COST.to_dict()
    assert first["scores"] == {key: getattr(SCORES, key) for key in KEYS}
    assert first["runs"][0]["scores"] == SCORES.to_dict()
    assert {row["state"] for row in written} == {"complete", "pruned", "fail"}


def test_flat_rows_are_what_plots_and_data_frames_take():
    row = flat_rows(report(OVER).standings.ranked)[0]
    assert (row["number"], row["state"], row["objective"]) == (1, "pruned", None)
    assert (row["latency_ms_p95"], row["params"], row["map"]) == (9.3, 1_234_567, None)


def test_every_outcome_is_told_in_words():
    text = markdown(report(*ALL))
    lines = text.splitlines()
    assert lines[0] == ("Budget: at most 8 ms (p95); a device, jax, float32, batch 1; data: digits")
    assert lines[4] == (
        "| 6 | 0.800 | 0.031 | 0.400 | 0.600 | 0.200 | n/a | 0.500 | 5.00 | 6.25 | 200 | 64.0 | "
        "512 | 1,234,567 | 0.500 | 192 | complete, 10 epochs |"
    )
    for words in (
        "| over budget by 1.30 ms |",
        "| behind after 3 of 10 epochs |",
        "| failed: diverged: epoch 1 |",
        "| interrupted |",
    ):
        assert words in text
    over = next(line for line in lines if "over budget" in line)
    assert over.startswith("| 1 | - | - | - | - | - | - | - | 5.00 | 9.30 |")
    assert "the same detector" not in text, "one network is one row"


def test_the_terminal_shows_what_the_file_shows():
    shown = report(*ALL)
    console = Console(width=170, file=io.StringIO(), record=True)
    console.print(table(shown))
    text = console.export_text()
    for line in markdown(shown).splitlines()[4:]:
        for cell in line.strip("| ").split(" | "):
            assert cell in text


def test_files_are_replaced_whole_and_nothing_else_is_left(tmp_path):
    write(report(BEST), tmp_path)
    write(report(*ALL), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trials.json", "trials.md"]
    assert len(json.loads((tmp_path / "trials.json").read_text())) == len(ALL) - 1


def test_a_report_without_trials_is_written(tmp_path):
    write(report(), tmp_path)
    assert "nothing was measured" in (tmp_path / "trials.md").read_text()


def test_a_budget_of_the_median_is_told_and_ranked_by_the_median():
    slower = replace(COST, latency_ms_p50=5.5, latency_ms_p95=5.6)
    median = Budget(8.0, latency_stat="p50")
    assert outcome(BEST, BUDGET).endswith("6.25 ms p95")
    assert outcome(BEST, median).endswith("5.00 ms p50")
    pair = (result(0, cost=slower), result(1))
    assert [each.number for each in report(*pair).standings.ranked] == [0, 1]
    assert [each.number for each in report(*pair, budget=median).standings.ranked] == [1, 0]


def test_the_runs_of_a_finalist_are_one_row_with_their_mean_and_interval():
    runs = [final(7 + seed, 6, seed, 0.8 + 0.1 * seed, spec=SPEC, cost=COST, scores=SCORES)
            for seed in (0, 1)]  # fmt: skip
    shown = report(BEST, result(3), *runs)
    first, second = shown.standings.ranked
    assert (first.number, first.objective) == (6, pytest.approx(0.85))
    assert first.half_width > 0
    assert second.state == "pruned", "none of the finalists"
    lines = [line for line in markdown(shown).splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 2
    assert lines[2].startswith("| 6 | 0.850 ± ")
    assert "2 seeds, 24 epochs" in lines[2]
    assert "complete, 10 epochs, none of the finalists" in lines[3]
    row = rows(shown.standings)[0]
    assert [(run["stage"], run["seed"]) for run in row["runs"]] == [
        ("cheap", None),
        ("final", 0),
        ("final", 1),
    ]


def test_the_lead_of_the_best_comes_first_and_stands_in_its_row():
    tried = [result(0, origin="baseline"), result(1, origin=SCALED), result(2)]
    runs = [
        final(3 + number, number, 0, value, spec=SPEC, cost=COST, scores=SCORES)
        for number, value in enumerate((0.5, 0.4, 0.6))
    ]
    shown = report(*tried, *runs)
    assert markdown(shown).splitlines()[0] == f"{shown.standings.lead}."
    assert shown.standings.lead.startswith("Trial 2 is ahead of the baseline by 0.100, and of ")
    first, second, third = rows(shown.standings)
    assert [(lead["over"], lead["half_width"]) for lead in first["lead"]] == [
        ("baseline", None),
        ("YOLOv8 scaled", None),
    ]
    assert [round(lead["by"], 3) for lead in first["lead"]] == [0.1, 0.2]
    assert (first["control"], second["control"], third["control"]) == (
        None, "baseline", "YOLOv8 scaled",
    )  # fmt: skip
    assert second["lead"] is third["lead"] is None
    assert third["note"] == "YOLOv8 scaled: 1 seed, 24 epochs"


def test_the_best_is_told_with_its_scores_and_each_limit_with_its_share():
    runs = [final(7 + seed, 6, seed, 0.8 + 0.1 * seed, spec=SPEC, cost=COST, scores=SCORES)
            for seed in (0, 1)]  # fmt: skip
    standings = report(result(6, origin="advised"), *runs).standings
    (network,) = standings.networks
    told = best_found(network)
    assert told.startswith("Best: trial 6 (advised), mAP 0.400, mAP50 0.600, mAP_s 0.200, mAP_l ")
    assert "; objective 0.850 ± " in told
    assert told.endswith(", 2 seeds of 24 epochs")
    budget = Budget(8.0, vram_mib=256.0, params=2e6)
    assert costs(network.shown.cost, budget) == (
        "It takes 6.25 of 8 ms p95 (78%), 64.0 of 256 MiB (25%), 1.23 of 2 M parameters (62%), "
        "1,234,567 parameters, 0.50 GFLOPs, 192 px"
    )


def test_memory_on_another_device_is_told_with_its_name():
    cost = replace(COST, memory_device="TPU v5e", train_vram_mib=150.0)
    run = final(7, 6, 0, 0.8, spec=SPEC, cost=cost, scores=SCORES)
    told = costs(cost, Budget(8.0, vram_mib=256.0, train_vram_mib=300.0))
    assert "6.25 of 8 ms p95 (78%), 64.0 of 256 MiB on TPU v5e (25%), " in told
    assert "150.0 of 300 MiB in training on TPU v5e (50%)" in told
    assert "batch 1; memory for TPU v5e; data" in report(result(6, cost=cost), run).caption()
    assert "memory for" not in report(result(6)).caption()


def test_what_waits_has_no_row():
    shown = report(result(0), made_result(1, "waiting", (), cost=None))
    assert [line[:4] for line in markdown(shown).splitlines() if line.startswith("| ")] == [
        "| tr", "| --", "| 0 ",
    ]  # fmt: skip


def test_a_finalist_whose_short_run_was_not_ended_is_told_by_its_full_runs():
    waiting = result(6, "waiting", [(4, 0.1)], paused=4)
    (network,) = report(waiting, final(7, 6, 0, 0.8, cost=COST)).standings.networks
    assert (network.state, network.note()) == ("complete", "1 seed, 24 epochs")
    running = report(waiting, final(7, 6, 0, 0.8, cost=COST), final(8, 6, 1, 0.8, "waiting"))
    (network,) = running.standings.networks
    assert (network.state, network.note()) == ("running", "1 of 2 seeds, 24 epochs")


def test_a_finalist_that_ended_over_the_budget_is_told_by_that_run():
    slow = replace(COST, latency_ms_p95=9.1)
    facts = {"cost": slow, "scores": SCORES, "constraints": {"latency_ms": 0.1}}
    over = final(7, 6, 0, 0.8, "pruned", reason="over budget once trained", **facts)
    (network,) = report(result(6, rungs=[(3, 0.1)]), over).standings.networks
    assert (network.state, network.objective, network.over_budget) == ("pruned", 0.8, True)
    assert network.shown is over
    assert network.scores["map"] == 0.4
    assert network.note() == "1 seed, over budget once trained"
    assert network.history == {3: 0.1, 24: 0.8}
