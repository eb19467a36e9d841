import io
import json
from dataclasses import replace

import optuna
from rich.console import Console

from flaxyolo.cost.measurement import Measurement
from flaxyolo.search.results import INTERRUPTED
from flaxyolo.search.space import REFERENCE, suggest_detector
from flaxyolo.spec import detector_from_dict
from flaxyolo.trials.table import Report, flat_rows, markdown, ranked, rows, table, write
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
SCORES = {
    "map": 0.4,
    "map_50": 0.6,
    "map_small": 0.2,
    "map_medium": None,
    "map_large": 0.5,
    "per_class": [{"name": "a|b", "map": 0.4, "map_50": 0.6}],
}


def result(number, state="complete", **changes):
    made = made_result(
        number,
        state,
        [(10, 0.7)],
        spec=SPEC,
        cost=COST,
        scores=SCORES,
        run="r",
        params=REFERENCE,
        seconds={"train": 1.5},
    )
    return replace(made, **changes)


def unscored(number, reason, **changes):
    return result(number, "pruned", reason=reason, scores=None, objective=None, epochs=0,
                  history=(), **changes)  # fmt: skip


OVER = unscored(
    1,
    "over budget by 1.30 ms",
    over_budget=True,
    cost=replace(COST, latency_ms_p95=9.3, train_vram_mib=None),
)
BEHIND = result(2, "pruned", reason="behind after 3 of 10 epochs", objective=0.9, epochs=3)
TWIN = result(3, "pruned", reason="the same detector as trial 0", duplicate_of=0)
FAILED = result(4, "fail", reason="diverged: epoch 1", scores=None, objective=None, cost=None)
KILLED = result(5, "fail", reason=INTERRUPTED, scores=None, objective=None, cost=None, spec=None)
BEST = result(6, objective=0.8)
ALL = [result(0), OVER, BEHIND, TWIN, FAILED, KILLED, BEST]


def test_the_best_complete_trial_comes_first_and_failures_last():
    assert [each.number for each in ranked(ALL)] == [6, 0, 2, 1, 3, 4, 5]


def test_json_rows_hold_spec_cost_and_scores_under_the_commands_names():
    first, *_ = written = json.loads(json.dumps(rows(ALL)))
    assert first["number"] == 6
    assert first["state"] == "complete"
    assert detector_from_dict(first["spec"]) == SPEC
    assert first["cost"] == COST.to_dict()
    assert first["scores"] == SCORES
    assert {row["state"] for row in written} == {"complete", "pruned", "fail"}


def test_flat_rows_are_what_plots_and_data_frames_take():
    row = flat_rows([OVER])[0]
    assert (row["number"], row["state"], row["objective"]) == (1, "pruned", None)
    assert (row["latency_ms_p95"], row["params"], row["map"]) == (9.3, 1_234_567, None)


def test_every_outcome_is_told_in_words():
    text = markdown(Report(tuple(ALL), "digits", "at most 8 ms (p95)"))
    lines = text.splitlines()
    assert lines[0] == ("Budget: at most 8 ms (p95); a device, float32, batch 1; data: digits")
    assert lines[4] == (
        "| 6 | 0.400 | 0.600 | 0.200 | n/a | 0.500 | 5.00 | 6.25 | 200 | 64.0 | 512 | "
        "1,234,567 | 0.500 | 192 | complete, 10 epochs |"
    )
    for words in (
        "| over budget by 1.30 ms |",
        "| behind after 3 of 10 epochs |",
        "| the same detector as trial 0 |",
        "| failed: diverged: epoch 1 |",
        "| interrupted |",
    ):
        assert words in text
    over = next(line for line in lines if "over budget" in line)
    assert over.startswith("| 1 | - | - | - | - | - | 5.00 | 9.30 |")


def test_the_terminal_shows_what_the_file_shows():
    report = Report(tuple(ALL), "digits", "at most 8 ms (p95)")
    console = Console(width=170, file=io.StringIO(), record=True)
    console.print(table(report))
    text = console.export_text()
    for line in markdown(report).splitlines()[4:]:
        for cell in line.strip("| ").split(" | "):
            assert cell in text


def test_files_are_replaced_whole_and_nothing_else_is_left(tmp_path):
    report = Report((BEST,), "digits", "at most 8 ms (p95)")
    write(report, tmp_path)
    write(replace(report, results=tuple(ALL)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trials.json", "trials.md"]
    assert len(json.loads((tmp_path / "trials.json").read_text())) == len(ALL)


def test_a_report_without_trials_is_written(tmp_path):
    write(Report((), "digits", "at most 8 ms (p95)"), tmp_path)
    assert "nothing was measured" in (tmp_path / "trials.md").read_text()
