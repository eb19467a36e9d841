"""What a sweep hands over to its workers is plain data, which runs nothing."""

import json
import os
import pickle
from dataclasses import fields, replace
from math import inf

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import Engine
from flaxyolo.cost.gpu import GpuTarget
from flaxyolo.crew.task import TASK_FILE, read_task, write_task
from flaxyolo.data.sources import read_dataset
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.search.objective import Objective
from flaxyolo.search.setting import AS_THEY_ARE, Sweep, Task
from flaxyolo.search.space import Ranges, suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.statistics.rules import Advice
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import read_source
from tests.small import tiny_spec
from tests.tiny_data import SPACE, write_coco

RANGES = Ranges((64, 96), (8, 16, 8), 4, (1, 2), "why")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint."""
    path = tmp_path_factory.mktemp("detector") / "best"
    save_detector(
        path, TrainedDetector(tiny_spec(), initial_weights(tiny_spec(), 3), ("a", "b", "c")), {}
    )
    return path


@pytest.fixture
def sweep(tmp_path, source):
    """One of which no field has its default."""
    write_coco(tmp_path / "data")
    return Sweep(
        suggest=suggest_detector,
        budget=Budget(8.0, params=3e6, latency_stat="p50"),
        data=read_dataset(f"coco:{tmp_path / 'data'}"),
        source=f"coco:{tmp_path / 'data'}",
        folder=tmp_path / "s",
        spending=Spending(12, 9, 27, 2, (0, 1), controls=True, inherited=True, taught=1.5),
        objective=Objective("map_small + 0.5*map"),
        seed=3,
        advice=(Advice("image_size", 64, "why", 1.5, "where"),
                Advice("neck.levels", [3, 4], "why", inf, "where")),
        keep="files",
        target=GpuTarget("h100", "device_memory_size: 1"),
        initial=read_source(source),
        known_as="before",
        parent_epochs=14,
        teacher=read_source(source),
        engine=Engine("command", "./phone.sh 'a b'", 12.5),
        later_epochs=300,
    )  # fmt: skip


def handed_over(sweep, space=SPACE, deadline=inf):
    """The task and the sweep that a worker has."""
    write_task(sweep.folder, Task.of(sweep, space, RANGES, 2, deadline))
    task = read_task(sweep.folder, Task)
    return task, task.restored(sweep.folder)


def test_a_sweep_comes_whole_to_its_workers(sweep):
    task, there = handed_over(sweep)
    assert (task.workers, task.ranges, task.deadline) == (2, RANGES, inf)
    assert handed_over(sweep, deadline=1e9)[0].deadline == 1e9
    assert set(AS_THEY_ARE) < {field.name for field in fields(Sweep)}
    for name in (*AS_THEY_ARE, "folder", "fingerprint", "short", "runs"):
        assert getattr(there, name) == getattr(sweep, name), name
    for example, other in zip(there.data.train, sweep.data.train, strict=True):
        assert example.image == other.image
        np.testing.assert_array_equal(example.boxes, other.boxes)
    assert there.data.fingerprint == sweep.data.fingerprint
    for mine, theirs in ((there.initial, sweep.initial), (there.teacher, sweep.teacher)):
        assert (mine.fingerprint, mine.spec, mine.path) == (
            theirs.fingerprint, theirs.spec, theirs.path,
        )  # fmt: skip
    # The space of its file, in the ranges that it leaves open: it has all of its own.
    assert there.suggest.keywords["image_sizes"] == (64,)
    assert handed_over(sweep, None)[1].suggest.keywords["image_sizes"] == (64, 96)


def test_what_was_changed_since_is_told(sweep, tmp_path, source):
    space = tmp_path / "space.py"
    space.write_text(SPACE.read_text())
    task, _ = handed_over(sweep, space)
    space.write_text("raise AssertionError('was run')")
    with pytest.raises(
        InputError, match=r"^--space .*space\.py: was changed since the sweep's com"
    ):
        task.restored(sweep.folder)
    space.unlink()
    with pytest.raises(InputError, match=r"^--space .*space\.py: cannot be read: No such file"):
        task.restored(sweep.folder)
    there = handed_over(sweep)[0]
    other = replace(there, initial=replace(there.initial, fingerprint="x"))
    with pytest.raises(InputError, match="best: expected the detector that the command has read"):
        other.restored(sweep.folder)
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    with pytest.raises(InputError, match=r"^coco:.*: expected the data that the command has read"):
        there.restored(sweep.folder)


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_a_folder_brings_along_is_never_read(sweep, tmp_path):
    workers = sweep.folder / "workers"
    workers.mkdir(parents=True)
    for name in ("task.pickle", TASK_FILE):
        (workers / name).write_bytes(pickle.dumps(Bomb(tmp_path / name)))
    with pytest.raises(InputError, match=r"task\.json: expected JSON, found something else"):
        read_task(sweep.folder, Task)
    (workers / TASK_FILE).unlink()
    with pytest.raises(InputError, match=r"task\.json: expected what the command left there"):
        read_task(sweep.folder, Task)
    assert not (tmp_path / "task.pickle").exists()
    assert not (tmp_path / TASK_FILE).exists()
    # What a version before has left there goes with the next command.
    handed_over(sweep)
    assert not (workers / "task.pickle").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"workers": "many"}, "workers: "),
        ({"more": 1}, "more: unknown key"),
        ({"space": {"path": "x.py"}}, "space.digest: missing"),
        ({"budget": {"latency_ms": -1}}, "budget: "),
        ({"keep": "nowhere"}, "keep: "),
        ({"objective": {"text": "__import__('os').system('x')"}}, "objective: "),
        ({"engine": {"name": "shell"}}, "engine.name: "),
        ({"data": None}, "data: "),
    ],
)
def test_a_task_of_other_values_is_told_in_a_line(sweep, changes, told):
    handed_over(sweep)
    path = sweep.folder / "workers" / TASK_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError) as raised:
        read_task(sweep.folder, Task)
    assert str(raised.value).startswith(f"{path}: {told}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"NaN"])
def test_a_file_that_is_no_task_is_told_in_a_line(tmp_path, content):
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / TASK_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"task\.json: ") as raised:
        read_task(tmp_path, Task)
    assert "\n" not in str(raised.value)
