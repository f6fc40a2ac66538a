"""FLOPs counted in compiled JAX programs: what is multiplied, as often as it is."""

from __future__ import annotations

import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from apt_plugin.backends.jax_hlo import flops  # noqa: E402

A = jax.ShapeDtypeStruct((8, 16), jnp.float32)
B = jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 8 * 16 * 16


def compiled(function, *shapes):
    return jax.jit(function).lower(*shapes).compile()


def test_a_product_and_a_scan_of_products():
    assert flops(compiled(lambda a, b: a @ b, A, B)) == ONE

    def scanned(a, bs):
        return jax.lax.scan(lambda x, b: (jnp.tanh(x @ b), None), a, bs)[0]

    assert flops(compiled(scanned, A, jax.ShapeDtypeStruct((5, 16, 16), jnp.float32))) == 5 * ONE


def test_a_backward_pass_is_two_products_more():
    grads = jax.grad(lambda a, b: jnp.sin(a @ b).sum(), argnums=(0, 1))
    assert flops(compiled(grads, A, B)) == 3 * ONE


def test_a_loop_whose_end_nobody_knows_is_refused_unless_told():
    def until(a, b):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ b, a)

    program = compiled(until, A, B)
    with pytest.raises(ValueError, match="trip count"):
        flops(program)
    assert flops(program, rounds=10) == 10 * ONE
