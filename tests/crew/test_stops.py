import gc
import os
import signal
import time
import weakref
from types import SimpleNamespace

import pytest

from flaxyolo.crew import stops


@pytest.fixture
def handlers():
    """Leaves the signals as they were."""
    kept = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGALRM)}
    yield
    for each, handler in kept.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("place", ["callback", "finalizer", "weak reference"])
def test_a_stop_in_the_collection_of_garbage_is_not_lost(handlers, place):
    """Python prints an exception that is raised there, and goes on as if nothing had been."""

    sent = []

    def stop(*_):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    class Plain:
        me: object

    class Finalized:
        def __del__(self):
            stop()

    def collected():
        if place == "callback":
            gc.callbacks.append(stop)
            gc.collect()
        elif place == "weak reference":
            # Of a circle, so that it goes when garbage is collected.
            one = Plain()
            one.me, kept_alive.ref = one, weakref.ref(one, stop)
            del one
            gc.collect()
        else:
            Finalized()
        time.sleep(5)

    kept_alive = SimpleNamespace()
    gc.collect()
    try:
        stops.hear(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            collected()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        gc.callbacks[:] = [each for each in gc.callbacks if each is not stop]


def test_a_stop_that_was_lost_is_heard_by_who_asks(handlers):
    stops.hear(signal.SIGTERM)
    stops.ask()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    # Something has caught it, and the work goes on.
    with pytest.raises(KeyboardInterrupt):
        stops.ask()
    stops.hear(signal.SIGTERM)
    stops.ask()
