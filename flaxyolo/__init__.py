"""flaxyolo: the best YOLO backbone for your data, inside your latency and memory budget.

`load` reads a detector. The command `python -m flaxyolo.train --epochs 3` is the function
`run_train(epochs=3)`, and so is every other of `run_...`: the same words, and an InputError instead
of an exit. They are not called `train` or `evaluate`, because these are modules of the package, and
Python puts a module in the place of a function of its name as soon as anything imports it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxyolo.base.detections import Detections
    from flaxyolo.base.errors import InputError
    from flaxyolo.evaluate import run_evaluate
    from flaxyolo.export import run_export
    from flaxyolo.nn.detector import TrainedDetector
    from flaxyolo.predict import run_predict
    from flaxyolo.sweep import run_sweep
    from flaxyolo.train import run_train
    from flaxyolo.weights.checkpoint import load_detector as load

__version__ = "0.1.0"
__all__ = [
    "Detections",
    "InputError",
    "TrainedDetector",
    "load",
    "run_evaluate",
    "run_export",
    "run_predict",
    "run_sweep",
    "run_train",
]

_PLACES = {
    "Detections": "base.detections",
    "InputError": "base.errors",
    "TrainedDetector": "nn.detector",
    "load": "weights.checkpoint",
    "run_evaluate": "evaluate",
    "run_export": "export",
    "run_predict": "predict",
    "run_sweep": "sweep",
    "run_train": "train",
}
_NAMES = {"load": "load_detector"}
"""What is called otherwise in its module."""


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # Lazy: `python -m flaxyolo.x` warns where the package has imported x already.
    if name not in _PLACES:
        raise AttributeError(f"module 'flaxyolo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flaxyolo.{_PLACES[name]}"), _NAMES.get(name, name))
