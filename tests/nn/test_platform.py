"""Which form a program holds, by the platform that it is traced for."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from flaxyolo.nn.conv import conv2d
from flaxyolo.nn.platform import by_platform, traced_for
from tests.programs import equations

X = jnp.arange(4.0)


def chosen(x):
    return by_platform(x, cpu=jnp.sin, default=jnp.cos)


def kinds(*platforms):
    with traced_for(*platforms):
        program = jax.make_jaxpr(chosen)(X)
    return {equation.primitive.name for equation in equations(program.jaxpr)} & {"sin", "cos"}


def test_a_program_holds_the_forms_of_the_platforms_it_is_traced_for_alone():
    assert jax.default_backend() == "cpu"
    assert kinds() == kinds("cpu") == {"sin"}
    assert kinds("cuda") == kinds("cuda", "tpu") == {"cos"}
    assert kinds("cpu", "cuda") == {"sin", "cos"}


def test_what_is_traced_for_one_platform_is_not_taken_for_another():
    compiled = jax.jit(chosen)
    np.testing.assert_array_equal(compiled(X), jnp.sin(X))
    with traced_for("cuda"):
        np.testing.assert_array_equal(compiled(X), jnp.cos(X))
        with traced_for("cpu", "cuda"):
            np.testing.assert_array_equal(compiled(X), jnp.sin(X))
    np.testing.assert_array_equal(compiled(X), jnp.sin(X))


def test_a_program_for_several_platforms_chooses_where_it_runs():
    with traced_for("cpu", "cuda"):
        exported = jax.export.export(jax.jit(chosen), platforms=["cpu", "cuda"])(X)
    assert "stablehlo.case" in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(X), jnp.sin(X))


def test_a_convolution_of_a_known_platform_has_one_form():
    x, kernel = jnp.ones((2, 6, 8, 8)), jnp.ones((3, 3, 1, 8))

    def kinds():
        gradient = jax.grad(lambda x, kernel: jnp.sum(conv2d(x, kernel, 2, 8)), (0, 1))
        program = jax.make_jaxpr(gradient)(x, kernel)
        return {equation.primitive.name for equation in equations(program.jaxpr)}

    assert not kinds() & {"cond", "conv_general_dilated"}
    with traced_for("cuda"):
        assert "conv_general_dilated" in kinds()
        assert not kinds() & {"cond", "while"}
