"""The notebooks: stored without output, and run from top to bottom on a tiny study."""

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from tests.tiny_data import ROOT, tiny_study

FOLDER = ROOT / "notebooks"
CELL_SECONDS = 240
"""A notebook is to take two minutes on two cores: here others may be at work on them as well."""


class Shown(NamedTuple):
    """What a notebook shows beside its pictures."""

    pictures: int
    """At least so many."""
    text: tuple[str, ...]


SHOWN = {
    "01_first_sweep": Shown(
        1, ("Budget: at most 8 ms (p95)", "latency_ms_p95", "<TrainedDetector of 2 classes"),
    ),
    "02_inspect_a_study": Shown(
        2, ("trained_as", "candidate", "latency_ms", "Optimization History", "Slice Plot",
            "Parallel Coordinate", "Intermediate Values"),
    ),
    "03_load_the_best_and_detect": Shown(
        2, ("<TrainedDetector of 2 classes", "downsample", "PIL image", "supervision", "mAP50-95"),
    ),
    "04_know_your_data": Shown(
        9, ("share of small boxes", "20 px covers 2.50 cells at stride 8", "stride 32",
            "sync_batch", "image_size", "the median box asks for stride 16"),
    ),
    "05_ablation": Shown(
        2, ("What one may conclude", "group-norm, seed 1", "verdict: ",
            "smallest effect that it would have found"),
    ),
    "06_export_and_ship": Shown(
        1, ("px apart", "OpenCV against onnxruntime", "int8 has mAP", "onnxruntime", "class_name",
            "report.html"),
    ),
}  # fmt: skip
READS_THE_BUILT_IN_DATA = "04_know_your_data"
"""Whose advice takes more boxes than the tiny data have; no network is trained in it."""


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(name: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == "code"]


def test_the_notebooks_are_these():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_is_valid_and_stored_without_output(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_says_what_it_is_for_installs_as_all_do_and_leads_on(name):
    first, *_, last = read(name).cells
    assert first.source.startswith(f"# {int(name[:2])}. ")
    assert "At the end" in first.source or "at the end" in first.source
    assert "It takes" in first.source
    assert code(name)[0] == code("01_first_sweep")[0]
    assert "## What next" in last.source


def test_every_notebook_but_the_last_leads_to_the_next():
    names = list(SHOWN)
    for name, following in itertools.pairwise(names):
        assert f"({following}.ipynb)" in read(name).cells[-1].source


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_uses_public_names(name):
    lines = "\n".join(code(name)).splitlines()
    deep = [line for line in lines if line.startswith(("from flaxyolo", "import flaxyolo."))]
    # In the file of a search space, as those of sweeps/ have it.
    assert [line for line in deep if "flaxyolo.search.space import" not in line] == []


def test_the_install_cell_asks_for_the_wheel_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plain = code("01_first_sweep")[0].replace("%pip", "raise KeyError(wheels[0]) #")
    with pytest.raises(FileNotFoundError, match=r"no flaxyolo-\*\.whl here: upload it first"):
        exec(plain, {})
    (tmp_path / "flaxyolo-0.1.0-py3-none-any.whl").touch()
    with pytest.raises(KeyError, match=r"flaxyolo-0\.1\.0-py3-none-any\.whl"):
        exec(plain, {})
    kept = (tmp_path / "kept.txt").read_text().splitlines()
    assert [line for line in kept if line.startswith("jax==")] != []
    assert all(line.startswith("jax") for line in kept)


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    return tiny_study(tmp_path_factory).parents[1] / "as_made" / "tiny"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_from_top_to_bottom(name, study, tmp_path, monkeypatch, capsys):
    from nbclient import NotebookClient

    monkeypatch.setenv("FLAXYOLO_STUDY", str(study))
    if name != READS_THE_BUILT_IN_DATA:
        monkeypatch.setenv("FLAXYOLO_DATA", f"coco:{study.parents[1] / 'data'}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    # As compiled for tests, a network of half a millisecond takes many: near a budget.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook, began = read(name), time.monotonic()
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, resources=where).execute()
    with capsys.disabled():
        print(f" {name}: {time.monotonic() - began:.0f} s", end="")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert pictures >= SHOWN[name].pictures
    text = "".join(str(output) for output in outputs)
    assert [part for part in SHOWN[name].text if part not in text] == []
