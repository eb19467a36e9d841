"""What processes that train together have of a training, without the others."""

import jax
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data.feeds import Streamed
from flaxyolo.train import main
from flaxyolo.training.hosts import ALONE, Hosts, sharers
from flaxyolo.training.meeting import Joined, Joining, _lost
from flaxyolo.weights.checkpoint import as_if_alone
from tests.small import tiny_feed, tiny_pixels

HERE = len(jax.local_devices())


class Watched:
    """Images that remember which of them were read."""

    def __init__(self, images):
        self.images, self.read = images, set()
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.read |= set(np.atleast_1d(rows).tolist())
        return self.images[rows]


def batches_of(hosts, config, count=12):
    pixels = tiny_pixels(count)
    images = Watched(pixels.images)
    feed = Streamed(pixels._replace(images=images))
    return list(feed.batches(config, 0, None, hosts.rows(config.batch_size))), images.read


def test_each_process_reads_its_rows_of_every_batch():
    config = TrainConfig(epochs=2, batch_size=4, augmentation=Augmentation(close_mosaic_epochs=1))
    whole, _ = batches_of(ALONE, config)
    parts = [batches_of(Hosts(2, process), config)[0] for process in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 6
    for batch, *both in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch.indices, np.concatenate([p.indices for p in both]))
        for field, *halves in zip(batch.pixels, *(part.pixels for part in both), strict=True):
            np.testing.assert_array_equal(field, np.concatenate(halves))


def test_no_process_reads_the_images_of_another():
    still = Augmentation(mosaic=0, close_mosaic_epochs=0)
    config = TrainConfig(epochs=1, batch_size=4, augmentation=still)
    read = [batches_of(Hosts(2, process), config)[1] for process in range(2)]
    assert [len(one) for one in read] == [6, 6]
    assert read[0] | read[1] == set(range(12))


def test_resident_images_are_picked_by_the_rows_of_a_process():
    config = TrainConfig(epochs=1, batch_size=4)
    whole = next(tiny_feed().batches(config, 0))
    part = next(tiny_feed().batches(config, 0, None, Hosts(2, 1).rows(4)))
    np.testing.assert_array_equal(part.indices, whole.indices[2:])


def test_devices_that_are_not_there_or_do_not_divide_a_batch_are_refused():
    with pytest.raises(InputError, match=f"--devices {HERE + 1}: expected at most {HERE}, as many"):
        sharers(64, Hosts(devices=HERE + 1))
    with pytest.raises(InputError, match=r"a batch of 3 .* divide by 2 devices \(1 of each of 2 p"):
        sharers(3, Hosts(processes=2, devices=1))
    assert sharers(4, Hosts(processes=2, devices=1)) == 2
    assert sharers(3, Hosts(devices=1)) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes", "2"], "expected --coordinator HOST:PORT, --processes N and --process K"),
        (["--coordinator", "a:1"], "expected --coordinator HOST:PORT, --processes N and --process"),
        (["--coordinator", "a", "--processes", "2", "--process", "0"], "such as 10.0.0.1:1234"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "one of 0 to 1"),
        (["--processes", "0"], "--processes: expected at least 1, got 0"),
        (["--cluster", "--processes", "2"], "--cluster: the cluster says where the processes are"),
        (["--cluster"], "--cluster: expected to meet the other processes, got: coordinator_addr"),
        (["--lost-after", "1"], "--lost-after: expected at least 10 seconds, got 1"),
        (["--devices", "0"], "--devices: expected at least 1, got 0"),
    ],
)
def test_flags_that_do_not_fit_together_are_said_in_one_line(
    tmp_path, capfd, monkeypatch, flags, message
):
    for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)
    # The programs of other tests have been computed in this process.
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    assert main(["configs/yolov8n.yaml", "--out", str(tmp_path / "run"), *flags]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line
    assert not (tmp_path / "run").exists()


def test_one_process_is_alone():
    with Joined(Joining(processes=1, process=0, coordinator="a:1"), 1) as hosts:
        assert hosts == Hosts(devices=1)
    hosts.together("here")
    assert hosts.of_first("value", lambda: {"a": 1}) == {"a": 1}


def test_a_task_of_slurm_that_trains_alone_is_warned(monkeypatch, caplog):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with caplog.at_level("WARNING", "flaxyolo.training.meeting"), Joined(Joining(), None):
        pass
    assert "one of 8 tasks of Slurm, each of which trains alone; with --cluster" in caplog.text


def test_a_lost_process_is_named_where_the_libraries_name_it():
    silent = "unhealthy (stopped sending heartbeats):\n1\n3\nThe tasks have crashed."
    assert _lost(silent).startswith("process 1, 3 was lost (no sign of life): see what")
    assert _lost("RPC: /CoordinationService/PollForError").startswith("process 0 was lost (its")
    assert _lost("Gloo all-reduce failed").startswith("a process was lost (its connection")


def test_orbax_sees_one_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    with as_if_alone():
        assert jax.process_count() == 1
    assert jax.process_count() == 2
