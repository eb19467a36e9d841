"""Made-up state dicts with the names of other packages' networks."""

from pathlib import Path

import jax
import numpy as np

from flaxyolo.config import read_config
from flaxyolo.nn.detector import abstract_weights
from flaxyolo.weights.families import FAMILIES, their_names

CONFIGS = Path(__file__).parents[1] / "configs"
NORM = ("weight", "bias", "running_mean", "running_var")
FAMILY_OF = {
    "yolov5n": "yolov5",
    "yolov8n": "yolov8",
    "yolov10n": "yolov10",
    "yolo11n": "yolo11",
    "yolox-nano": "yolox",
    "yolox-s": "yolox",
    "rtmdet-tiny": "rtmdet",
}


def spec_of(name):
    return read_config(CONFIGS / f"{name}.yaml").detector


def random_arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    draw = {"running_var": lambda s: rng.uniform(0.5, 2, s), "num_batches_tracked": np.zeros}
    return {
        name: draw.get(name.rpartition(".")[2], lambda s: rng.normal(0, 0.1, s))(shape).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def state_dict_of(spec, family, seed=0):
    """A random state dict with the names of a family."""
    abstract = {
        jax.tree_util.keystr(path[1:], simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_weights(spec))
    }
    shapes = {
        name: (s if len(s := abstract[path]) == 1 else (s[3], s[2], s[0], s[1]))
        for path, name in their_names(spec, FAMILIES[family]).items()
    }
    arrays = random_arrays(shapes, seed)
    copies = FAMILIES[family].copies(spec)
    return arrays | {copy: arrays[name] for copy, name in copies.items()}
