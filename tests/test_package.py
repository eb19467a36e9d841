"""What `import flaxyolo` offers."""

import inspect
import shutil
import subprocess
import sys

import pytest

import flaxyolo
from tests.tiny_data import ROOT, tiny_study

PUBLIC = [
    "Detections",
    "InputError",
    "TrainedDetector",
    "choose_norm",
    "importances",
    "load",
    "read_dataset",
    "read_study",
    "run_ablate",
    "run_evaluate",
    "run_export",
    "run_measure",
    "run_predict",
    "run_report",
    "run_stats",
    "run_sweep",
    "run_train",
    "stride_recommend",
]
COMMANDS = [name.removeprefix("run_") for name in PUBLIC if name.startswith("run_")]


def test_dir_lists_what_is_public_and_no_more():
    assert dir(flaxyolo) == PUBLIC == flaxyolo.__all__


@pytest.mark.slow
def test_every_public_name_is_there_also_after_the_modules_of_the_commands_were_imported():
    code = (
        "import flaxyolo.train, flaxyolo.evaluate, flaxyolo.sweep, flaxyolo.predict\n"
        "import flaxyolo.export, flaxyolo.ablate, flaxyolo.measure, flaxyolo.report\n"
        "import flaxyolo.stats, flaxyolo\n"
        "from flaxyolo import *\n"
        "assert all(callable(getattr(flaxyolo, name)) for name in flaxyolo.__all__)\n"
        "assert callable(run_train) and flaxyolo.train.run_train is run_train\n"
        "import flaxyolo.nn.detector as other\n"
        "assert other.TrainedDetector is TrainedDetector\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_alone_loads_nothing_large():
    code = (
        "import sys, flaxyolo; flaxyolo.InputError; dir(flaxyolo)\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_and_a_worker_start_without_what_few_of_them_need():
    code = (
        "import sys, flaxyolo.sweep, flaxyolo.train, flaxyolo.trials.work; "
        "print(*{'sklearn', 'pandas', 'scipy.stats', 'onnx', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        flaxyolo.trian  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_the_functions_have_the_words_of_the_flags(name):
    module = __import__(f"flaxyolo.{name}", fromlist=["Flags"])
    function = getattr(flaxyolo, f"run_{name}")
    assert inspect.signature(function) == inspect.signature(module.Flags)


def test_errors_are_exceptions(tmp_path):
    with pytest.raises(flaxyolo.InputError, match="expected either CHECKPOINT"):
        flaxyolo.run_evaluate()
    with pytest.raises(flaxyolo.InputError, match="expected at least one limit"):
        flaxyolo.run_sweep(out=tmp_path)
    with pytest.raises(flaxyolo.InputError, match="--evaluate-every must be at least 1"):
        flaxyolo.run_train("configs/yolov8n.yaml", out=tmp_path / "x", evaluate_every=0)
    with pytest.raises(flaxyolo.InputError, match="--batch-size: expected at least 1 image, got 0"):
        flaxyolo.run_stats("digits", batch_size=0)
    with pytest.raises(flaxyolo.InputError, match=r"expected a plan, such as .* got none"):
        flaxyolo.run_ablate(out=tmp_path)
    with pytest.raises(flaxyolo.InputError, match="expected a config file or a checkpoint folder"):
        flaxyolo.run_measure(tmp_path / "nosuch")
    with pytest.raises(flaxyolo.InputError, match=r"study\.log: expected the study of a sweep"):
        flaxyolo.run_report(tmp_path / "nosuch")
    with pytest.raises(flaxyolo.InputError, match=r"split: Input should be 'train' or 'val'"):
        flaxyolo.run_evaluate("x", split="test")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_detector_is_searched_trained_and_scored_from_python(tmp_path_factory, tmp_path):
    base = tiny_study(tmp_path_factory).parents[1]
    shutil.copytree(base / "as_made" / "tiny", tmp_path / "runs" / "tiny")
    data = f"coco:{base / 'data'}"
    # The study is finished: the same words go on with it.
    swept = flaxyolo.run_sweep(
        budget_ms=10000, data=data, space=str(ROOT / "sweeps" / "tiny.py"), epochs=2, trials=2,
        finalists=1, seeds=1, study="tiny", out=str(tmp_path / "runs"), no_preflight=True,
        no_controls=True, init=base / "source",
    )  # fmt: skip
    assert swept.folder == tmp_path / "runs" / "tiny"
    assert swept.best is not None
    assert swept.best.class_names == ("blue", "red")
    assert len(swept.study.get_trials()) == 2
    best = flaxyolo.run_train(
        swept.folder / "best.yaml", data=data, out=str(tmp_path / "run"), epochs=1,
        no_preflight=True,
    )  # fmt: skip
    assert best.class_names == ("blue", "red")
    scores = flaxyolo.run_evaluate(tmp_path / "run", data=data)
    assert [one.name for one in scores.per_class] == ["blue", "red"]


def test_a_study_is_read_and_its_page_is_written_from_python(tmp_path):
    shutil.copytree(ROOT / "tests" / "studies" / "sweep", tmp_path / "sweep")
    study = flaxyolo.read_study(tmp_path / "sweep")
    assert flaxyolo.importances(study).networks == 3
    page = flaxyolo.run_report(tmp_path / "sweep", out=tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_data_are_read_looked_at_and_advised_on_from_python(tmp_path):
    data = flaxyolo.read_dataset("digits")
    first = data.train[0]
    assert first.pixels().shape == (first.height, first.width, 3)
    statistics, advice = flaxyolo.run_stats("digits", out=tmp_path / "page")
    assert statistics.train.images == len(data.train)
    size = next(each for each in advice if each.key == "image_size")
    assert size.value in [each.image_size for each in statistics.resolutions]
    assert flaxyolo.stride_recommend(40).stride == 16
    assert flaxyolo.choose_norm(8) == "group"
    assert (tmp_path / "page" / "blur.png").is_file()
