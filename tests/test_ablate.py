"""An ablation trains each run once, in pairs, and undoes a winner's choices one at a time."""

import runpy
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import yaml
from optuna.trial import FixedTrial, TrialState, create_trial

from flaxyolo import ablate
from flaxyolo.ablation import around, outcome, study, work
from flaxyolo.ablation.plan import AblationPlan, read_plan
from flaxyolo.ablation.progress import seconds_left
from flaxyolo.ablation.results import Arm, Run
from flaxyolo.ablation.study import Ablation
from flaxyolo.base.errors import InputError
from flaxyolo.config import Config, TrainConfig, write_config
from flaxyolo.crew import phases
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import Record
from flaxyolo.crew.storage import open_study, read_runs, read_study
from flaxyolo.crew.task import write_task
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.nn.detector import initial_weights
from flaxyolo.search.controls import SCALED
from flaxyolo.search.results import results
from flaxyolo.search.space import suggest_detector
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import start
from flaxyolo.weights.checkpoint import load_detector
from flaxyolo.weights.transfer import begun_from
from tests.ablation.runs import stored_rows
from tests.search.made import COST
from tests.small import tiny_pixels, tiny_spec
from tests.tiny_data import SPACE, tiny_study, write_coco

RUN_PATH = runpy.run_path
BASE = Config(tiny_spec(), TrainConfig(epochs=1, batch_size=4))
ARMS = {"se": {"backbone.stages.0.attention": "se", "why": "channels"}}


def write_plan(folder, arms=ARMS):
    write_config(folder / "base.yaml", BASE)
    content = {"baseline": "base.yaml", "arms": arms}
    (folder / "p.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "p.yaml"


def ablation(folder, seeds=(0, 1), only=None, data=None):
    arms = (Arm("baseline", {}), Arm("se", {"backbone.stages.0.attention": "se"}))
    plan = AblationPlan(folder / "p.yaml", BASE, arms)
    data = data or Dataset("x", (), (), ("a", "b", "c"), (1, 2, 3), "print")
    return Ablation(folder, plan.arms, plan.configs(), data, "coco:x", seeds, only)


def in_this_process(study, ablation, workers, storage):
    work.run_worker(ablation.folder, 0)


def stopped_after_a_run(_, ablation, workers, storage):
    # What else is wanted is left to the next command.
    write_task(ablation.folder, study.Task.of(replace(ablation, only="baseline")))
    work.run_worker(ablation.folder, 0)
    raise KeyboardInterrupt


def weights_of(folder):
    return jax.tree.leaves(load_detector(folder / "detector").weights)


@pytest.mark.slow
def test_an_ablation_is_run_added_to_interrupted_and_equal_to_a_run_alone(
    tmp_path, capsys, monkeypatch
):
    write_coco(tmp_path / "data")
    write_plan(tmp_path)
    command = [str(tmp_path / "p.yaml"), "--data", f"coco:{tmp_path / 'data'}", "--no-preflight"]
    command += ["--out", str(tmp_path / "runs")]
    # By a worker process of its own, with its own measurement.
    alone = ["--only", "se", "--seeds", "1", "--seed", "1", "--name", "alone"]
    assert ablate.main([*command, *alone]) == 0
    shown = capsys.readouterr()
    assert "se, seed 1: mAP " in shown.out
    assert "se, seed 1: mAP " in shown.err
    assert "1 of 1 runs" in shown.err
    assert "nothing to conclude yet" in shown.err

    monkeypatch.setattr(phases, "measure_for", lambda *_, **__: COST)
    monkeypatch.setattr(ablate, "watch", in_this_process)
    assert ablate.main([*command, "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert "plan: se: backbone.stages.0.attention: se" in shown.err
    assert "plan: 4 runs, 2 arms with 2 seeds, 1 epoch on 12 images" in shown.err
    folder = tmp_path / "runs" / "ablations" / f"p-{tmp_path.name}"
    assert {"ablation.md", "ablation.json", "ablation.csv", "ablation.png"} <= {
        path.name for path in folder.iterdir()
    }
    assert shown.out.startswith(f"# p-{tmp_path.name}, on ")
    assert "missed" in shown.out
    before = {trial.number: trial for trial in read_study(folder).get_trials()}
    order = [(trial.user_attrs["arm"], trial.user_attrs["seed"]) for trial in before.values()]
    assert order == [("baseline", 0), ("se", 0), ("baseline", 1), ("se", 1)]

    apart, together = (
        tmp_path / "runs" / "ablations" / name / "runs" / "se" / "seed-1"
        for name in ("alone", f"p-{tmp_path.name}")
    )
    for one, other in zip(weights_of(apart), weights_of(together), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = stored_rows(together)
    np.testing.assert_array_equal(stored_rows(apart), rows)
    assert len(rows) > 0
    first = weights_of(folder / "runs" / "se" / "seed-0")
    assert any((a != b).any() for a, b in zip(first, weights_of(together), strict=True))

    monkeypatch.setattr(ablate, "watch", partial(pytest.fail, "trained again"))
    assert ablate.main([*command, "--seeds", "2"]) == 0
    assert "all 4 runs are done" in capsys.readouterr().err

    assert ablate.main([*command, "--seeds", "2", "--epochs", "2"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "begun with other settings: epochs was 1, now 2" in line

    monkeypatch.setattr(ablate, "watch", stopped_after_a_run)
    assert ablate.main([*command, "--seeds", "3"]) == 130
    shown = capsys.readouterr()
    assert "not finished: 1 of 6 runs are still to be made; 2 whole seeds are compared" in shown.err
    assert "interrupted; the same command goes on" in shown.err
    assert "Note: not finished: 1 of 6 runs" in shown.out
    monkeypatch.setattr(ablate, "watch", in_this_process)
    assert ablate.main([*command, "--seeds", "3"]) == 0
    assert "3 seeds (0, 1, 2)" in capsys.readouterr().out
    after = read_study(folder).get_trials()
    assert len(after) == 6
    for number, trial in before.items():
        assert after[number].datetime_complete == trial.datetime_complete
    assert not list(folder.glob("runs/*/*/state"))


def test_an_arm_begins_with_the_baselines_weights_where_they_fit():
    spec = tiny_spec()
    stages = spec.backbone.stages
    other = tiny_spec(
        backbone=replace(spec.backbone, stages=(replace(stages[0], attention="se"), *stages[1:]))
    )
    base, arm = initial_weights(spec, 3), initial_weights(other, 3)
    # Drawn one after the other, what follows the attention differs.
    last = ["head", "cls", 1, "predict", "kernel"]
    assert (get(base.params, last) != get(arm.params, last)).any()
    begun = begun_from(study.first_weights(Config(spec), 3), other, 3).weights
    flat = dict(jax.tree_util.tree_leaves_with_path(begun))
    known = dict(jax.tree_util.tree_leaves_with_path(base))
    assert set(known) < set(flat)
    for path, leaf in known.items():
        np.testing.assert_array_equal(flat[path], leaf)
    fresh = dict(jax.tree_util.tree_leaves_with_path(arm))
    for path in set(flat) - set(known):
        np.testing.assert_array_equal(flat[path], fresh[path])
    # An arm of the baseline's network begins as the baseline does.
    same = begun_from(study.first_weights(Config(spec), 3), spec, 3).weights
    plan = plan_run(spec, replace(BASE.training, seed=3), tiny_pixels())
    for one, two in zip(jax.tree.leaves(same), jax.tree.leaves(start(plan).weights), strict=True):
        np.testing.assert_array_equal(one, two)


def get(tree, path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree)


def test_a_level_keeps_the_bias_that_belongs_to_its_stride():
    stages = tiny_spec().backbone.stages
    backbone = replace(tiny_spec().backbone, stages=tuple(replace(s, width=16) for s in stages))
    coarse = tiny_spec(backbone=backbone)
    fine = tiny_spec(backbone=backbone, neck=replace(coarse.neck, levels=(2, 3, 4)))
    begun = begun_from(study.first_weights(Config(coarse), 0), fine, 0).weights
    bias = ["head", "cls", 0, "predict", "bias"]
    own = get(initial_weights(fine, 0).params, bias)
    np.testing.assert_array_equal(get(begun.params, bias), own)
    assert (own != get(initial_weights(coarse, 0).params, bias)).all()
    kernel = ["head", "cls", 0, "predict", "kernel"]
    np.testing.assert_array_equal(
        get(begun.params, kernel), get(initial_weights(coarse, 0).params, kernel)
    )


def test_runs_are_wanted_seed_by_seed_and_added_once(tmp_path):
    first = ablation(tmp_path / "a")
    assert first.wanted == [("baseline", 0), ("se", 0), ("baseline", 1), ("se", 1)]
    assert first.config("se", 1).training.seed == 1
    found = open_study(tmp_path / "a")
    study.add_missing(found, replace(first, only="se", seeds=(1,)))
    study.add_missing(found, first)
    study.add_missing(found, first)
    assert len(found.get_trials()) == 4
    # Another machine may have added a run at the same moment: the first counts.
    found.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"arm": "se", "seed": 1}))
    numbers = [trial.number for trial in study.open_runs(found, first)]
    assert numbers == [1, 2, 3, 0]
    assert [trial.number for trial in study.open_runs(found, replace(first, only="se"))] == [2, 0]


def test_a_seed_is_whole_when_every_arm_has_it(tmp_path):
    runs = [Run(arm, seed, {}, {}, {}, tmp_path) for arm, seed in
            [("a", 0), ("b", 0), ("a", 1), ("b", 2), ("a", 2), ("c", 1)]]  # fmt: skip
    assert study.whole_seeds(runs, ["a", "b"]) == (0, 2)
    assert study.whole_seeds(runs, ["a", "b", "c"]) == ()


def test_the_training_images_of_the_gap_depend_on_the_seed_alone():
    some = study.training_sample(100, 7, 3)
    assert some == study.training_sample(100, 7, 3) == sorted(set(some))
    assert len(some) == 7
    assert some != study.training_sample(100, 7, 4)
    assert study.training_sample(3, 7, 0) == [0, 1, 2]


def test_the_time_left_follows_the_work_of_each_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flaxyolo.ablation.progress._share", lambda _, arm: {"baseline": 1.0, "se": 2.0}[arm]
    )
    wanted = ablation(tmp_path)
    assert seconds_left(wanted, {}) is None
    # One epoch each: 1 + 2 + 1 + 2 baseline epochs of 5 s.
    assert seconds_left(wanted, {}, 5.0) == 30
    done = Record(0, "complete", seconds={"train": 4.0, "measure": 3.0}, history=(CurvePoint(1),))
    # 4 s an epoch of the baseline, and 3 s beside each of three runs.
    assert seconds_left(wanted, {("baseline", 0): done}) == 4 * (2 + 1 + 2) + 3 * 3


def test_an_arm_that_failed_is_left_out_and_named(tmp_path, caplog):
    write_coco(tmp_path / "data")
    wanted = ablation(tmp_path / "a", data=read_dataset(f"coco:{tmp_path / 'data'}"))
    found = open_study(tmp_path / "a")
    for seed in (0, 1):
        attrs = {"arm": "se", "seed": seed, "reason": "diverged: epoch 1"}
        found.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attrs))
    with caplog.at_level("INFO"):
        assert outcome.conclude(found, wanted) is None
    assert (
        "left out: se, which failed (seed 0: diverged: epoch 1; seed 1: diverged: epoch 1)"
        in caplog.messages
    )
    assert any(line.startswith("nothing to conclude yet") for line in caplog.messages)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "expected a plan, such as configs/ablations/classic.yaml, or --around"),
        (["p.yaml", "--around", "runs/x/best"], "got both"),
        (["p.yaml", "--seeds", "1"], "--seeds: expected at least 2, got 1; one cannot tell"),
        (["p.yaml", "--seeds", "0", "--only", "se"], "--seeds: expected at least 1, got 0"),
        (["p.yaml", "--seed", "-1"], "--seed: expected 0 to"),
        (["p.yaml", "--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["p.yaml", "--image-size", "50"], "the flags: image_size must be a multiple of"),
        (["p.yaml", "--only", "sa"], "--only: expected one of baseline, se, got 'sa'"),
        (["p.yaml", "--name", "a/b"], "--name: expected a name without slashes, got 'a/b'"),
        (["p.yaml", "--data", "pictures"], "--data: expected one of"),
        (["none.yaml"], "cannot read the plan"),
        (["p.yaml", "--space", "x.py"], "--space: is for --around"),
        (["--around", "runs/x/best"], "expected a checkpoint folder, found nothing there"),
    ],
)
def test_bad_flags_get_one_line_and_leave_nothing(given, words, tmp_path, capsys, monkeypatch):
    write_plan(tmp_path)
    write_coco(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in given else ["--data", "coco:data"]
    assert ablate.main([*given, *data]) == 2
    line = capsys.readouterr().err.strip()
    assert words in line
    assert "\n" not in line
    assert not (tmp_path / "runs").exists()


PARAMS = {
    "image_size": 128, "plan": "P3-P5", "width": 16, "ratio": 2.0, "c2.depth": 1, "c3.depth": 1,
    "c4.depth": 1, "c5.depth": 1, "early.block": "residual", "late.block": "residual",
    "neck.kind": "fpn", "neck.block": "plain",
}  # fmt: skip


def winner(**changes):
    params = PARAMS | changes
    detector = suggest_detector(FixedTrial(params))
    asked = FixedTrial(params)
    suggest_detector(asked)
    return around.Winner("s", 4, Config(detector), dict(asked.params), PARAMS,
                         suggest_detector, "digits")  # fmt: skip


def test_a_winners_choices_are_undone_one_at_a_time(tmp_path):
    best = winner(**{"c4.depth": 3, "neck.kind": "pan", "late.block": "c2f", "c3.depth": 2})
    arms, left_out = around.undo(best)
    assert left_out == {}
    assert {arm.name for arm in arms} == {
        "without-c4.depth", "without-neck.kind", "without-late.block", "without-c3.depth",
    }  # fmt: skip
    found = {arm.name: arm for arm in arms}
    assert found["without-neck.kind"].changes == {"neck.kind": "fpn"}
    assert not found["without-neck.kind"].joint
    block = found["without-late.block"]
    assert block.changes == {f"backbone.stages.{n}.block": "residual" for n in (2, 3)}
    assert block.joint
    assert "one parameter of the space, which decides 2 fields" in block.why
    plan = around.around_plan(best, tmp_path)
    around.write_around(best, plan)
    assert read_plan(tmp_path / "plan.yaml") == plan
    assert plan.arms[0] == Arm("baseline", {})


def test_a_choice_that_cannot_be_undone_is_named_with_its_reason(tmp_path, caplog):
    # Without P5 there is no C5, so the depth of C5 is no choice of the winner's. At the cap a
    # ratio may change nothing.
    best = winner(plan="P3-P4", **{"c3.depth": 2})
    arms, left_out = around.undo(best)
    assert {arm.name for arm in arms} == {"without-plan", "without-c3.depth"}
    assert left_out == {}
    stages = next(arm for arm in arms if arm.name == "without-plan").changes["backbone.stages"]
    assert [stage["depth"] for stage in stages] == [1, 2, 1, 1]

    foreign = best._replace(
        params=best.params | {"new": 1}, baseline=PARAMS | {"neck.kind": "tree"}
    )
    arms, left_out = around.undo(foreign)
    assert left_out["new"] == "the baseline does not have it"
    assert left_out["neck.kind"].startswith("tree makes no valid detector: ")
    with caplog.at_level("WARNING"):
        plan = around.around_plan(foreign, tmp_path)
    around.write_around(foreign, plan)
    assert "new is not undone: the baseline does not have it" in caplog.messages
    assert "# - new: the baseline does not have it" in plan.path.read_text()


@pytest.mark.slow
def test_the_plan_around_a_sweeps_winner_is_read_from_its_study(tmp_path_factory, monkeypatch):
    folder = tiny_study(tmp_path_factory)
    # The file that a study names may be anyone's: only one that the command names is run.
    ran = []
    monkeypatch.setattr("runpy.run_path", lambda path: ran.append(path) or RUN_PATH(path))
    with pytest.raises(InputError, match=r"drew from tiny\.py \(.*: name that file with --sp"):
        around.read_winner(folder / "best")
    other = SPACE.with_name("default.py")
    with pytest.raises(InputError, match=r"default\.py: is not the file of the sw.* tiny\.py"):
        around.read_winner(folder / "best", space=other)
    assert ran == []
    best = around.read_winner(folder / "best", space=SPACE)
    assert ran == [str(SPACE)]
    assert best.source == f"coco:{folder.parents[1] / 'data'}"
    records = results(read_runs(folder))
    trial = next(record for record in records if record.trial == best.trial)
    assert best.config.detector == trial.spec
    arms, left_out = around.undo(best)
    differing = {name for name in best.params if best.baseline.get(name) != best.params[name]}
    assert len(arms) + len(left_out) == len(differing)
    controls = [replace(each, origin=SCALED) for each in records]
    monkeypatch.setattr(around, "results", lambda study: controls)
    with pytest.raises(InputError, match="got the control 'YOLOv8 scaled', trial "):
        around.read_winner(folder / "best", space=SPACE)
