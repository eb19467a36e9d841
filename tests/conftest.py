"""Strict settings for every test: rank promotion is an error, compiles are cached and cheap."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

# In the environment, so that the processes that tests start do the same.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/flaxyolo-xla")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Test processes run side by side: the threads of small matrices would wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Locks of a device lie in the folder for temporary files: side by side, the sweeps of one process
# would stand still while those of another measure.
if "PYTEST_XDIST_WORKER" in os.environ:
    own = f"flaxyolo-tests-{os.getuid()}-{os.environ['PYTEST_XDIST_WORKER']}"
    tempfile.tempdir = os.environ["TMPDIR"] = str(Path(tempfile.gettempdir()) / own)
    os.makedirs(tempfile.tempdir, exist_ok=True)
# Whole sweeps are about what becomes of a latency, not about how exact it is.
os.environ.setdefault("FLAXYOLO_MEASURE_SECONDS", "0.3")

import jax
import jaxtyping
import pytest

# Tests that a shell runs in the background ignore Ctrl-C, and so would what they start.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# To report an import of OpenVINO it would fork a process in which JAX has threads.
sys.modules["openvino_telemetry"] = None

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long is slow too, so that `-m "not slow"` leaves it out."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data, outside the project; the test is skipped where it is absent."""
    path = Path(os.environ.get("FLAXYOLO_TEST_DATA", "../shared/data"))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}; set FLAXYOLO_TEST_DATA to its folder")
    return path.resolve()


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with api.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """One cache for a session's tests, and not the user's."""
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def log_as_before():
    """Undo what a command does to the package's logger, so that `caplog` sees the next test's."""
    yield
    logger = logging.getLogger("flaxyolo")
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()


@pytest.fixture
def unchecked():
    """Shapes of a batch that is not known yet are symbols of JAX, which jaxtyping refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
