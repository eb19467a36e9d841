"""What a folder brings along is data: nothing of it is run."""

import os
import pickle
import re
import shutil
from pathlib import Path

import pytest

import flaxyolo
from flaxyolo import report
from flaxyolo.ablation.around import read_winner
from flaxyolo.base.errors import InputError
from flaxyolo.crew.storage import read_runs, read_study
from flaxyolo.trials.feed import Feed
from tests.tiny_data import tiny_study

RUNS = re.compile(
    r"\bpickle\.loads?\b|Unpickler\(|allow_pickle=True|weights_only=False|(?<![\w.])(eval|exec)\("
    r"|\b(marshal|dill|cloudpickle|joblib|runpy|shelve)\b|\b(unsafe|full)_load|UnsafeLoader"
    r"|\bFullLoader|os\.system|shell=True"
)


def test_one_place_of_the_package_runs_a_file_and_it_is_that_of_a_flag():
    package = Path(flaxyolo.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if RUNS.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"search/space.py"}


class Bomb:
    """Unpickled, it leaves a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
def test_a_foreign_study_is_read_without_running_what_lies_in_it(tmp_path, tmp_path_factory):
    pytest.importorskip("optuna_dashboard")
    made = tiny_study(tmp_path_factory)
    exploded = tmp_path / "exploded"
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(made, folder)
    bomb = pickle.dumps(Bomb(exploded))
    (folder.parent / ".compiled").mkdir()
    for place in ("workers/task.pickle", "workers/task.json", "../.compiled/jit_detect_batch-cache",
                  "sitecustomize.py", "tiny.py", "space.py"):  # fmt: skip
        (folder / place).write_bytes(
            bomb if not place.endswith("py") else f"import os; os.mkdir({str(exploded)!r})".encode()
        )
    (folder / "pictures").mkdir()
    assert report.main([str(folder)]) == 0
    Feed(folder, folder / "pictures").refresh()
    assert len(read_study(folder).trials) > 0
    assert len(read_runs(folder).trials) > 0
    assert flaxyolo.load(folder).class_names == ("blue", "red")
    with pytest.raises(InputError, match="name that file with --space, which runs it"):
        read_winner(folder / "best")
    with pytest.raises(InputError, match="is not the file of the sweep of"):
        read_winner(folder / "best", space=folder / "tiny.py")
    assert not exploded.exists()
