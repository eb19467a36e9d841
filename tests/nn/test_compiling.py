"""Compiled programs are kept in the user's own cache, and none of a run's folder is run."""

import os
import subprocess
import sys

import pytest

from flaxyolo.nn import compiling
from flaxyolo.nn.compiling import compiled_folder, drop_torn

PROGRAM = """
import jax, jax.numpy as jnp
from jax._src import monitoring
from flaxyolo.nn.compiling import keep_compiled
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name))
keep_compiled()
jax.jit(lambda x: x * 3 + 1)(jnp.zeros(7)).block_until_ready()
print(sum(name.endswith("/cache_hits") for name in hits) > 0)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compile_in(folder):
    """Compile in a fresh process that works in a folder; whether it found its program."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.strip() == "True"


@pytest.mark.slow
def test_a_moved_run_finds_its_programs_and_brings_none_along(cache, tmp_path):
    assert not compile_in(tmp_path / "first")
    assert compile_in(tmp_path / "moved")
    assert [*(tmp_path / "first").iterdir(), *(tmp_path / "moved").iterdir()] == []
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    # What a run's folder or that of all runs holds is looked at by nobody.
    (tmp_path / "third" / ".compiled").mkdir(parents=True)
    kept.rename(tmp_path / "third" / ".compiled" / "x")
    assert not compile_in(tmp_path / "third")


def test_a_folder_that_others_may_write_to_is_not_used(cache, tmp_path, caplog):
    folder = compiled_folder()
    assert folder is not None
    assert compiled_folder() == folder
    for mode in (0o770, 0o707):
        folder.chmod(mode)
        assert compiled_folder() is None
    assert "others may write there, so compiled programs are not kept" in caplog.text
    folder.rmdir()
    (tmp_path / "foreign").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "foreign")
    assert compiled_folder() is None


def test_a_folder_of_another_user_is_not_used(cache, monkeypatch):
    monkeypatch.setattr(compiling.os, "geteuid", lambda: os.getuid() + 1)
    assert compiled_folder() is None


def test_programs_that_were_not_written_to_their_end_are_removed(tmp_path):
    for name in ("a-cache", "a-atime", "b-cache"):
        (tmp_path / name).write_bytes(b"x")
    drop_torn(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert left == ["a-atime", "a-cache"]
