"""Steps, optimizer and learning rate of a run."""

import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.config import TrainConfig
from flaxyolo.training.plan import Plan, learning_rate, make_optimizer, uses_adamw
from tests.small import tiny_spec


def plan(steps_per_epoch: int = 10, **settings) -> Plan:
    return Plan(tiny_spec(), TrainConfig(**settings), steps_per_epoch, 16, jnp.float32)


def test_the_rate_rises_stays_and_falls():
    rate = learning_rate(
        plan(epochs=10, learning_rate=1.0, warmup_epochs=2, decay_share=0.5, final_rate=0.01)
    )
    assert float(rate(0)) == pytest.approx(1 / 20)
    assert float(rate(19)) == pytest.approx(1.0)
    assert float(rate(50)) == pytest.approx(1.0)
    assert float(rate(75)) == pytest.approx(1 - 0.99 / 2)
    assert float(rate(100)) == pytest.approx(0.01)


def test_a_warm_up_takes_at_most_a_third_of_a_short_run():
    rate = learning_rate(plan(epochs=3, learning_rate=1.0, warmup_epochs=3, decay_share=0.0))
    assert float(rate(9)) == pytest.approx(1.0)


def test_the_rate_of_adamw_depends_on_the_number_of_classes():
    made = plan(epochs=1, decay_share=0.0, warmup_epochs=0)
    assert float(learning_rate(made)(5)) == pytest.approx(0.002 * 5 / (4 + 3))


def test_auto_is_adamw_for_short_runs_and_sgd_for_long_ones():
    assert uses_adamw(plan(epochs=1000))
    assert not uses_adamw(plan(epochs=1001))
    assert uses_adamw(plan(epochs=1001, optimizer="adamw"))
    assert not uses_adamw(plan(epochs=1, optimizer="sgd"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_kernels_decay(optimizer):
    transform = make_optimizer(
        plan(optimizer=optimizer, learning_rate=0.1, warmup_epochs=0, weight_decay=0.1)
    )
    params = {"conv": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}}
    zeros = {
        "conv": {"kernel": jnp.zeros(3), "bias": jnp.zeros(3)},
        "norm": {"scale": jnp.zeros(3)},
    }
    updates, _ = transform.update(zeros, transform.init(params), params)
    assert np.all(np.asarray(updates["conv"]["kernel"]) < 0)
    assert np.all(np.asarray(updates["conv"]["bias"]) == 0)
    assert np.all(np.asarray(updates["norm"]["scale"]) == 0)
