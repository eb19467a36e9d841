"""What a worker keeps compiled from one job to the next."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from flaxyolo.cost.measure import compiled_detect, forget_programs
from flaxyolo.crew.programs import KEPT, Programs
from tests.small import tiny_spec

IMAGES = np.dtype(np.uint8)


def test_the_last_few_networks_are_compiled_once_and_then_make_room():
    forget_programs()
    specs = [replace(tiny_spec(), num_classes=number) for number in range(1, KEPT + 2)]
    traced = []

    @jax.jit
    def noted(x):
        traced.append(x)
        return x + 1

    def done(spec):
        """A job; how many networks' programs were there when it began."""
        programs.turn_to(spec)
        kept = compiled_detect.cache_info().currsize
        noted(jnp.zeros(1))
        compiled_detect(spec, 1, IMAGES)
        programs.are_of(spec)
        return kept

    programs = Programs()
    assert [done(spec) for spec in specs[:KEPT]] == list(range(KEPT))
    assert [done(spec) for spec in specs[:KEPT]] == [KEPT] * KEPT
    assert len(traced) == 1
    assert [done(spec) for spec in (specs[KEPT], specs[0], specs[KEPT])] == [0, 1, 2]
    assert len(traced) == 2


def test_what_is_not_drawn_yet_may_be_another_network():
    programs = Programs()
    for number in range(KEPT):
        programs.are_of(replace(tiny_spec(), num_classes=number + 1))
    programs.are_of(None)
    compiled_detect(tiny_spec(), 1, IMAGES)
    programs.turn_to(None)
    assert compiled_detect.cache_info().currsize == 0
