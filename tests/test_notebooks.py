from pathlib import Path

import nbformat
import pytest

from tests.tiny_data import ROOT, tiny_study

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return tiny_study(tmp_path_factory).parents[1] / "as_made" / "tiny"


def test_there_are_two_notebooks_and_they_are_stored_without_output():
    assert [path.stem for path in NOTEBOOKS] == ["inspect_a_study", "load_the_best"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, study, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("FLAXYOLO_STUDY", str(study))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    text = "".join(str(output) for output in outputs)
    assert ("DetectorSpec" if path.stem == "load_the_best" else "latency_ms_p95") in text
