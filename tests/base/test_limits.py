import os

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.base.limits import MOST_PIXELS, OUTSIDE, PIXELS, allow_outside, max_pixels, reading


def test_limits_hold_for_the_command_and_its_processes_and_no_longer(monkeypatch):
    monkeypatch.setenv(PIXELS, "5")
    with reading(7, True):
        assert (max_pixels(), allow_outside()) == (7, True)
        assert os.environ[PIXELS] == "7"
        with reading(None, False):  # as around it
            assert (max_pixels(), allow_outside()) == (7, True)
    assert (max_pixels(), allow_outside()) == (5, False)
    assert OUTSIDE not in os.environ
    monkeypatch.delenv(PIXELS)
    assert max_pixels() == MOST_PIXELS


@pytest.mark.parametrize("said", ["-1", "0", "many", "1e9", "9" * 20])
def test_a_limit_that_is_none_is_told(monkeypatch, said):
    monkeypatch.setenv(PIXELS, said)
    with pytest.raises(InputError, match=f"{PIXELS}: expected a number of pixels from 1, got '"):
        max_pixels()


def test_a_flag_below_one_is_told():
    told = "--max-pixels: expected a number of pixels from 1, got 0"
    with pytest.raises(InputError, match=told), reading(0, False):
        pytest.fail("went on")
