"""Fixtures of exported models."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Shapes of a batch that is not known yet are symbols of JAX, which jaxtyping refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
