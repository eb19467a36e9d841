"""A stored detector comes back equal, and a crash never leaves half of one."""

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxyolo
from flaxyolo.base.errors import InputError
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.training import state as training_state
from flaxyolo.training.state import has_state, load_state, save_state
from flaxyolo.weights import checkpoint
from flaxyolo.weights.checkpoint import load_detector, read_metadata, save_detector, source_of
from tests.small import tiny_spec

NAMES = ("a", "b", "ç")


@pytest.fixture
def detector() -> TrainedDetector:
    spec = tiny_spec()
    return TrainedDetector(spec, initial_weights(spec, 1), NAMES)


def test_a_detector_comes_back_equal(tmp_path, detector):
    save_detector(tmp_path / "best", detector, {"epoch": 3})
    loaded = flaxyolo.load(tmp_path / "best")
    assert loaded.spec == detector.spec
    assert loaded.class_names == NAMES
    assert read_metadata(tmp_path / "best")["facts"] == {"epoch": 3}
    for mine, theirs in zip(
        jax.tree.leaves(loaded.weights), jax.tree.leaves(detector.weights), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_what_lies_beside_the_arrays_is_read_without_opening_them(tmp_path, detector):
    path = tmp_path / "best"
    save_detector(path, detector, {"epoch": 3})
    theirs = checkpoint.ocp.metadata(str(path)).custom_metadata
    assert isinstance(theirs, dict)
    assert checkpoint.stored_metadata(path) == theirs

    def kept():
        for _ in range(3):
            read_metadata(path)
        gc.collect()
        return len(gc.get_objects())

    before = kept()
    assert kept() - before < 50, "an array's own description would be hundreds of objects"


def test_a_loaded_detector_answers_on_an_image(tmp_path, detector):
    save_detector(tmp_path / "best", detector, {})
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    mine, theirs = (
        load_detector(tmp_path / "best")(image, min_score=0.0),
        detector(image, min_score=0.0),
    )
    np.testing.assert_array_equal(mine.boxes, theirs.boxes)
    assert (mine.boxes >= 0).all()
    assert (mine.boxes <= np.array([80, 50, 80, 50])).all()


def test_a_text_a_study_and_a_run_name_a_detector_too(tmp_path, detector):
    save_detector(tmp_path / "run" / "best", detector, {})
    for path in (tmp_path / "run" / "best", tmp_path / "run"):
        assert flaxyolo.load(str(path)).spec == detector.spec
        assert flaxyolo.load(path).class_names == NAMES


def test_a_checkpoint_names_its_data(tmp_path, detector):
    for facts, source in (
        ({"data": "coco:old"}, "coco:old"),
        ({"data": "coco:a", "source": "coco:/x/a"}, "coco:/x/a"),
    ):
        save_detector(tmp_path / "best", detector, facts)
        assert source_of(tmp_path / "best") == source
    save_detector(tmp_path / "best", detector, {"trial": 3})
    with pytest.raises(InputError, match=r"best: the checkpoint does not say .*: give --data"):
        source_of(tmp_path / "best")


def test_the_package_shows_what_it_offers():
    assert {"load", "run_train"} <= set(dir(flaxyolo))
    assert (Path(flaxyolo.__file__).parent / "py.typed").is_file()


def test_a_relative_path_will_do(tmp_path, detector, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_detector(Path("runs/best"), detector, {})
    assert load_detector(Path("runs/best")).spec == detector.spec


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path, detector):
    for epoch in (1, 2):
        save_detector(tmp_path / "best", detector, {"epoch": epoch})
    assert read_metadata(tmp_path / "best")["facts"] == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_save_keeps_the_old_one(tmp_path, detector, monkeypatch):
    save_detector(tmp_path / "best", detector, {"epoch": 1})

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.ocp, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_detector(tmp_path / "best", detector, {"epoch": 2})
    assert read_metadata(tmp_path / "best")["facts"] == {"epoch": 1}


def test_a_crash_between_the_two_renames_is_mended(tmp_path):
    save_state(tmp_path / "state", {"x": np.arange(3)}, {"epoch": 1})
    (tmp_path / "state").rename(tmp_path / ".state.old")
    assert has_state(tmp_path / "state")
    state, facts = load_state(tmp_path / "state", {"x": np.arange(3)})
    np.testing.assert_array_equal(state["x"], np.arange(3))
    assert facts == {"epoch": 1}


def test_a_state_comes_back_whole_and_only_for_its_own_network(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    state = {
        "step": jnp.int32(7),
        "none": jnp.zeros((0, 3)),
        "kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16),
        "bias": jnp.asarray(rng.normal(size=(5,)), jnp.float32),
    }
    save_state(tmp_path / "state", state, {"epoch": 3})
    found, facts = load_state(tmp_path / "state", jax.eval_shape(lambda: state))
    assert facts == {"epoch": 3}
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, state)

    wider = {**state, "bias": jnp.zeros(6)}
    with pytest.raises(InputError, match="expected the training state of this network"):
        load_state(tmp_path / "state", wider)
    monkeypatch.setattr(training_state, "STATE_FORMAT", 3)
    with pytest.raises(InputError, match="of format 3, found 2"):
        load_state(tmp_path / "state", state)


def test_what_is_no_checkpoint_is_said_so(tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        load_detector(tmp_path / "missing")
    with pytest.raises(InputError, match="no Orbax checkpoint"):
        load_detector(tmp_path)
    save_state(tmp_path / "state", {"x": np.arange(3)}, {})
    with pytest.raises(InputError, match="keeps its detectors in"):
        load_detector(tmp_path / "state")
