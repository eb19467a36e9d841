"""The picture of a study: what is drawn, and by which figures."""

from dataclasses import replace
from unittest import mock

import cv2
from matplotlib.figure import Figure

from flaxyolo.cost.budget import Budget
from flaxyolo.search.objective import Objective
from flaxyolo.trials import pareto
from flaxyolo.trials.pareto import draw_front
from flaxyolo.trials.standings import Standings
from tests.search.made import COST, OVER, result

GOLD, RED = (0, 215, 255), (40, 39, 214)


def measured(number, latency, objective, state="complete", **facts):
    cost = replace(COST, latency_ms_p95=latency, latency_ms_p50=latency / 2)
    rungs = [] if objective is None else [(9, objective)]
    return result(number, state, rungs, **{"cost": cost, **facts})


def standings(*records, budget=None, objective=None):
    return Standings(records, budget or Budget(8.0), objective or Objective())


def pixels(path, colour):
    """Pixels of about this colour, which is blue, green, red."""
    picture = cv2.imread(str(path)).astype(int)
    return int((abs(picture - list(colour)).max(-1) < 12).sum())


def axes_of(shown, path):
    """The axes that are drawn of standings."""
    drawn: list[Figure] = []
    with mock.patch.object(pareto, "save_figure", lambda figure, path: drawn.append(figure)):
        draw_front(shown, path)
    return drawn[0].axes[0]


def test_the_winner_and_the_budget_are_drawn(tmp_path):
    # A network with one full run, so that the winner is one of those with a score.
    records = [
        measured(0, 5.0, 0.5),
        measured(1, 7.0, 0.8),
        measured(2, 12.0, 0.9, "pruned", constraints=OVER),
        measured(3, 6.0, 0.2, "waiting"),
        measured(4, 3.0, None, "waiting"),
        result(5, "fail", cost=None),
    ]
    draw_front(standings(*records), tmp_path / "with.png")
    draw_front(standings(*records[2:], budget=Budget(params=1e6)), tmp_path / "without.png")
    assert pixels(tmp_path / "with.png", GOLD) > 50
    assert pixels(tmp_path / "without.png", GOLD) == 0
    assert pixels(tmp_path / "with.png", RED) > pixels(tmp_path / "without.png", RED) + 100


def test_a_median_and_an_objective_of_ones_own_are_what_is_drawn(tmp_path):
    shown = standings(
        measured(0, 6.0, 0.5),
        budget=Budget(8.0, latency_stat="p50"),
        objective=Objective("map_small + 0.5*map"),
    )
    axes = axes_of(shown, tmp_path / "x.png")
    assert axes.get_xlabel() == "latency p50 of detect, ms"
    assert axes.get_ylabel() == "objective: map_small + 0.5 * map"
    assert axes.collections[0].get_offsets().tolist() == [[3.0, 0.5]]
    assert "budget 8 ms" in axes.get_legend_handles_labels()[1]


def test_what_was_measured_and_not_trained_is_at_the_edge(tmp_path):
    axes = axes_of(standings(measured(0, 6.0, 0.5), measured(1, 3.0, None)), tmp_path / "x.png")
    assert "not trained" in axes.get_legend_handles_labels()[1]


def test_a_study_without_scores_is_drawn(tmp_path):
    draw_front(standings(measured(0, 3.0, None)), tmp_path / "empty.png")
    draw_front(standings(), tmp_path / "nothing.png")
    assert cv2.imread(str(tmp_path / "empty.png")).size > 0
    assert cv2.imread(str(tmp_path / "nothing.png")).size > 0
