import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from flaxyolo.base import functions
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function


@dataclass(frozen=True)
class Flags:
    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG")]
    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    out: Path | None = None
    epochs: int = 3
    form: Literal["a", "b"] = "a"


run = as_function(Flags, lambda flags: flags, "make", "the flags")


def test_the_keywords_are_the_flags_with_their_defaults():
    assert run("x.yaml") == Flags(Path("x.yaml"))
    assert run("x", out="runs", epochs=5) == Flags(Path("x"), (), Path("runs"), 5)
    assert inspect.signature(run) == inspect.signature(Flags)
    assert run.__name__ == "run_make"
    assert "python -m flaxyolo.make" in run.__doc__


@pytest.mark.parametrize("words", ["a", Path("a"), ["a"], (Path("a"),)])
def test_one_word_or_several_are_a_tuple_of_text(words):
    assert run("x", words).sources == ("a",)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epochs": "many"}, "run_make: epochs: Input should be a valid integer.*, got 'many'"),
        ({"form": "c"}, "run_make: form: Input should be 'a' or 'b', got 'c'"),
        ({"out": 3}, r"run_make: out: .*path.*, got 3"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(values, says):
    with pytest.raises(InputError, match=says) as caught:
        run("x", **values)
    assert "\n" not in str(caught.value)


def test_a_keyword_that_is_no_flag_is_an_error_of_the_program():
    with pytest.raises(TypeError, match="epoch"):
        run("x", epoch=3)
    with pytest.raises(TypeError, match="missing a required argument: 'config'"):
        run()


def test_the_log_is_shown_unless_the_program_has_its_own(monkeypatch):
    shown = []
    monkeypatch.setattr(functions, "log_to_stderr", lambda: shown.append(1))
    run("x")
    assert shown == []  # pytest has
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    run("x")
    assert shown == [1]
    # What absl does when Orbax is imported, which is no wish of the program's.
    logging.basicConfig()
    assert len(root.handlers) == 1
    run("x")
    assert shown == [1, 1]
    logging.basicConfig(level=logging.INFO, force=True)
    run("x")
    assert shown == [1, 1]
