"""flaxyolo: the best YOLO backbone for your data, inside your latency and memory budget."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxyolo.weights.checkpoint import load_detector as load

__version__ = "0.1.0"
__all__ = ["load"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Lazy: `python -m flaxyolo.x` warns where the package has imported x already.
    if name == "load":
        from flaxyolo.weights.checkpoint import load_detector

        return load_detector
    raise AttributeError(f"module 'flaxyolo' has no attribute {name!r}")
