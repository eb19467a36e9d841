"""flaxyolo: the best YOLO backbone for your data, inside your latency and memory budget.

`load` reads a detector, `read_study` what a sweep has found, `read_dataset` images and boxes. The
command `python -m flaxyolo.train --epochs 3` is the function `run_train(epochs=3)`, and so is
every other of `run_...`: the same words, and an InputError instead of an exit. They are not called
`train` or `evaluate`, because these are modules of the package, and Python puts a module in the
place of a function of its name as soon as anything imports it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxyolo.ablate import run_ablate
    from flaxyolo.base.detections import Detections
    from flaxyolo.base.errors import InputError
    from flaxyolo.crew.storage import read_study
    from flaxyolo.data.sources import read_dataset
    from flaxyolo.evaluate import run_evaluate
    from flaxyolo.export import run_export
    from flaxyolo.measure import run_measure
    from flaxyolo.nn.detector import TrainedDetector
    from flaxyolo.nn.norm import choose_norm
    from flaxyolo.predict import run_predict
    from flaxyolo.report import run_report
    from flaxyolo.search.results import importances
    from flaxyolo.statistics.advice import stride_recommend
    from flaxyolo.stats import run_stats
    from flaxyolo.sweep import run_sweep
    from flaxyolo.train import run_train
    from flaxyolo.weights.checkpoint import load_detector as load

__version__ = "0.1.0"
__all__ = [
    "Detections",
    "InputError",
    "TrainedDetector",
    "choose_norm",
    "importances",
    "load",
    "read_dataset",
    "read_study",
    "run_ablate",
    "run_evaluate",
    "run_export",
    "run_measure",
    "run_predict",
    "run_report",
    "run_stats",
    "run_sweep",
    "run_train",
    "stride_recommend",
]

_PLACES = {
    "Detections": "base.detections",
    "InputError": "base.errors",
    "TrainedDetector": "nn.detector",
    "choose_norm": "nn.norm",
    "importances": "search.results",
    "load": "weights.checkpoint",
    "read_dataset": "data.sources",
    "read_study": "crew.storage",
    "run_ablate": "ablate",
    "run_evaluate": "evaluate",
    "run_export": "export",
    "run_measure": "measure",
    "run_predict": "predict",
    "run_report": "report",
    "run_stats": "stats",
    "run_sweep": "sweep",
    "run_train": "train",
    "stride_recommend": "statistics.advice",
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
