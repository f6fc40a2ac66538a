"""torch and JAX compute what the numpy reference says, for every choice a recipe has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from apt_plugin import fusion as oracle
from apt_plugin.backends import jax_fusion, torch_fusion
from apt_plugin.recipe import Fusion
from tests.backends import cases

everything = pytest.mark.parametrize("fusion", cases.FUSIONS, ids=cases.name)
draws = pytest.mark.parametrize("draws", [1, 3], ids=cases.name)
# About eight float32 roundings of values near 1; the oracle runs in float64, so this is their whole error.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@everything
@draws
def test_three_forms_agree(fusion: Fusion, draws: int) -> None:
    """A gate applied behind the projection instead of before it, or draws unfolded in the wrong order, still
    trains and still looks closed at the start; only numbers on open parameters tell."""
    case = cases.make(fusion, draws)
    wanted = cases.by_oracle(case)
    by_torch = cases.run_torch(case, cases.torch_module(case)).detach().numpy()
    by_jax = np.asarray(cases.run_jax(case, cases.jax_layer(case), cases.jax_params(case)))
    assert by_torch.dtype == by_jax.dtype == np.float32
    np.testing.assert_allclose(by_torch, wanted, **CLOSE)
    np.testing.assert_allclose(by_jax, wanted, **CLOSE)


@everything
def test_a_row_that_may_read_nothing_gets_exactly_nothing(fusion: Fusion) -> None:
    """An empty instruction leaves the branch without keys. -inf in every place made that row NaN, and one such
    sample poisoned the batch's loss."""
    case = cases.make(fusion, 3)
    module, layer, params = cases.torch_module(case), cases.jax_layer(case), cases.jax_params(case)
    # The feed-forward acts on the stream itself, so without language it still says something; take it out.
    if fusion.feed_forward:
        module.ff_out.weight.data.zero_()
        params["ff_out"]["kernel"] = jnp.zeros_like(params["ff_out"]["kernel"])
        case.params["ff_out"] = np.zeros_like(case.params["ff_out"])
    rest = case.x if fusion.kind == "interleaved" else np.zeros_like(case.x)
    outs = [
        cases.by_oracle(case),
        cases.run_torch(case, module).detach().numpy(),
        np.asarray(cases.run_jax(case, layer, params)),
    ]
    empty = [2] if fusion.kind == "interleaved" else [1, 2]
    for out in outs:
        assert np.isfinite(out).all()
        assert np.array_equal(out[empty], rest[empty])
        assert np.abs(out[0] - rest[0]).min() > 0  # whereas the sample with an instruction is changed everywhere


@everything
def test_empty_rows_have_finite_gradients(fusion: Fusion) -> None:
    """A NaN of an empty row that a mask hides in the forward pass may come back in the backward pass (0 * NaN), and
    stops whoever hunts another one. So there must be none, not even between the masks: both detectors are on."""
    case = cases.make(fusion, 3)
    module = cases.torch_module(case)
    with torch.autograd.detect_anomaly(check_nan=True):
        cases.run_torch(case, module).square().sum().backward()
    with jax.debug_nans(True):
        grads = jax.grad(lambda p: jnp.square(cases.run_jax(case, cases.jax_layer(case), p)).sum())(
            cases.jax_params(case)
        )
    for name, p in module.named_parameters():
        part, _, leaf = name.partition(".")
        by_jax = grads[part]["kernel" if p.dim() == 2 else leaf]
        assert p.grad is not None
        assert np.isfinite(by_jax).all(), name
        # Sums over 36 tokens of values up to some tens; relative to the largest entry they are float32-close.
        scale = float(p.grad.abs().max())
        np.testing.assert_allclose(np.asarray(by_jax).T / scale, p.grad.numpy() / scale, atol=2e-6, err_msg=name)


def test_openness_in_all_forms() -> None:
    """Both gates at w = 0: 0.5 (closed by W_o) and exactly 0 (closed by itself); and far from it."""
    w = np.array([-30, -2, 0, 0.5, 30], np.float32)
    for kind, at_zero in (("interleaved", 0.5), ("host", 0.0)):
        fusion = Fusion(kind, gate="head")
        wanted = oracle.openness(w.astype(np.float64), kind)
        gate = torch_fusion.Gate(fusion, 5, 1)
        gate.w.data = torch.from_numpy(w)
        by_jax = jax_fusion.Gate(fusion, 5, 1).openness({"w": jnp.asarray(w)})
        np.testing.assert_allclose(gate.openness().detach().numpy(), wanted, **CLOSE)
        np.testing.assert_allclose(by_jax, wanted, **CLOSE)
        assert float(gate.openness()[2]) == float(by_jax[2]) == wanted[2] == at_zero


def test_keys_of_each_draw_its_own() -> None:
    """Suffix keys differ by draw ([B, K, G, S, C]); read as shared ones they would mix the draws of a sample."""
    rng = np.random.default_rng(1)
    b, draws, heads, g, t, s, c = 2, 3, 4, 2, 3, 5, 6
    q = rng.standard_normal((b, draws, heads, t, c)).astype(np.float32)
    k, v = (rng.standard_normal((b, draws, g, s, c)).astype(np.float32) for _ in range(2))
    mask = rng.random((b, draws, t, s)) < 0.6
    wanted = np.stack([oracle.attend(q[:, i], k[:, i], v[:, i], mask[:, i]) for i in range(draws)], 1)

    weights = torch_fusion.masked_softmax(
        torch_fusion.scores(torch.from_numpy(q), torch.from_numpy(k)), torch.from_numpy(mask)[:, :, None]
    )
    np.testing.assert_allclose(torch_fusion.weigh(weights, torch.from_numpy(v)).numpy(), wanted, **CLOSE)
    logits = jax_fusion.scores(jnp.asarray(q), jnp.asarray(k))
    np.testing.assert_allclose(
        jax_fusion.attend((logits, jnp.asarray(mask)[:, :, None], jnp.asarray(v))), wanted, **CLOSE
    )


def test_two_sets_of_keys_share_one_softmax() -> None:
    """Prefix and suffix keys stay apart in memory. A softmax each would weigh an empty prefix as much as a full one."""
    rng = np.random.default_rng(2)
    b, draws, heads, t, s, z, c = 2, 3, 4, 3, 5, 4, 6
    q = rng.standard_normal((b, draws, heads, t, c)).astype(np.float32)
    k, v = (rng.standard_normal((b, 1, s, c)).astype(np.float32) for _ in range(2))  # shared by the draws
    own_k, own_v = (rng.standard_normal((b, draws, 1, z, c)).astype(np.float32) for _ in range(2))
    mask, own_mask = rng.random((b, draws, t, s)) < 0.6, rng.random((b, draws, t, z)) < 0.6
    mask[0, 0, 0] = False
    mask[1, 1, 1] = own_mask[1, 1, 1] = False  # nothing to read: exactly zero
    wanted = np.stack([
        oracle.attend(q[:, i], np.concatenate([k, own_k[:, i]], 2), np.concatenate([v, own_v[:, i]], 2),
                      np.concatenate([mask[:, i], own_mask[:, i]], -1))
        for i in range(draws)
    ], 1)  # fmt: skip
    parts = [
        (jax_fusion.scores(jnp.asarray(q), jnp.asarray(keys)), jnp.asarray(allowed)[:, :, None], jnp.asarray(values))
        for keys, allowed, values in ((k, mask, v), (own_k, own_mask, own_v))
    ]
    out = np.asarray(jax_fusion.attend(*parts))
    np.testing.assert_allclose(out, wanted, **CLOSE)
    assert (out[1, 1, :, 1] == 0).all()


def test_draws_share_prefix_keys_without_a_copy() -> None:
    """Eight draws per prefix are cheap only if nobody repeats the keys: `repeat_interleave(k, K)` gives the same
    numbers and eight times the memory (18 layers x 816 tokens: gigabytes at a real batch size)."""
    draws, heads, t, s, c = 8, 2, 1, 512, 64  # logits [K, H, T, S] are a fourth of the keys themselves
    q, k = np.ones((1, draws, heads, t, c), np.float32), np.ones((1, 1, s, c), np.float32)
    allowed = k.nbytes * 2
    seen: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.untyped_storage().nbytes())
        return tensor

    torch_q, torch_k = torch.from_numpy(q).requires_grad_(), torch.from_numpy(k).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):  # what training has to hold
        torch_fusion.weigh(torch.softmax(torch_fusion.scores(torch_q, torch_k), -1), torch_k)
    assert k.nbytes <= max(seen) < allowed

    def attend(q: jax.Array, k: jax.Array) -> jax.Array:
        return jax_fusion.weigh(jax.nn.softmax(jax_fusion.scores(q, k), -1), k)

    steps = jax.make_jaxpr(attend)(q, k).jaxpr.eqns
    largest = max(v.aval.size * v.aval.dtype.itemsize for step in steps for v in step.outvars)
    assert draws * heads * t * s * 4 <= largest < allowed


@everything
def test_bfloat16_models_keep_gates_and_softmax_in_float32(fusion: Fusion) -> None:
    """A gate moves by about 1e-4 per step and bfloat16 near 1 resolves 4e-3: a bfloat16 gate would stand still."""
    case = cases.make(fusion, 2)
    wanted = cases.by_oracle(case)
    close = {"atol": 0.06, "rtol": 0.02}  # bfloat16 keeps 8 bits: some roundings of 2**-9 on values up to about 4

    module = cases.torch_module(case)
    assert module.gate.w.dtype == module.gate.openness().dtype == torch.float32
    for name, p in module.named_parameters():  # as hosts/lerobot/flow.py casts a new fusion
        p.data = p.data if name == "gate.w" else p.data.bfloat16()
    by_torch = cases.run_torch(case, module, torch.bfloat16)
    assert by_torch.dtype == torch.bfloat16
    np.testing.assert_allclose(by_torch.detach().float().numpy(), wanted, **close)
    half = torch.zeros(1, 1, 2, 3, 4, dtype=torch.bfloat16)
    assert torch_fusion.scores(half, half[:, 0]).dtype == torch.float32

    layer = cases.jax_layer(case)
    fresh = layer.init(jax.random.key(0), jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves(fresh)} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}
    assert fresh["gate"]["w"].dtype == jnp.float32
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), cases.jax_params(case))
    # Even where a server casts every leaf (openpi's restore_params(dtype=bfloat16)) the sigmoid is float32.
    assert layer.gate.openness(params["gate"]).dtype == jnp.float32
    by_jax = cases.run_jax(case, layer, params, jnp.bfloat16)
    assert by_jax.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(by_jax, np.float32), wanted, **close)
    half = jnp.zeros((1, 1, 2, 3, 4), jnp.bfloat16)
    assert jax_fusion.scores(half, half[:, 0]).dtype == jnp.float32
    # float32 masters under bfloat16 activations, openpi's habit in training
    assert cases.run_jax(case, layer, cases.jax_params(case), jnp.bfloat16).dtype == jnp.bfloat16


def test_shapes_are_checked_here() -> None:
    """The annotations are a promise only while something enforces them (conftest.py does)."""
    q, k = jnp.zeros((1, 1, 2, 3, 4)), jnp.zeros((1, 1, 5, 6))  # head widths 4 and 6
    with pytest.raises(TypeCheckError):
        jax_fusion.scores(q, k)
