"""A step is compiled once: for its memory, pre-flight, each part of its training, every seed."""

from dataclasses import replace

import jax
from jax.experimental.compilation_cache import compilation_cache

from flaxyolo.checks.steps import compile_run
from flaxyolo.config import TrainConfig
from flaxyolo.cost.step_memory import with_training_memory
from flaxyolo.training.loop import train
from flaxyolo.training.plan import plan_run
from tests.search.made import COST
from tests.small import tiny_feed, tiny_spec


def test_memory_preflight_and_training_of_every_seed_have_one_program(tmp_path):
    feed, config = tiny_feed(8), TrainConfig(epochs=2, batch_size=4)
    names, run_dir = ("a", "b", "c"), tmp_path / "run"
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert with_training_memory(COST, tiny_spec(), config, feed).train_vram_mib > 0
        compile_run(plan_run(tiny_spec(), config, feed.pixels), feed)
        next(train(tiny_spec(), feed, names, config, run_dir=run_dir))
        saved, again = train(tiny_spec(), feed, names, config, run_dir=run_dir)
        assert (saved.number, again.number) == (1, 2)
        next(train(tiny_spec(), feed, names, replace(config, seed=1)))
    finally:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(list(tmp_path.glob("jit_train_step-*-cache"))) == 1
