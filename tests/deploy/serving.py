"""A real server in a thread, on a port of its own."""

import threading
from contextlib import contextmanager

import cv2
import httpx

from flaxyolo.deploy.listening import Server, bind, url_of
from flaxyolo.deploy.server import make_app
from flaxyolo.deploy.service import Limits, Service
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from tests.small import tiny_pixels, tiny_spec

NAMES = ("nut", "hex bolt", "washer")
IMAGES = tiny_pixels().images

READY = 60.0
"""Seconds that no server takes to start or to end."""


@contextmanager
def running(service):
    """Its URL, while it runs; what was accepted is finished at the end."""
    with bind("127.0.0.1", 0) as bound:
        server, url = Server(make_app(service), "ready"), url_of(bound)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
                client.get(f"{url}/health").raise_for_status()
            yield url
        finally:
            server.should_exit = True
            thread.join(READY)
        assert not thread.is_alive()


def untrained():
    """A detector that finds many things, none of them sure."""
    return TrainedDetector(tiny_spec(), initial_weights(tiny_spec(), 7), NAMES)


def service_of(detector, **limits):
    """Named as one of a sweep is, and compiled."""
    service = Service(detector, "runs/best", Limits(**limits))
    list(service.compile())
    return service


def png(pixels):
    """A file's bytes of RGB pixels."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def picture(number, scale=1):
    """One of those learnt, enlarged."""
    pixels = IMAGES[number % len(IMAGES)]
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)
