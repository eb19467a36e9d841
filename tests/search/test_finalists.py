from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from flaxyolo.cost.budget import Budget
from flaxyolo.search.advised import BASELINE
from flaxyolo.search.controls import SCALED
from flaxyolo.search.finalists import (
    chosen,
    fastest_tied,
    finalists,
    lead_line,
    leads,
    verdict,
)
from tests.search.made import COST, OVER, final, result

BUDGET = Budget(10.0)


def best(found, budget=BUDGET):
    return chosen(found, budget, finalists(found, budget))


def group(candidate, values, latency, first):
    cost = replace(COST, latency_ms_p95=latency)
    return [
        final(first + seed, candidate, seed, value, cost=cost) for seed, value in enumerate(values)
    ]


def test_the_interval_is_students_with_the_spread_of_all_finalists():
    found = group(0, [0.50, 0.52, 0.54], 7.0, 10) + group(1, [0.30, 0.33, 0.30], 5.0, 20)
    first, second = finalists(found, BUDGET)
    spread = np.sqrt((0.0004 * 2 + 0.0001 + 0.0004 + 0.0001) / 4)
    reach = stats.t.ppf(0.975, 4) * spread
    assert (first.number, second.number) == (0, 1)
    assert first.mean == pytest.approx(0.52)
    assert first.half_width == pytest.approx(reach / np.sqrt(3))
    assert first.tied
    assert not second.tied
    assert fastest_tied([first, second]) == first
    assert "ahead of the others beyond chance" in verdict(finalists(found, BUDGET))[-1]


def test_of_two_that_cannot_be_told_apart_the_faster_is_named():
    found = group(0, [0.50, 0.52, 0.54], 7.0, 10) + group(1, [0.49, 0.53, 0.51], 5.0, 20)
    assert [each.number for each in finalists(found, BUDGET)] == [0, 1]
    assert all(each.tied for each in finalists(found, BUDGET))
    assert best(found).number == 12, "the best run of the best mean"
    told = verdict(finalists(found, BUDGET))
    assert told[-2] == "Tied: trials 0, 1 cannot be told apart (95 %)"
    assert told[-1].startswith("The fastest of them is trial 1, in trials/")


def test_the_tie_ends_where_the_difference_leaves_the_interval_of_a_difference():
    spread = 0.01
    reach = stats.t.ppf(0.975, 4) * spread * np.sqrt(2 / 3)
    offsets = np.array([-spread, 0.0, spread])
    for behind, tied in ((0.99 * reach, True), (1.01 * reach, False)):
        found = group(0, 0.5 + offsets, 7.0, 10) + group(1, 0.5 - behind + offsets, 5.0, 20)
        assert finalists(found, BUDGET)[1].tied == tied


def test_one_seed_tells_no_interval():
    found = group(0, [0.5], 7.0, 10) + group(1, [0.4], 5.0, 20)
    first, second = finalists(found, BUDGET)
    assert first.half_width is None
    assert not second.tied
    assert best(found).number == 10
    assert "one seed each" in verdict(finalists(found, BUDGET))[-1]


def test_of_equal_means_the_faster_comes_first():
    found = group(0, [0.5], 7.0, 10) + group(1, [0.5], 5.0, 20)
    assert [each.number for each in finalists(found, BUDGET)] == [1, 0]


def test_a_finalist_that_mostly_ended_over_the_budget_is_out():
    slow = [
        final(30, 2, 0, 0.9),
        final(31, 2, 1, 0.9, state="pruned", constraints=OVER),
        final(32, 2, 2, 0.9, state="pruned", constraints=OVER),
    ]
    found = group(0, [0.5, 0.52], 7.0, 10) + slow
    assert [each.number for each in finalists(found, BUDGET)] == [0]


def test_before_there_are_finalists_the_best_complete_candidate_is_chosen():
    found = [
        result(0, rungs=[(24, 0.3)]),
        result(1, rungs=[(24, 0.4)]),
        result(2, "pruned", [(8, 0.9)]),
    ]
    assert best(found).number == 1
    assert best([]) is None
    assert verdict(finalists(found, BUDGET)) == []


def test_a_budget_of_the_median_decides_ties_by_the_median():
    steady, jumpy = ((replace(COST, latency_ms_p50=p50, latency_ms_p95=p95)) for p50, p95 in
                     ((5.0, 6.0), (4.0, 9.0)))  # fmt: skip
    found = [final(10, 0, 0, 0.5, cost=steady), final(11, 1, 0, 0.5, cost=jumpy)]
    assert [each.number for each in finalists(found, Budget(10.0))] == [0, 1]
    by_median = finalists(found, Budget(10.0, latency_stat="p50"))
    assert [each.number for each in by_median] == [1, 0]
    assert by_median[0].latency_ms == 4.0
    assert best(found, Budget(10.0, latency_stat="p50")).number == 11


def compared(winner, baseline, scaled):
    """A study whose candidates 0, 1 and 2 are the baseline, a YOLOv8 and a draw of the space."""
    found = [result(0, origin=BASELINE), result(1, origin=SCALED), result(2)]
    for number, values in enumerate((baseline, scaled, winner)):
        found += group(number, values, 5.0 + number, 10 * (number + 1))
    return found


def line_of(found):
    return lead_line(finalists(found, BUDGET), found)


def test_the_lead_over_each_control_has_the_interval_of_a_difference():
    found = compared([0.60, 0.62], [0.50, 0.52, 0.54], [0.40, 0.42])
    over_baseline, over_scaled = leads(finalists(found, BUDGET), found)
    spread = np.sqrt((2 * 0.01**2 + 2 * 0.02**2 + 2 * 0.01**2) / 4)
    reach = stats.t.ppf(0.975, 4) * spread
    assert over_baseline.by == pytest.approx(0.61 - 0.52)
    assert over_baseline.half_width == pytest.approx(reach * np.sqrt(1 / 2 + 1 / 3))
    assert over_scaled.by == pytest.approx(0.61 - 0.41)
    assert over_scaled.half_width == pytest.approx(reach * np.sqrt(1 / 2 + 1 / 2))
    assert line_of(found) == (
        "Trial 2 is better than the baseline by 0.090 ± 0.044, and than YOLOv8 scaled into the "
        "same budget by 0.200 ± 0.048"
    )


def test_more_training_of_the_parent_is_no_better_architecture():
    found = compared([0.60, 0.62], [0.50, 0.52], [0.40, 0.42])
    parent = replace(result(3), origin="advised", inherited=1.0)
    assert "the parent trained on for as long cannot be compared with, as it has no full run" in (
        line_of([*found, parent])
    )
    found += [parent, *group(3, [0.55, 0.56], 5.0, 40)]
    assert leads(finalists(found, BUDGET), found)[-1].by == pytest.approx(0.61 - 0.555)
    assert ", and than the parent trained on for as long by 0.055 ± " in line_of(found)
    ahead = [*found[:-2], *group(3, [0.7, 0.72], 5.0, 40)]
    assert line_of(ahead).startswith("Trial 3 is better than the baseline by 0.200")
    assert "parent" not in line_of(ahead)


def test_what_is_not_told_apart_is_no_evidence():
    found = compared([0.60, 0.62], [0.50, 0.52, 0.54], [0.58, 0.62])
    line = line_of(found)
    assert line.startswith("Trial 2 is better than the baseline by 0.090 ± ")
    assert "; no evidence that trial 2 is better than YOLOv8 scaled into the same " in line
    both = line_of(compared([0.60, 0.70], [0.50, 0.70], [0.58, 0.68]))
    assert both.startswith("No evidence that trial 2 is better than the baseline (+0.050 ± ")
    assert " or than YOLOv8 scaled into the same budget (+0.020 ± " in both


def test_one_seed_each_may_be_chance():
    assert line_of(compared([0.6], [0.5], [0.4])) == (
        "Trial 2 is ahead of the baseline by 0.100, and of YOLOv8 scaled into the same budget by "
        "0.200; one seed each, so the lead may be chance"
    )


def test_a_lead_over_one_that_inherited_less_is_said_to_be_partly_its_start():
    found = compared([0.6], [0.5], [0.4])
    shares = {0: 1.0, 1: 0.12, 2: 0.93}
    found = [replace(run, inherited=shares.get(run.finalist)) for run in found]
    line = line_of(found)
    assert line.endswith(
        "; it began nearer to the parent (93%) than YOLOv8 scaled into the same budget (12%): part "
        "of that lead may be the start, and --from-scratch tells"
    )
    alike = [replace(run, inherited=1.0) for run in found]
    assert line_of(alike).endswith("so the lead may be chance")


def test_a_control_that_is_first_is_said_to_be():
    found = compared([0.4], [0.5], [0.6])
    assert best(found).number == 20
    assert line_of(found) == (
        "Nothing that was searched beats trial 1, which is YOLOv8 scaled into the same budget; "
        "trial 1 is ahead of the baseline by 0.100; one seed each, so the lead may be chance"
    )
    first = finalists(found, BUDGET)[0]
    assert (first.number, first.control, first.mean) == (1, "YOLOv8 scaled", 0.6)


def test_what_was_not_trained_whole_cannot_be_compared_with():
    found = compared([0.6], [], [])
    found[1] = result(1, "pruned", origin=SCALED, constraints=OVER)
    assert line_of(found) == (
        "The baseline cannot be compared with, as it has no full run; YOLOv8 scaled into the same "
        "budget cannot be compared with, as it is over the budget"
    )
    assert line_of(found[2:]) is None, "a study of no controls"
    assert line_of([]) is None
