"""Trial results made by hand."""

from flaxyolo.cost.measurement import Measurement
from flaxyolo.search.results import TrialResult

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


def result(number, state="complete", rungs=(), **facts):
    """A trial that was scored after some epochs, as pairs of epoch and objective."""
    history = tuple({"epoch": epoch, "objective": value} for epoch, value in rungs)
    given = {
        "reason": "",
        "spec": None,
        "cost": COST,
        "scores": None,
        "objective": history[-1]["objective"] if history else None,
        "epochs": history[-1]["epoch"] if history else 0,
        "over_budget": False,
        "refuted": False,
        "duplicate_of": None,
        "stage": "cheap",
        "paused": None,
        "finalist": None,
        "seed": None,
        "run": None,
        "origin": None,
        "features": {"x": float(number)},
        "predicted_ms": None,
        "crashes": 0,
        "screened": 0,
        "params": {},
        "history": history,
        "seconds": {},
    }
    return TrialResult(number=number, state=state, **{**given, **facts})


def final(number, candidate, seed, value, state="complete", **facts):
    """A full run of a finalist."""
    return result(
        number, state, [(24, value)], stage="final", finalist=candidate, seed=seed, **facts
    )
