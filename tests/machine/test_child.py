"""Modules in processes of their own: what they print, and how they fail."""

import os

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.machine.child import run_module

MODULE = """
import os, sys, time
print("this says nothing", file=sys.stderr)
exec(sys.stdin.read())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "made_up.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "made_up"


def test_a_module_is_given_its_input_arguments_and_environment(module):
    program = "print(sys.argv[1:], os.environ['COLOUR'], os.environ['HOME'])"
    printed = run_module(
        module, "a", "b c", what="x", given=program, environment={"COLOUR": "red"}, timeout=60.0
    )
    assert printed == f"['a', 'b c'] red {os.environ['HOME']}\n"
    # This package is found from whatever folder.
    assert run_module(module, what="x", given="import flaxyolo.base.errors", timeout=60.0) == ""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("sys.exit(3)", "digging failed (exit code 3): this says nothing"),
        (
            "print('a\\nb\\nerror: no spade', file=sys.stderr); sys.exit(2)",
            "digging failed (exit code 2): no spade",
        ),
        ("os.kill(os.getpid(), 9)", "digging failed (exit code -9): this says nothing"),
    ],
)
def test_a_failure_is_one_line(module, program, said):
    with pytest.raises(InputError) as failed:
        run_module(module, what="digging", given=program, timeout=60.0)
    assert str(failed.value) == said


def test_a_traceback_ends_in_its_last_lines(module):
    with pytest.raises(InputError, match=r"failed \(exit code 1\): .*\| ZeroDivisionError: div"):
        run_module(module, what="digging", given="1 / 0", timeout=60.0)


def test_a_process_that_takes_too_long_is_ended(module):
    with pytest.raises(InputError, match=r"digging took more than 0\.5 s"):
        run_module(module, what="digging", given="time.sleep(60)", timeout=0.5)
