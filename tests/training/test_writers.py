"""The writers against the libraries themselves, where they are installed."""

import struct
import sys
import time

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.training import writers
from flaxyolo.training.follow import Followers
from flaxyolo.training.writers import ready
from tests.events import events, scalars

ROWS = [(epoch, {"train/loss": 1.0 / epoch, "val/map": 0.1 * epoch}) for epoch in (1, 2, 3)]
SETTINGS = {"data": "coco:x", "config": {"epochs": 3, "long": "y" * 900}}


def two_commands(folder, kind):
    """A run that was interrupted after two epochs, and went on."""
    with Followers([kind], folder, "study") as logs:
        logs.begin(anew=False)
        logs.follow("run", ROWS[:2], SETTINGS, name="mine")
        assert not logs.failed
    with Followers([kind], folder, "study") as logs:
        logs.begin(anew=False)
        logs.follow("run", ROWS, SETTINGS, name="mine", figures={"latency_ms_p50": 4.5})
        assert not logs.failed


def test_tensorboard_reads_each_step_once(tmp_path):
    pytest.importorskip("tensorboardX")
    two_commands(tmp_path, "tensorboard")
    found = events(tmp_path / "tensorboard")
    assert scalars(found) == [
        *((tag, step, value) for step, metrics in ROWS for tag, value in metrics.items()),
        ("latency_ms_p50", 3, 4.5),
    ]
    # What an earlier command may have written from there on is hidden by its readers.
    assert [event.step for event in found if event.HasField("session_log")] == [3]
    values = [value for event in found for value in event.summary.value]
    (text,) = [v for v in values if v.metadata.plugin_data.plugin_name == "text"]
    assert b"| config.epochs | 3 |" in text.tensor.string_val[0]


def test_tensorboard_itself_reads_the_events(tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    two_commands(tmp_path, "tensorboard")
    reader = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("val/map")] == [
        (step, pytest.approx(metrics["val/map"])) for step, metrics in ROWS
    ]


def test_a_full_disk_ends_the_log_and_not_the_work(tmp_path, caplog):
    pytest.importorskip("tensorboardX")
    with Followers(["tensorboard"], tmp_path, "study") as logs:
        logs.begin(anew=False)
        logs.follow("run", ROWS[:1], {}, name="mine")
        recorder = logs.writers["tensorboard", "run"].file._py_recordio_writer
        recorder._writer.close()
        with open("/dev/full", "wb", buffering=0) as recorder._writer:
            logs.follow("run", ROWS[:2], {}, name="mine")
            logs.follow("run", ROWS, {}, name="mine")
    told = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(told) == 1
    assert "No space left on device" in told[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_run_with_each_step_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    ready(["mlflow"], "study")
    two_commands(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "mine"
    assert run.data.params["config.epochs"] == "3"
    history = client.get_metric_history(run.info.run_id, "val/map")
    assert [(one.step, one.value) for one in history] == [(s, m["val/map"]) for s, m in ROWS]
    (cost,) = client.get_metric_history(run.info.run_id, "latency_ms_p50")
    assert (cost.step, cost.value) == (3, 4.5)
    # A command that was killed after it wrote, and before it noted that, writes nothing twice.
    (tmp_path / "logged.json").write_text(
        f'{{"mlflow": {{"run": {{"id": "{run.info.run_id}", "step": 1, "ended": false}}}}}}'
    )
    with Followers(["mlflow"], tmp_path, "study") as logs:
        logs.begin(anew=False)
        logs.follow("run", ROWS, SETTINGS, name="mine")
        assert not logs.failed
    assert len(client.get_metric_history(run.info.run_id, "val/map")) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_server_that_does_not_answer_is_said_in_one_line(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"--log mlflow: .*127\.0\.0\.1") as error:
        ready(["mlflow"], "study")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_works_without_network_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ready(["wandb"], "study")
    two_commands(tmp_path, "wandb")
    kept = sorted((tmp_path / "wandb").glob("offline-run-*"))
    # offline-run-TIME-ID, with a number behind it where two begin in the same second.
    assert len({path.name.split("-")[3] for path in kept}) == 1, "one id"
    assert len(kept) == 2
    steps, summary = [], {}
    for path in kept:
        for record in whole_wandb_records(next(path.glob("*.wandb"))):
            if record.WhichOneof("record_type") == "history":
                steps.append(record.history.step.num)
            for item in record.summary.update:
                summary["/".join(item.nested_key) or item.key] = item.value_json
    assert steps == [1, 2, 3]
    assert summary["latency_ms_p50"] == "4.5"


def whole_wandb_records(path):
    """The records of a run that is finished: its process may write the last a little later."""
    for _ in range(200):
        found = list(wandb_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def wandb_records(path):
    """The records of a run's file: a head of 7 bytes, then blocks of 32 KiB, in which each piece
    has a checksum, its length, and whether it is whole (1), or a first, middle or last part."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        if place + 7 + length > len(content):
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_said_in_one_line_with_its_extra(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, writers.PACKAGES[kind][0], None)
    with pytest.raises(InputError) as error:
        ready([kind], "study")
    assert str(error.value) == (
        f"--log {kind}: needs the package {writers.PACKAGES[kind][0]}: "
        f'pip install "flaxyolo[{kind}]"'
    )


def test_a_folder_of_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(InputError, match="needs the package wandb"):
        ready(["wandb"], "study")
    sys.modules.pop("wandb", None)
