"""Processes that a C++ library aborts: what they say, and their exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from flaxyolo.machine.aborts import Aborts

aborts = Aborts("trouble", lambda noise: f"lost after {noise.count('line')} lines", 75)
aborts.begin()
os.write(2, b"as ever\\n")
print("of Python", file=sys.stderr)
if "end" in sys.argv:
    aborts.end()
if "trouble" in sys.argv:
    os.write(2, b"trouble, line 1\\nline 2\\n")
if "say" in sys.argv:
    aborts.say_and_exit("said")
os.abort()
"""


def aborted(*words):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=Path(__file__).parents[2],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stderr.splitlines()


def test_a_line_of_ours_stands_for_what_the_library_wrote():
    code, lines = aborted("trouble")
    assert code == 75
    assert sorted(lines) == ["as ever", "error: lost after 2 lines", "of Python"]
    assert lines[-1].startswith("error: ")


@pytest.mark.parametrize("words", [(), ("end",), ("end", "trouble")])
def test_an_abort_for_another_reason_is_as_it_ever_was(words):
    code, lines = aborted(*words)
    assert code == -6
    expected = ["as ever", "of Python"] + ["trouble, line 1", "line 2"] * ("trouble" in words)
    assert sorted(lines) == sorted(expected)


def test_what_is_withheld_is_not_said_where_python_ends_the_process():
    code, lines = aborted("trouble", "say")
    assert code == 75
    assert sorted(lines) == ["as ever", "error: said", "of Python"]
