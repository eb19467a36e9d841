"""State dicts of PyTorch as NumPy arrays, from files that run no code."""

import importlib
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flaxyolo.base.errors import InputError

Arrays = dict[str, np.ndarray]

SHOWN = 3
"""Names told in a line."""

SAFE_TORCH = (2, 6)
"""From which on `weights_only` runs nothing that a file holds."""

HELD_UNDER = ("state_dict", "model", "model_state_dict")
"""Where a training program's file keeps the state dict among other things."""


def read_arrays(path: Path) -> Arrays:
    """A state dict as NumPy arrays."""
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights, found none")
    if path.suffix not in READERS:
        raise InputError(f"{path}: expected a file of {', '.join(READERS)}, got {path.suffix!r}")
    return READERS[path.suffix](path)


def read_safetensors(path: Path) -> Arrays:
    """The arrays of a safetensors file."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise InputError(
            f"{path}: reading it needs safetensors: pip install 'flaxyolo[convert]'"
        ) from None
    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None


def read_torch(path: Path) -> Arrays:
    """The tensors of a file of PyTorch's, which is read without running what it may hold."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise InputError(
            f"{path}: reading it needs torch, which is not installed here; where it is, save the "
            "state dict with safetensors.torch.save_file and convert that"
        ) from None
    if _version(torch) < SAFE_TORCH:
        raise InputError(
            f"{path}: reading it needs torch 2.6 or newer, as a file can run code in older ones "
            f"(CVE-2025-32434), found {torch.__version__}: pip install -U torch"
        )
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a strange file leads its reader to
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise InputError(
                f"{path}: holds a pickled model, which is code and is not run; where its package "
                "is installed, save the state dict alone: "
                "torch.save(model.state_dict(), 'weights.pt')"
            ) from None
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a file of torch.save: {line}") from None
    for key in HELD_UNDER:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not all(isinstance(x, torch.Tensor) for x in held.values()):
        raise InputError(
            f"{path}: expected a state dict, names with tensors, got "
            f"{listed(map(str, held)) if isinstance(held, dict) else type(held).__name__}"
        )
    return {name: tensor.float().numpy() for name, tensor in held.items()}


def _version(torch: Any) -> tuple[int, ...]:
    """The first two numbers, such as (2, 6) of 2.6.0+cu124; nothing of what is no version."""
    found = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    return tuple(map(int, found.groups())) if found else ()


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


READERS = {".safetensors": read_safetensors, ".pt": read_torch, ".pth": read_torch}
