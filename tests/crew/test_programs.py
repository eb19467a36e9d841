"""What a worker keeps compiled from one job to the next."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from flaxyolo.cost.measure import compiled_detect
from flaxyolo.crew.programs import Programs
from tests.small import tiny_spec

IMAGES = np.dtype(np.uint8)


def test_a_network_that_is_gone_on_with_is_compiled_once_and_another_in_its_place():
    one = tiny_spec()
    other = replace(one, image_size=2 * one.image_size)
    traced = []

    @jax.jit
    def noted(x):
        traced.append(x)
        return x + 1

    programs = Programs()
    for spec, is_kept in ((one, False), (one, True), (other, False), (one, False), (None, False)):
        compiled, count = compiled_detect.cache_info().currsize, len(traced)
        programs.turn_to(spec)
        assert (compiled_detect.cache_info().currsize == compiled > 0) == is_kept
        noted(jnp.zeros(1))
        assert (len(traced) == count) == is_kept
        compiled_detect(spec or one, 1, IMAGES)
        programs.are_of(spec)
