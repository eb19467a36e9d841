"""Files of weights are read without running what they may hold."""

import importlib.util
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.weights.state_dicts import read_arrays


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is there")
def test_without_torch_a_pt_file_is_one_line(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK")
    with pytest.raises(InputError, match="needs torch, which is not installed here"):
        read_arrays(tmp_path / "w.pt")


def test_a_pt_file_is_read_without_running_it(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a.weight": torch.arange(3.0), "a.steps": torch.tensor(3)}
    for name, held in (("plain", tensors), ("run", {"epoch": 3, "state_dict": tensors})):
        torch.save(held, tmp_path / f"{name}.pt")
        found = read_arrays(tmp_path / f"{name}.pt")
        np.testing.assert_array_equal(found["a.weight"], [0, 1, 2])
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="holds a pickled model"):
        read_arrays(tmp_path / "pickled.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(InputError, match="expected a state dict"):
        read_arrays(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(InputError, match=r"not a file of torch\.save"):
        read_arrays(tmp_path / "text.pt")


@pytest.mark.parametrize("version", ["2.5.1+cu121", "1.13.0", "2.0", "unknown"])
def test_a_torch_that_runs_what_a_file_holds_is_refused(version, tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    path.write_bytes(b"PK")

    def load(*_, **__):
        raise AssertionError("the file was opened")

    old = SimpleNamespace(__version__=version, load=load)
    monkeypatch.setitem(sys.modules, "torch", old)
    told = rf"w\.pt: reading it needs torch 2\.6 or newer, .*, found {re.escape(version)}: pip"
    with pytest.raises(InputError, match=told):
        read_arrays(path)
    for newer in ("2.6.0", "2.10.0a0+git", "3.0"):
        old.__version__ = newer
        with pytest.raises(InputError, match="the file was opened"):
            read_arrays(path)


def test_half_precision_is_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"a": np.arange(3, dtype=np.float16)}, tmp_path / "half.safetensors")
    np.testing.assert_array_equal(read_arrays(tmp_path / "half.safetensors")["a"], [0, 1, 2])
