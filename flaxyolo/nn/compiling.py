"""Compiling ahead of time with the options that suit the platform."""

import hashlib
import logging
import os
import platform
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from filelock import FileLock

from flaxyolo.base.files import cache_root

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


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache: a step is compiled once, also after an
    interruption, and for a run that was moved.

    They are code, so they are never read from a run's folder, which may be anyone's.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    folder = compiled_folder()
    if folder is not None:
        drop_torn(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", 2**30)


def compiled_folder() -> Path | None:
    """Where this user's compiled programs for this processor are; None where others may write."""
    kind = hashlib.sha256(processor().encode()).hexdigest()[:8]
    folder = cache_root(None).resolve() / f"compiled-{os.geteuid()}-{kind}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    log.warning("%s: others may write there, so compiled programs are not kept: remove it, or name "
                "another folder in FLAXYOLO_CACHE", folder)  # fmt: skip
    return None


def processor() -> str:
    """What programs for the CPU are compiled for: one home may serve machines of several kinds."""
    known = [platform.machine()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known += [next((line for line in lines if line.startswith(key)), "")
                  for key in ("model name", "flags", "Features")]  # fmt: skip
    return "\n".join(known)


def drop_torn(folder: Path) -> None:
    """Remove programs that a killed process has left half written: JAX would neither read nor
    replace them, and keep no others."""
    with FileLock(folder / ".lockfile"):
        for program in folder.glob("*-cache"):
            # This file is written last.
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():
                log.info("%s: was not written to its end, and is removed", program)
                program.unlink()
