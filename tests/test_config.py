"""Config files are written, read back equal, and name what is wrong with them."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flaxyolo.base.errors import InputError
from flaxyolo.config import Augmentation, Config, TrainConfig, read_config, write_config
from tests.small import tiny_spec

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_is_valid_and_survives_a_round_trip(path, tmp_path):
    config = read_config(path)
    write_config(tmp_path / "copy.yaml", config)
    assert read_config(tmp_path / "copy.yaml") == config


def test_a_config_is_read_back_equal_with_its_comment(tmp_path):
    training = TrainConfig(
        epochs=7, learning_rate=0.003, augmentation=Augmentation(mosaic=0, scale=0.25), seed=5
    )
    config = Config(tiny_spec(activation="relu"), training)
    path = tmp_path / "a.yaml"
    write_config(path, config, note="from trial 3\nat 7 ms")
    assert read_config(path) == config
    assert path.read_text().startswith("# from trial 3\n# at 7 ms\ndetector:\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.yaml"]


def test_writing_again_replaces_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    write_config(path, Config(tiny_spec()))
    changed = Config(replace(tiny_spec(), num_classes=9))
    write_config(path, changed)
    assert read_config(path) == changed


def test_training_may_be_left_out(tmp_path):
    path = tmp_path / "a.yaml"
    write_config(path, Config(tiny_spec()))
    data = yaml.safe_load(path.read_text())
    del data["training"]
    path.write_text(yaml.safe_dump(data))
    assert read_config(path).training == TrainConfig()


def broken(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_yaml_that_cannot_be_parsed_is_named_with_its_line(tmp_path):
    message = broken(tmp_path, "detector: {a: 1}\ntraining: a: b\n")
    assert message.startswith(", line 2: not valid YAML: ")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words\n"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    assert "expected the keys 'detector' and 'training'" in broken(tmp_path, text)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    assert "expected a YAML config in UTF-8" in broken(tmp_path, b"\xff\xfe\x00detector")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(InputError, match=f"^{path}: cannot read the config: "):
            read_config(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("traning: {epochs: 3}", "traning: unknown key"),
        ("training: {epoch: 3}", "training.epoch: unknown key"),
        ("training: {epochs: 0}", "training.epochs: .* got 0"),
        ("training: {optimizer: adam}", "training.optimizer: .*'auto', 'sgd' or 'adamw'.*'adam'"),
        ("training: {augmentation: {flip: 2}}", "training.augmentation.flip: .* got 2"),
        ("training: {learning_rate: fast}", "training.learning_rate: .*'fast'"),
    ],
)
def test_a_wrong_entry_is_named_with_its_path(tmp_path, change, message):
    path = tmp_path / "a.yaml"
    write_config(path, Config(tiny_spec()))
    text = path.read_text().partition("training:")[0] + change
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


def test_a_config_without_a_detector_is_refused(tmp_path):
    assert broken(tmp_path, "training: {epochs: 3}") == ": detector: missing"
