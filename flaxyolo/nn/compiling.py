"""Compiling ahead of time with the options that suit the platform."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

log = logging.getLogger(__name__)

CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""XLA on CPU then runs convolutions and products on Eigen and only reductions on YNNPACK, which
takes about 0.6 of the time for a YOLOv8n training step (jax 0.10.2)."""


@lru_cache(maxsize=1)
def compiler_options() -> dict[str, str]:
    """Options for the default backend; none where this version of XLA does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=CPU_OPTIONS).lower(jnp.zeros(1)).compile()
    except jax.errors.JaxRuntimeError as error:
        log.info("XLA's own defaults are used on this CPU: %s", str(error).splitlines()[0])
        return {}
    return CPU_OPTIONS


def compile_ahead(function: Any, *arguments: Any) -> jax.stages.Compiled:
    """Compile a jitted function for these arguments (arrays or their shapes).

    Call the result with the arguments that are not static.
    """
    return function.lower(*arguments).compile(compiler_options=compiler_options())


def keep_compiled(folder: Path) -> None:
    """Keep compiled programs in `folder`: a step is compiled once, also after an interruption."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve() / ".compiled"))
        jax.config.update("jax_compilation_cache_max_size", 2**30)
