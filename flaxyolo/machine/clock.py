"""The clock of every latency: calls that are timed alone on this machine."""

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from flaxyolo.machine.locks import held

WARM_UP_CALLS = 10
BLOCK_CALLS = 100
"""Calls that make a 95th percentile."""


def quietest(times: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " m"]:
    """Of all blocks of a hundred calls in a row the one with the lowest 95th percentile.

    What else runs on a machine can only add to a latency, and comes in bursts of seconds.
    """
    blocks = np.array_split(times, max(1, len(times) // BLOCK_CALLS))
    return min(blocks, key=lambda block: float(np.percentile(block, 95)))


def time_calls(
    call: Callable[[int], Any],
    *,
    min_calls: int,
    min_seconds: float = 0.0,
    max_seconds: float,
    gap: float = 0.0,
) -> Float64[np.ndarray, " n"]:
    """Milliseconds of each call, until both least numbers are reached or `max_seconds` are over."""
    for i in range(min(WARM_UP_CALLS, min_calls)):
        jax.block_until_ready(call(i))
    times = []
    start = time.perf_counter()
    while True:
        spent = time.perf_counter() - start
        enough = len(times) >= min_calls and spent >= min_seconds
        if times and (enough or spent >= max_seconds):
            return np.array(times) * 1000
        if gap:
            time.sleep(gap)
        began = time.perf_counter()
        jax.block_until_ready(call(len(times)))
        times.append(time.perf_counter() - began)


def device_lock() -> AbstractContextManager[object]:
    """Held by one process at a time on this machine: measurements disturb each other."""
    return held(Path(tempfile.gettempdir()) / "flaxyolo-measure.lock")
