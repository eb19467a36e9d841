import os
import subprocess
import sys
from pathlib import Path

import pytest

import flaxyolo
from flaxyolo.base.errors import InputError
from flaxyolo.machine.devices import (
    accelerators,
    default_workers,
    device_key,
    pinned,
    use_device,
    variables_of,
)


@pytest.fixture
def gpus(tmp_path):
    """The system files of a machine with four NVIDIA GPUs."""
    for number in range(4):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0").mkdir(parents=True)
    return tmp_path


def test_each_worker_sees_its_own_gpu(gpus):
    assert default_workers({}, gpus) == 4
    seen = [pinned(index, 4, {"HOME": "/me"}, gpus) for index in range(4)]
    assert seen == [{"HOME": "/me", "CUDA_VISIBLE_DEVICES": str(index)} for index in range(4)]
    assert device_key(seen[2], gpus) == "cuda-2"


def test_only_the_gpus_that_the_user_named_are_given_out(gpus):
    user = {"CUDA_VISIBLE_DEVICES": "3, GPU-5f"}
    assert default_workers(user, gpus) == 2
    assert [pinned(index, 2, user, gpus)["CUDA_VISIBLE_DEVICES"] for index in range(2)] == [
        "3",
        "GPU-5f",
    ]


def test_workers_that_share_a_gpu_divide_its_memory(gpus):
    user = {"CUDA_VISIBLE_DEVICES": "0,1"}
    seen = [pinned(index, 3, user, gpus) for index in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in seen] == ["0", "1", "0"]
    fraction = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    assert [each.get(fraction) for each in seen] == ["0.45", None, "0.45"]
    assert pinned(0, 3, {**user, fraction: "0.2"}, gpus)[fraction] == "0.2"


@pytest.mark.parametrize(
    "user", [{"JAX_PLATFORMS": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}]
)
def test_without_accelerators_nothing_is_pinned(user, gpus):
    assert pinned(1, 2, user, gpus) == user
    assert default_workers(user, gpus) == 1
    assert device_key(user, gpus) == "cpu"


def test_other_makes_are_found(tmp_path):
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, name in enumerate(["0", "51", "52"]):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "gpu_id").write_text(f"{name}\n")
    assert accelerators({}, tmp_path) == ("HIP_VISIBLE_DEVICES", ("0", "1"))


def test_a_tpu_process_of_one_chip_is_told_so(tmp_path):
    for number, vendor in enumerate(["0x1ae0", "0x8086", "0x1ae0"]):
        device = tmp_path / f"sys/bus/pci/devices/{number}"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
    assert pinned(1, 2, {}, tmp_path) == {
        "TPU_VISIBLE_CHIPS": "1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }


def test_a_device_is_chosen_by_its_name(gpus):
    assert variables_of("cpu", {}, gpus) == {"JAX_PLATFORMS": "cpu"}
    assert variables_of("gpu", {"JAX_PLATFORMS": "cpu"}, gpus) == {"JAX_PLATFORMS": "cuda,cpu"}
    second = {"JAX_PLATFORMS": "cuda,cpu", "CUDA_VISIBLE_DEVICES": "1"}
    assert variables_of("cuda:1", {}, gpus) == variables_of("gpu:1", {}, gpus) == second
    # Those that the user left visible are counted, and all workers see the chosen one alone.
    user = {"CUDA_VISIBLE_DEVICES": "2,3"}
    chosen = user | variables_of("cuda:1", user, gpus)
    assert chosen["CUDA_VISIBLE_DEVICES"] == "3"
    assert default_workers(chosen, gpus) == 1
    assert pinned(0, 2, chosen, gpus)["CUDA_VISIBLE_DEVICES"] == "3"
    assert device_key(variables_of("cpu", {}, gpus), gpus) == "cpu"


def test_a_device_that_is_not_there_is_told_with_those_that_are(gpus, tmp_path):
    for name in ("cuda:4", "tpu:0", "cpu:1", "gpux", "cuda:-1"):
        with pytest.raises(InputError, match=f"^--device {name}: expected a device that is here: "
                           "cpu, cuda:0, cuda:1, cuda:2, cuda:3$"):  # fmt: skip
            variables_of(name, {}, gpus)
    with pytest.raises(InputError, match=r"that is here: cpu$"):
        variables_of("cuda:0", {}, tmp_path / "none")


def test_the_device_of_this_process_will_do(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    use_device(None)
    use_device("cpu")
    with pytest.raises(InputError, match=r"^--device nothing: expected a device that is here: cpu"):
        use_device("nothing")


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["gpu0", "tpux,cpu"])
def test_a_platform_that_is_not_there_is_told_in_one_line(platform):
    command = [sys.executable, "-m", "flaxyolo.measure", "configs/yolov8n.yaml"]
    done = subprocess.run(
        command,
        env=os.environ | {"JAX_PLATFORMS": platform},
        cwd=Path(flaxyolo.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: JAX_PLATFORMS={platform}: expected a device that is")
    assert done.stderr.count("\n") == 1
