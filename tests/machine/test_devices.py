import pytest

from flaxyolo.machine.devices import accelerators, default_workers, device_key, pinned


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
