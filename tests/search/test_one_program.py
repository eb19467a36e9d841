"""A trial's training step is compiled once: for its memory, its training and every seed."""

from dataclasses import replace

import jax
from jax.experimental.compilation_cache import compilation_cache

from flaxyolo.config import TrainConfig
from flaxyolo.search.limits import with_training_memory
from flaxyolo.training import train
from tests.search.made import COST
from tests.small import tiny_pixels, tiny_spec


def test_memory_and_training_of_every_seed_have_one_program(tmp_path):
    pixels, config = tiny_pixels(8), TrainConfig(epochs=1, batch_size=4)
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert with_training_memory(COST, tiny_spec(), config, pixels).train_vram_mib > 0
        for seed in (0, 1):
            list(train(tiny_spec(), pixels, ("a", "b", "c"), replace(config, seed=seed)))
    finally:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(list(tmp_path.glob("jit_train_step-*-cache"))) == 1
