"""What a worker does next, from every state a study can be in."""

from dataclasses import replace

import pytest

from flaxyolo.crew.curve import CurvePoint
from flaxyolo.search.advised import BASELINE
from flaxyolo.search.controls import SCALED
from flaxyolo.search.schedule import (
    AddFinals,
    AddScaled,
    Close,
    Done,
    GoOn,
    MeasureAgain,
    Propose,
    Wait,
    choose_finalists,
    next_job,
    rungs_that_pay,
)
from flaxyolo.search.spending import Spending
from tests.search.made import OVER, final, result

SPENDING = Spending(trials=6, short_epochs=27, epochs=81, finalists=2, seeds=(0, 1))
"""Rungs at 3, 9 and 27."""


def paused(number, *values):
    rungs = (3, 9, 27)[: len(values)]
    scores = list(zip(rungs, values, strict=True))
    return result(number, "waiting", scores, paused=rungs[-1])


def over(number):
    return result(number, "pruned", constraints=OVER)


def test_candidates_are_proposed_one_after_the_other():
    assert next_job([], SPENDING) == Propose()
    assert next_job([over(0)], SPENDING) == Propose()
    assert next_job([result(0, "waiting")], SPENDING) == GoOn(0, 3)
    assert next_job([result(0, "running")], SPENDING) == Propose()


def test_what_was_interrupted_goes_on_before_what_has_not_begun():
    begun = result(1, "waiting", [(3, 0.2)])
    assert next_job([result(0, "waiting"), begun], SPENDING) == GoOn(1, 9)


def test_one_of_three_goes_on_from_its_rung():
    two = [paused(0, 0.2), paused(1, 0.3)]
    assert next_job(two, SPENDING) == Propose()
    assert next_job([*two, paused(2, 0.1)], SPENDING) == GoOn(1, 9)


def timed(number, epochs, **seconds):
    """A candidate that has taken so long, and waits after so many epochs."""
    return replace(paused(number, *[0.2] * (1 + (epochs > 3))), seconds=seconds)


def test_waiting_pays_where_what_is_left_costs_more_than_another_candidate():
    begun = {"compile": 20.0, "measure": 9.0, "draw": 1.0, "evaluate": 50.0}
    # 24 epochs are left after the first rung, and 18 after the second.
    for epoch_s, expected in ((1.0, 0), (1.5, 1), (2.0, 2)):
        found = [timed(0, 3, train=3 * epoch_s, **begun), timed(1, 9, train=9 * epoch_s, **begun)]
        assert rungs_that_pay(found, SPENDING) == expected
    assert rungs_that_pay(found[:1], SPENDING) == 2, "one candidate tells nothing"
    assert rungs_that_pay([over(0), result(1, "waiting")], SPENDING) == 2


def test_where_waiting_does_not_pay_candidates_are_trained_to_the_end_at_once():
    fresh = result(2, "waiting")
    for waits, until in ((2, 3), (1, 3), (0, 27), (None, 3)):
        assert next_job([paused(0, 0.2), fresh], SPENDING, waits=waits) == GoOn(2, until)
    begun = result(2, "waiting", [(3, 0.1)])
    assert next_job([begun], SPENDING, waits=1) == GoOn(2, 27)
    # Who waits already goes on only when it is ahead, and then to the end.
    three = [paused(0, 0.2), paused(1, 0.3), paused(2, 0.1)]
    assert next_job(three[:2], SPENDING, waits=0) == Propose()
    assert next_job(three, SPENDING, waits=0) == GoOn(1, 27)


def test_a_control_waits_at_the_first_rung_whatever_it_costs():
    baseline = result(0, "waiting", origin=BASELINE)
    assert next_job([baseline], COMPARED, waits=0) == GoOn(0, 3)
    assert next_job([baseline], SPENDING, waits=0) == GoOn(0, 27)


def test_a_score_over_all_others_goes_on_from_the_higher_rung_first():
    found = [paused(0, 0.2), paused(1, 0.3, 0.4), paused(2, 0.1, 0.5), paused(3, 0.4, 0.3)]
    found += [paused(4, 0.1), paused(5, 0.1)]
    # At rung 9 are three, of which one goes on.
    assert next_job(found, SPENDING) == GoOn(2, 27)


def test_what_nobody_has_learnt_stops_nobody():
    assert next_job([paused(0, 0.0)], SPENDING) == GoOn(0, 9)


def test_when_no_more_come_the_share_is_rounded_up_and_the_rest_is_closed():
    few = Spending(trials=2, short_epochs=27, epochs=81, finalists=1, seeds=(0,))
    assert next_job([paused(0, 0.2), paused(1, 0.3)], few) == GoOn(1, 9)
    assert next_job([paused(0, 0.2), paused(1, 0.3, 0.4)], few) == GoOn(1, 27)
    whole = result(1, "complete", [(3, 0.3), (9, 0.4), (27, 0.5)])
    assert next_job([paused(0, 0.2), whole], few) == Close((0,))


def test_another_that_runs_is_waited_for():
    few = Spending(trials=2, short_epochs=27, epochs=81, finalists=1, seeds=(0,))
    assert next_job([paused(0, 0.2), result(1, "running")], few) == Wait()


def test_what_a_busy_machine_left_open_is_measured_before_finalists_are_chosen():
    few = Spending(trials=3, short_epochs=27, epochs=81, finalists=1, seeds=(0,))
    ended = [done(0, 0.2), result(1, "pruned", constraints=OVER)]
    whole = paused(2, 0.3, 0.4, 0.5)
    open_question = replace(whole, looks=1)
    assert next_job([*ended, open_question], few) == MeasureAgain(2, 27)
    assert next_job([*ended, open_question], few, closing=True) == MeasureAgain(2, 27)
    # It is closed to no one, and once it is decided the sweep goes on.
    decided = replace(whole, state="complete", paused=None, looks=0)
    assert next_job([*ended, decided], few) == AddFinals(((2, 0),))
    over_after_all = replace(decided, state="pruned", constraints=OVER)
    assert next_job([*ended, over_after_all], few) == AddFinals(((0, 0),))


def test_what_is_behind_is_closed_though_it_is_undecided():
    few = Spending(trials=2, short_epochs=27, epochs=81, finalists=1, seeds=(0,))
    behind = replace(paused(0, 0.2), looks=1)
    assert next_job([behind, done(1, 0.5)], few) == Close((0,))


def test_a_finalist_chosen_in_haste_is_measured_again_first():
    few = Spending(trials=2, short_epochs=27, epochs=81, finalists=1, seeds=(0,))
    found = [replace(paused(0, 0.5), looks=1), result(1, "waiting")]
    assert next_job(found, few, closing=True) == MeasureAgain(0, 3)


def test_a_full_run_that_waits_for_a_calm_machine_comes_last():
    first, second = choose_finalists(ENDED, FEW)
    runs = ((first, 0), (second, 0), (first, 1), (second, 1))
    waiting = [final(3 + at, *run, 0.5, state="waiting") for at, run in enumerate(runs)]
    waiting[0] = replace(waiting[0], looks=2)
    assert next_job([*ENDED, *waiting], FEW) == GoOn(4, 81)
    over = [replace(each, state="complete") for each in waiting[1:]]
    assert next_job([*ENDED, waiting[0], *over], FEW) == GoOn(3, 81)


def test_what_is_tried_again_takes_nobodys_place():
    few = Spending(trials=2, short_epochs=27, epochs=81, finalists=1, seeds=(0,))
    found = [over(0), result(1, "waiting", again=0, cost=None)]
    assert next_job([*found, result(2, "running")], few) == GoOn(1, 3)
    assert next_job([over(0), result(1, "running", again=0)], few) == Propose()


def done(number, value):
    return result(number, "complete", [(3, value), (9, value), (27, value)])


FEW = Spending(trials=3, short_epochs=27, epochs=81, finalists=2, seeds=(0, 1))
ENDED = [done(0, 0.2), done(1, 0.5), result(2, "pruned", [(3, 0.1)])]


def test_finalists_are_trained_seed_by_seed():
    first, second = choose_finalists(ENDED, FEW)
    assert {first, second} == {0, 1}
    runs = ((first, 0), (second, 0), (first, 1), (second, 1))
    assert next_job(ENDED, FEW) == AddFinals(runs[:2])
    waiting = [
        final(3 + place, number, seed, 0.0, state="waiting")
        for place, (number, seed) in enumerate(runs)
    ]
    assert next_job([*ENDED, *waiting[:2]], FEW) == GoOn(3, 81)
    begun = [final(3, *runs[0], 0.5), final(4, *runs[1], 0.5, state="running")]
    assert next_job([*ENDED, *begun], FEW) == Wait(), "who needs another seed is not known yet"
    begun[1] = final(4, *runs[1], 0.5)
    assert next_job([*ENDED, *begun], FEW) == AddFinals(runs[2:])
    assert next_job([*ENDED, *begun, *waiting[2:]], FEW) == GoOn(5, 81)
    last = [final(5, *runs[2], 0.5), final(6, *runs[3], 0.4)]
    assert next_job([*ENDED, *begun, *last], FEW) == Done()


def test_who_is_told_apart_after_one_seed_has_no_second():
    first, second = choose_finalists(ENDED, FEW)
    begun = [final(3, first, 0, 0.6), final(4, second, 0, 0.3)]
    assert next_job([*ENDED, *begun], FEW) == Done()
    assert isinstance(next_job([*ENDED, *begun], FEW, highest=3.0), AddFinals)


def test_more_seeds_train_only_what_is_new():
    runs = [(number, 0) for number in choose_finalists(ENDED, FEW)]
    begun = [final(3 + place, *run, 0.5) for place, run in enumerate(runs)]
    assert next_job([*ENDED, *begun], FEW) == AddFinals(tuple((number, 1) for number, _ in runs))


def test_without_time_the_finalists_come_at_once_and_the_rest_waits():
    found = [paused(0, 0.2), paused(1, 0.3), result(2, "waiting")]
    job = next_job(found, FEW, closing=True)
    assert isinstance(job, AddFinals)
    assert {number for number, _ in job.runs} == {0, 1}
    assert next_job([result(0, "waiting")], FEW, closing=True) == Done()


def test_a_candidate_over_the_budget_or_without_a_score_is_no_finalist():
    found = [over(0), result(1, "fail"), done(2, 0.3)]
    assert choose_finalists(found, FEW) == [2]
    assert choose_finalists([over(0)], FEW) == []


COMPARED = replace(FEW, controls=True)
KNOWN = [
    replace(done(0, 0.5), origin=f"{BASELINE} = advised"),
    done(1, 0.4),
    done(2, 0.3),
    result(3, "pruned", [(3, 0.6)], origin=SCALED),
]
"""Both controls, of the best scores, and two that the space has drawn."""


def test_a_scaled_yolov8_is_added_once_before_more_candidates_come():
    assert next_job([replace(done(0, 0.5), origin=BASELINE)], COMPARED) == AddScaled()
    assert next_job([result(0, "waiting", origin=BASELINE)], COMPARED) == GoOn(0, 3)
    there = [done(0, 0.5), result(1, "waiting", origin=SCALED)]
    assert next_job(there, COMPARED) == GoOn(1, 3)
    there[1] = result(1, "running", origin=SCALED)
    assert next_job(there, COMPARED) == Propose()
    assert next_job([done(0, 0.5)], COMPARED, none_scaled=True) == Propose()
    assert next_job([done(0, 0.5)], FEW) == Propose()


def test_a_scaled_yolov8_over_the_budget_gives_way_to_a_smaller_one_a_few_times():
    tried = [done(0, 0.5), replace(over(1), origin=SCALED)]
    assert next_job(tried, COMPARED) == AddScaled()
    tried += [replace(over(number), origin=SCALED) for number in (2, 3, 4)]
    assert next_job(tried, COMPARED) == Propose(), "and none of them is one of three candidates"


def test_a_control_waits_at_no_rung_and_takes_nobodys_place_there():
    found = [
        replace(paused(0, 0.9), origin=BASELINE),
        replace(paused(1, 0.8), origin=SCALED),
        paused(2, 0.1),
        paused(3, 0.2),
    ]
    more = replace(COMPARED, trials=9)
    assert next_job(found, more) == Propose(), "of two no one goes on"
    assert next_job([*found, paused(4, 0.1)], more) == GoOn(3, 9)


def test_the_controls_have_full_runs_and_take_no_finalists_place():
    assert set(choose_finalists(KNOWN, COMPARED)) == {1, 2}
    job = next_job(KNOWN, COMPARED)
    assert isinstance(job, AddFinals)
    assert [number for number, _ in job.runs[2:]] == [0, 3]
    assert {seed for _, seed in job.runs} == {0}
    # Without controls the baseline is a candidate like any other.
    assert choose_finalists(KNOWN[:3], FEW)[0] == 0


def test_a_control_has_another_seed_while_the_lead_over_it_is_not_told_apart():
    begun = [
        final(4, 1, 0, 0.9), final(5, 2, 0, 0.2), final(6, 0, 0, 0.85), final(7, 3, 0, 0.1)
    ]  # fmt: skip
    assert next_job([*KNOWN, *begun], COMPARED) == AddFinals(((1, 1), (0, 1)))


def test_without_time_the_controls_come_with_the_finalists_if_they_were_scored():
    job = next_job(KNOWN, COMPARED, closing=True)
    assert isinstance(job, AddFinals)
    assert {number for number, _ in job.runs} == {0, 1, 2, 3}
    early = [result(0, "waiting", origin=BASELINE), paused(1, 0.2)]
    assert next_job(early, COMPARED, closing=True) == AddFinals(((1, 0),))


def test_the_parent_is_trained_on_where_another_is_the_finalist():
    few = replace(COMPARED, finalists=1, seeds=(0,), inherited=True)
    base = replace(done(0, 0.3), origin=BASELINE, inherited=0.2)
    parent = replace(done(1, 0.5), origin="advised", inherited=1.0)
    scaled = replace(done(2, 0.4), origin=SCALED, inherited=0.3)
    other = done(3, 0.6)
    job = next_job([base, parent, scaled, other], few, exhausted=True)
    assert job == AddFinals(((3, 0), (0, 0), (2, 0), (1, 0)))
    worse = done(3, 0.2)
    job = next_job([base, parent, scaled, worse], few, exhausted=True)
    assert job == AddFinals(((1, 0), (0, 0), (2, 0))), "it is its own control"


def test_a_control_that_was_late_is_begun_in_the_time_that_is_held_for_it():
    few = replace(COMPARED, finalists=1, seeds=(0,))
    base, best = replace(done(0, 0.5), origin=BASELINE), done(1, 0.6)
    ended = [base, best, final(2, 1, 0, 0.6), final(3, 0, 0, 0.5)]
    assert next_job(ended, few, closing=True, affordable=1.5) == AddScaled()
    assert next_job(ended, few, closing=True, affordable=0.5) == Done()
    assert next_job(ended, few, closing=True, none_scaled=True) == Done()
    late = result(4, "waiting", origin=SCALED)
    assert next_job([*ended, late], few, closing=True) == GoOn(4, 3)
    unfinished = [base, best, final(2, 1, 0, 0.6, state="waiting"), final(3, 0, 0, 0.5), late]
    assert next_job(unfinished, few, closing=True) == GoOn(2, 81), "the finalist comes first"
    without = replace(few, controls=False)
    assert next_job(ended, without, closing=True) == Done()


def test_a_rung_whose_scores_are_noise_moves_on():
    def noisy(number, value, noise):
        point = CurvePoint(3, value, objective_se=noise)
        return replace(paused(number, value), history=(point,))

    values = (0.20, 0.22, 0.21)
    clear = [noisy(number, value, 0.001) for number, value in enumerate(values)]
    assert next_job(clear, SPENDING) == GoOn(1, 9)
    gone = replace(paused(1, 0.22, 0.3), history=(clear[1].history[0], CurvePoint(9, 0.3)))
    assert next_job([clear[0], gone, clear[2]], SPENDING) == Propose()
    vague = [noisy(number, value, 0.05) for number, value in enumerate(values)]
    gone = replace(gone, history=(vague[1].history[0], CurvePoint(9, 0.3)))
    assert next_job([vague[0], gone, vague[2]], SPENDING) == GoOn(2, 9)


@pytest.mark.parametrize(("inherited", "number"), [(None, 0), (0.8, 2)])
def test_with_fresh_weights_the_box_loss_counts_beside_the_score(inherited, number):
    def scored(number, value, box):
        point = CurvePoint(3, value, {"box": box, "cls": 1.0, "dfl": 1.0})
        return replace(paused(number, value), history=(point,), inherited=inherited)

    found = [scored(0, 0.21, 0.3), scored(1, 0.20, 0.6), scored(2, 0.22, 0.6)]
    assert next_job(found, SPENDING) == GoOn(number, 9)


@pytest.mark.parametrize("state", ["complete", "pruned", "fail"])
def test_a_final_run_that_ended_is_not_begun_again(state):
    runs = [(number, seed) for seed in (0, 1) for number in choose_finalists(ENDED, FEW)]
    ended = [final(3 + place, *run, 0.5, state=state) for place, run in enumerate(runs)]
    assert next_job([*ENDED, *ended], FEW) == Done()
