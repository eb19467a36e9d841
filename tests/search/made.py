"""Records made by hand."""

from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import FINAL, Record

COST = Measurement(
    latency_ms_p50=5.0,
    latency_ms_p95=9.3,
    network_ms_p50=4.0,
    fps=200.0,
    vram_mib=64.0,
    train_vram_mib=None,
    params=1000,
    gflops=0.5,
    device="a device",
    dtype="float32",
    image_size=192,
    batch_size=1,
    train_batch_size=None,
    versions={"jax": "0"},
)
OVER = {"latency_ms": 0.2}
"""Constraints of what is over the budget."""


def points(*rungs):
    """A history of scores, from pairs of epoch and objective."""
    return tuple(CurvePoint(epoch, value) for epoch, value in rungs)


def result(number, state="complete", rungs=(), **facts):
    """A trial that was scored after some epochs, as pairs of epoch and objective."""
    given = {"cost": COST, "features": {"x": float(number)}, "history": points(*rungs)}
    return Record(number=number, state=state, **{**given, **facts})


def final(number, candidate, seed, value, state="complete", **facts):
    """A full run of a finalist."""
    return result(number, state, [(24, value)], stage=FINAL, finalist=candidate, seed=seed, **facts)
