"""A damaged checkpoint or state is named in one line, whichever of its files it is."""

import gc
import logging
import random
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.training.state import goes_on, has_state, load_state, read_facts, save_state
from flaxyolo.weights import checkpoint
from flaxyolo.weights.checkpoint import load_detector, save_detector
from flaxyolo.weights.seal import SEAL
from tests.damages import DAMAGES, copied
from tests.small import tiny_spec

STATE = {"step": jnp.int32(7), "kernel": jnp.arange(600.0).reshape(20, 30)}


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder with a detector and a training state, which nobody changes."""
    folder = tmp_path_factory.mktemp("kept")
    spec = tiny_spec()
    detector = TrainedDetector(spec, initial_weights(spec, 1), ("a", "b", "c"))
    save_detector(folder / "detector", detector, {"epoch": 1})
    save_state(folder / "state", STATE, {"epoch": 1})
    return folder


def load(path: Path) -> object:
    if path.name == "detector":
        return load_detector(path)
    return load_state(path, jax.eval_shape(lambda: STATE))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["detector", "state"])
def test_whichever_file_is_damaged_one_line_names_it(kept, tmp_path, name, damage):
    drawn = random.Random(damage)
    names = [path.relative_to(kept / name) for path in files(kept / name)]
    assert len(names) > 6
    for file in names:
        path = copied(kept / name, tmp_path / name)
        DAMAGES[damage](path / file, drawn)
        with pytest.raises(InputError) as caught:
            load(path)
        told = str(caught.value)
        assert told.startswith(f"{path}: a damaged ")
        assert "\n" not in told
        assert len(told) < 500
        assert file.name in told


@pytest.mark.parametrize("name", ["detector", "state"])
def test_a_file_in_the_place_of_the_folder_is_said(kept, tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=f"{tmp_path / name}: .*a file"):
        load(tmp_path / name) if name == "detector" else has_state(tmp_path / name)
    # And it makes way for the next that is saved.
    save_state(tmp_path / name, STATE, {})
    assert has_state(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_weights_that_were_changed_behind_its_back_are_refused(kept, tmp_path):
    path = copied(kept / "detector", tmp_path / "detector")
    metadata = ocp.metadata(str(path)).custom_metadata
    weights = load_detector(path).weights
    shutil.rmtree(path)
    other = jax.tree.map(lambda x: x + 1, weights._asdict())
    ocp.save(str(path), other, custom_metadata=metadata)
    with pytest.raises(InputError, match=f"a damaged checkpoint: {SEAL} is missing"):
        load_detector(path)


@pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning",  # of Orbax, which gave up
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_checkpoints_of_before_there_was_a_seal_are_read(kept, tmp_path, caplog):
    for name in ("detector", "state"):
        path = copied(kept / name, tmp_path / name)
        (path / SEAL).unlink()
        text = (path / "_CHECKPOINT_METADATA").read_text()
        assert '"sealed": true' in text
        (path / "_CHECKPOINT_METADATA").write_text(text.replace(', "sealed": true', ""))
        load(path)
        # Without a checksum some of their files may be damaged unseen, but for the values' own.
        refused: list[str] = []
        for file in files(path):
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
            try:
                found = load(path)
            except InputError as error:
                refused.append(str(error))
            else:
                same(found, load(kept / name))
            file.write_bytes(whole)
        assert len(refused) > 3
        assert all(line.startswith(str(path)) for line in refused)
    gc.collect()  # asyncio tells of its tasks when they are collected
    assert not caplog.messages


def same(found: object, expected: object) -> None:
    for mine, theirs in zip(arrays(found), arrays(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def arrays(loaded: object) -> list[jax.Array]:
    return jax.tree.leaves(loaded.weights if isinstance(loaded, TrainedDetector) else loaded)


def test_a_damaged_state_is_set_aside_and_said(kept, tmp_path, caplog):
    assert not goes_on(tmp_path / "state")
    path = copied(kept / "state", tmp_path / "state")
    assert goes_on(path)
    assert not caplog.messages
    for number, aside in ((1, "state.damaged"), (2, "state.damaged-2")):
        copied(kept / "state", path)
        (path / "state" / "manifest.ocdbt").write_bytes(b"x")
        with caplog.at_level(logging.WARNING):
            assert not goes_on(path)
        assert not path.exists()
        assert (tmp_path / aside).is_dir()
        assert len(caplog.messages) == number
        assert f"set aside as {aside}, and trained from the beginning" in caplog.messages[-1]
        assert "manifest.ocdbt" in caplog.messages[-1]


def test_a_state_that_is_no_checkpoint_is_not_passed_over(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"remove .*state to train from the beginning"):
        load(tmp_path / "state")
    assert not goes_on(tmp_path / "state")
    assert (tmp_path / "state.damaged" / "notes.txt").read_text() == "mine"


def test_permission_and_memory_are_not_taken_for_damage(kept, monkeypatch):
    for error in (PermissionError(13, "Permission denied", "/x"), MemoryError(),
                  RuntimeError("RESOURCE_EXHAUSTED: Out of memory")):  # fmt: skip

        def fail(*_args, error=error, **_kwargs):
            raise error

        monkeypatch.setattr(checkpoint, "_custom_metadata", fail)
        with pytest.raises(type(error)):
            read_facts(kept / "state")


@pytest.mark.parametrize(
    "error",
    [
        ValueError('RESOURCE_EXHAUSTED: Error writing "/elsewhere/.x.new/d/1": '
                   "[OS error 28: ENOSPC No space left on device]"),
        OSError(28, "No space left on device"),
        OSError(28, "No space left on device", "/elsewhere/.x.new/metadata"),
    ],
)  # fmt: skip
def test_a_full_disk_is_blamed_on_the_checkpoint(tmp_path, monkeypatch, error):
    def full(path: str, *_args, **_kwargs):
        (tmp_path / ".state.new.part").write_text("")
        raise error

    monkeypatch.setattr(checkpoint.ocp, "save", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_state(tmp_path / "state", {"x": np.arange(3)}, {})
    told = cli.storage_failure(caught.value, Path("elsewhere"))
    assert told == f"{tmp_path / 'state'}: the disk is full; free some space"
    assert list(tmp_path.iterdir()) == []


def test_threads_that_end_after_a_failed_save_say_nothing(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    checkpoint._hush_late_writers.cache_clear()
    checkpoint._hush_late_writers()
    late = SimpleNamespace(exc_value=RuntimeError("Event loop is closed"))
    other = SimpleNamespace(exc_value=RuntimeError("something else"))
    for each in (late, other):
        thread = threading.Thread(target=sys.unraisablehook, args=(each,))
        thread.start()
        thread.join()
    assert heard == [other]
    sys.unraisablehook(late)
    assert heard == [other, late]
    checkpoint._hush_late_writers.cache_clear()
