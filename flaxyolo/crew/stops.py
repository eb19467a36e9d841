"""A stop from outside, SIGTERM or SIGHUP, met like Ctrl-C, wherever the program is at that moment.

Python prints an exception that a signal's handler raises while garbage is collected, and goes on as
if nothing had been. Such a stop is heard a moment later; and one that is lost all the same, at the
next step that asks.
"""

import gc
import signal
import weakref
from typing import Any

LATER_S = 0.05
"""After which a stop is heard that came where an exception would be lost."""

_state = {"collecting": False, "stopped": False}


def hear(number: int) -> Any:
    """Meet this signal like Ctrl-C from now on; what was done before, for `signal.signal`."""
    if _note_collection not in gc.callbacks:
        gc.callbacks.insert(0, _note_collection)
    _state["stopped"] = False
    return signal.signal(number, _interrupt) or signal.SIG_DFL


def ask() -> None:
    """KeyboardInterrupt where a stop has come, and whoever asks still runs: it was lost."""
    if _state["stopped"]:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: Any) -> None:
    # Once: a second must not disturb the letting go of trials.
    signal.signal(number, signal.SIG_IGN)
    if _is_swallowed(frame):
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, LATER_S)
        return
    _state["stopped"] = True
    raise KeyboardInterrupt


def _note_collection(phase: str, _: Any) -> None:
    _state["collecting"] = phase == "start"


def _is_swallowed(frame: Any) -> bool:
    """Whether Python would print an exception of here and go on: in the collection of garbage, or
    in what is called when an object goes."""
    if _state["collecting"]:
        return True
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code in callbacks or code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False
