"""Memory on a device that is not there: descriptions, what is missing, and a real compile."""

import json
from dataclasses import replace
from importlib.util import find_spec

import jax
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.cost import gpu, target, tpu
from flaxyolo.cost.gpu import GPUS, PLUGINS, GpuTarget
from flaxyolo.cost.measure import count_params, memory_mib, tree_bytes
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import nominal_step
from flaxyolo.cost.target import (
    Asked,
    TargetMemory,
    compile_memory,
    needed_mib,
    on_target,
    read_target,
    target_memory,
)
from flaxyolo.cost.tpu import PACKAGE, TPUS, TpuTarget
from flaxyolo.nn.detector import compiled_detect, initial_weights
from flaxyolo.spec import parse, to_dict
from flaxyolo.training.step import compile_step, start
from tests.search.made import COST
from tests.small import tiny_spec

CONFIG = TrainConfig(batch_size=2, augmentation=Augmentation(mosaic=0))
installed = any(map(find_spec, PLUGINS))


@pytest.mark.parametrize("name", GPUS)
def test_every_card_of_the_table_has_a_description(name):
    card = read_target(name)
    assert card.name == GPUS[name].name
    assert card.memory_mib == pytest.approx(GPUS[name].memory_gb * 1e9 / 2**20)
    assert f"core_count: {GPUS[name].multiprocessors}\n" in card.description


def test_a_card_is_described_by_the_figures_of_its_data_sheet():
    described = read_target("h100").description
    for line in (
        "core_count: 132",
        "shared_memory_per_core: 233472",
        "shared_memory_per_block_optin: 232448",
        "threads_per_core_limit: 2048",
        "l2_cache_size: 52428800",
        "cuda_compute_capability { major: 9 minor: 0 }",
        'device_description_str: "NVIDIA H100 80GB HBM3"',
    ):
        assert line in described


def test_a_description_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.txtpb"
    path.write_text(read_target("l4").description)
    assert read_target(str(path)) == read_target("l4")
    path.write_text(
        read_target("l4").description.replace('device_description_str: "NVIDIA L4"', "")
    )
    assert read_target(str(path)).name == "mine"


def test_what_describes_no_gpu_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--target h10: expected one of h100, .*'h100'\?"):
        read_target("h10")
    path = tmp_path / "bad.txtpb"
    path.write_text("core_count: 1")
    with pytest.raises(InputError, match="expected XLA's GpuTargetConfig, found no gpu_device"):
        read_target(str(path))
    path.write_text("gpu_device_info { cuda_compute_capability { major: 9 } }")
    with pytest.raises(InputError, match="expected a device_memory_size in bytes, found none"):
        read_target(str(path))
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="expected a text proto"):
        read_target(str(path))


def test_without_the_packages_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    with pytest.raises(InputError) as missing:
        target_memory(tiny_spec(), CONFIG, read_target("h100"))
    assert str(missing.value) == (
        "compiling for NVIDIA H100 80GB HBM3 needs JAX's CUDA packages (no GPU); run pip install "
        f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__} "
        "nvidia-cuda-nvcc nvidia-nvvm"
    )


@pytest.mark.parametrize("name", TPUS)
def test_a_tpu_is_a_target_by_its_key(name):
    chip = read_target(name)
    assert (chip.platform, chip.name) == ("tpu", TPUS[name].name)
    assert chip.memory_mib == pytest.approx(TPUS[name].memory_gb * 1e9 / 2**20)
    assert chip.environment["TPU_ACCELERATOR_TYPE"] == TPUS[name].slice
    assert chip.environment["JAX_PLATFORMS"] == "cpu"


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tpu, "find_spec", lambda name: name in PLUGINS)
    with pytest.raises(InputError) as missing:
        target_memory(tiny_spec(), CONFIG, read_target("v5e"))
    assert str(missing.value) == (
        "compiling for TPU v5e needs libtpu (no TPU); "
        f"run pip install 'jax[tpu]=={jax.__version__}'"
    )


def refused(said, monkeypatch):
    """What compiles to no program, and says why."""

    def compile_it(self, compiler_options=None):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_it)
    return jax.jit(lambda x: x).lower(1.0)


def test_what_a_tpu_has_no_room_for_needs_what_its_compiler_says(monkeypatch):
    chip = read_target("v5e")
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. "
        "Used 18.50G of 15.75G hbm. Exceeded hbm capacity by 2.75G."
    )
    assert needed_mib(refused(said, monkeypatch), chip) == 18.5 * 1024
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        needed_mib(refused(said, monkeypatch), read_target("h100"))
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (51.53G) exceeds available HBM (15.75G)."
    )
    assert needed_mib(refused(said, monkeypatch), chip) == 51.53 * 1024
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNIMPLEMENTED"):
        needed_mib(refused("UNIMPLEMENTED: no such operation", monkeypatch), chip)


def test_the_child_is_told_all_of_the_detector_and_of_the_gpu(monkeypatch):
    asked = []

    def child(module, **rest):
        asked.append((module, json.loads(rest["given"]), rest["environment"]["JAX_PLATFORMS"]))
        return '{"inference_mib": 3.5, "train_mib": 40.25}'

    monkeypatch.setattr(gpu, "find_spec", lambda name: name == PLUGINS[1])
    monkeypatch.setattr(target, "run_module", child)
    found = target_memory(tiny_spec(), CONFIG, read_target("t4"))
    assert found == TargetMemory(3.5, 40.25)
    ((module, given, platforms),) = asked
    assert (module, platforms) == ("flaxyolo.cost.target", "cpu")
    told = parse(Asked, given, "what is compiled")
    assert told == Asked(tiny_spec(), CONFIG, read_target("t4"))
    other = to_dict(Asked(tiny_spec(), CONFIG, read_target("v6e")))
    assert parse(Asked, other, "what is compiled").target == TpuTarget("TPU v6e", "v6e")


def test_a_cost_takes_the_memory_of_the_target_and_keeps_its_latency(monkeypatch):
    monkeypatch.setattr(target, "target_memory", lambda *_: TargetMemory(3.5, 40.25))
    cost = replace(COST, vram_mib=200.0)
    there = on_target(cost, tiny_spec(), CONFIG, read_target("t4"))
    assert there == replace(
        cost, vram_mib=3.5, train_vram_mib=40.25, train_batch_size=2, memory_device="Tesla T4"
    )
    assert there.conditions().endswith("memory for Tesla T4")
    assert Measurement.from_dict(there.to_dict()) == there


class Here(GpuTarget):
    """This device, as if it were not there."""

    def device(self):
        return jax.devices()[0]


@pytest.mark.slow
def test_on_the_own_device_the_memory_is_that_of_the_own_programs(monkeypatch):
    """The same programs, compiled for a device by name instead of for the default one."""
    monkeypatch.setattr(target, "DTYPE", jax.numpy.float32)
    spec = tiny_spec()
    found = compile_memory(spec, CONFIG, Here(*vars(read_target("h100")).values()))
    plan, feed = nominal_step(spec, CONFIG, jax.numpy.float32)
    step = compile_step(plan, jax.eval_shape(lambda: start(plan)), feed)
    own = memory_mib(step) - feed.device_bytes / 2**20
    # The platform's options, which a target does not have, change the work space only.
    assert found.train_mib == pytest.approx(own, rel=0.1)
    detect = memory_mib(compiled_detect(spec, 1, jax.numpy.uint8))
    assert found.inference_mib == pytest.approx(detect, rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="needs JAX's CUDA packages (no GPU)")
def test_a_tiny_detector_is_compiled_for_a_gpu_that_is_not_there():
    spec = tiny_spec()
    found = target_memory(spec, CONFIG, read_target("h100"))
    # Weights in float32: two sets of them, and two moments.
    weights_mib = tree_bytes(initial_weights(spec, 0)) / 2**20
    assert found.inference_mib > 0.9 * count_params(spec) * 2 / 2**20
    assert found.train_mib > 3.5 * weights_mib
    assert found.train_mib > 2 * found.inference_mib
    wrong = replace(read_target("h100"), description="gpu_device_info { core_count: x }")
    with pytest.raises(InputError, match="compiling for NVIDIA H100 80GB HBM3 failed"):
        target_memory(spec, CONFIG, wrong)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec(PACKAGE), reason="needs libtpu (no TPU)")
def test_a_tiny_detector_is_compiled_for_a_tpu_that_is_not_there():
    spec = tiny_spec()
    found = target_memory(spec, CONFIG, read_target("v5e"))
    weights_mib = tree_bytes(initial_weights(spec, 0)) / 2**20
    # Arrays of few channels take up to a whole tile each.
    assert found.inference_mib > weights_mib
    assert found.train_mib > 3.5 * weights_mib
    assert found.train_mib > found.inference_mib
