"""One function of masks and positions for three kinds of arrays.

B batch   S prefix tokens
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from apt_plugin.language import prefix_rules

SHAPE = (2, 9)  # one shape, so that jax compiles each operation once


@pytest.mark.parametrize("mode", ["isolated", "native"])
@settings(deadline=None, max_examples=25)
@given(
    valid=hnp.arrays(bool, SHAPE),
    instruction=hnp.arrays(bool, SHAPE),
    native=hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 800)),
)
def test_numpy_torch_and_jax_rules_are_identical(
    mode: str, valid: np.ndarray, instruction: np.ndarray, native: np.ndarray
) -> None:
    """The rule leans on what the three libraries share (`~`, `&`, cumsum, bool * int). Where they part (torch's
    cumsum of bool, jax's 32-bit integers) a leak would be there on one back-end only."""
    wanted = prefix_rules(valid, instruction, native, mode)
    by_torch = prefix_rules(*(torch.from_numpy(a) for a in (valid, instruction, native)), mode)
    by_jax = prefix_rules(*(jnp.asarray(a) for a in (valid, instruction, native)), mode)
    jitted = jax.jit(lambda *a: vars(prefix_rules(*a, mode)))(valid, instruction, native)
    for field in dataclasses.fields(wanted):
        expected = getattr(wanted, field.name)
        kind = expected.dtype.kind
        assert kind == ("b" if field.name in ("attend", "kept") else "i")
        for got in (getattr(by_torch, field.name).numpy(), getattr(by_jax, field.name), jitted[field.name]):
            assert np.asarray(got).dtype.kind == kind
            np.testing.assert_array_equal(got, expected, err_msg=field.name)
