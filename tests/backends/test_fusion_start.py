"""How a fusion begins: closed (exactly no contribution) and alive (everything learns).

Both matter and pull apart: what is closed by two zero factors is dead, what is closed by none is not the prior.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from apt_plugin.backends import jax_fusion, torch_fusion
from apt_plugin.recipe import Fusion
from tests.backends import cases

everything = pytest.mark.parametrize("fusion", cases.FUSIONS, ids=cases.name)
# What the dead combination looks like: new layers (W_o = 0) behind a gate that is zero as well.
DEAD = Fusion("host", gate="channel")


def torch_start(fusion: Fusion, cls: type | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    return (cls or torch_fusion.FUSIONS[fusion.kind])(fusion, cases.D, cases.H, cases.C)


def jax_start(fusion: Fusion, cls: type | None = None) -> tuple:
    layer = (cls or jax_fusion.FUSIONS[fusion.kind])(fusion, cases.D, cases.H, cases.C)
    return layer, layer.init(jax.random.key(0))


@everything
def test_closed_at_the_start(fusion: Fusion) -> None:
    """Stage 2 at step 0 *is* Stage 1, bit for bit. The published release starts its gates at 0.5 on live branches
    instead, so that the first Stage-2 step already answers for a policy that nobody trained."""
    case = cases.make(fusion, 3)
    rest = case.x if fusion.kind == "interleaved" else np.zeros_like(case.x)
    layer, params = jax_start(fusion)
    assert np.array_equal(cases.run_torch(case, torch_start(fusion)).detach().numpy(), rest)
    assert np.array_equal(cases.run_jax(case, layer, params), rest)
    # Under jit too: a sigmoid that a compiler rewrites must still be 0.5 at 0 for the host kind to be closed.
    assert np.array_equal(jax.jit(lambda p: cases.run_jax(case, layer, p))(params), rest)


def torch_grads(case: cases.Case, module: torch.nn.Module, steps: int) -> dict[str, np.ndarray]:
    """Gradients after `steps` of SGD towards a fixed target."""
    target = torch.from_numpy(np.random.default_rng(7).standard_normal(case.x.shape).astype(np.float32))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(steps + 1):
        optimizer.zero_grad()
        (cases.run_torch(case, module) - target).square().mean().backward()
        if step < steps:
            optimizer.step()
    return {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def jax_grads(case: cases.Case, layer, params: jax_fusion.Params, steps: int) -> dict[str, np.ndarray]:
    target = jnp.asarray(np.random.default_rng(7).standard_normal(case.x.shape).astype(np.float32))
    gradient = jax.jit(jax.grad(lambda p: jnp.square(cases.run_jax(case, layer, p) - target).mean()))
    for _ in range(steps):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
    leaves = jax.tree_util.tree_leaves_with_path(gradient(params))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@everything
def test_alive_after_one_step(fusion: Fusion) -> None:
    """Contract 3. At step 0 the query side of a zero W_o rightly has no gradient; one step later all must have."""
    case = cases.make(fusion, 2)
    layer, params = jax_start(fusion)
    names = len(cases.TORCH) if fusion.feed_forward else 4 if fusion.kind == "interleaved" else 1
    for grads in (torch_grads(case, torch_start(fusion), 1), jax_grads(case, layer, params, 1)):
        assert len(grads) == names
        for name, grad in grads.items():
            assert np.isfinite(grad).all(), name
            assert np.count_nonzero(grad) == grad.size, f"{name}: {np.count_nonzero(grad)} of {grad.size} learn"


@everything
def test_at_step_zero_exactly_one_factor_learns(fusion: Fusion) -> None:
    """Closed by *one* zero factor: that factor has a gradient at once, the others wait for it. If nothing had one,
    nothing would ever start."""
    case = cases.make(fusion, 2)
    layer, params = jax_start(fusion)
    first = {"o_proj", "ff_out"} if fusion.kind == "interleaved" else {"gate"}
    for grads in (torch_grads(case, torch_start(fusion), 0), jax_grads(case, layer, params, 0)):
        learning = {name for name, grad in grads.items() if np.any(grad != 0)}
        assert learning == {name for name in grads if any(part in name for part in first)}


def test_a_zero_gate_on_a_zero_projection_is_dead() -> None:
    """The obvious way to be doubly sure of a closed start. The product rule then gives zero to both, for ever:
    Stage 2 trains, the loss falls (the inherited layers learn), and language never gets in."""
    assert DEAD.kind != "interleaved"  # so that the gate is 2 sigmoid(w) - 1, zero at the start
    case = cases.make(Fusion("interleaved", gate="channel"), 2)
    layer, params = jax_start(DEAD, jax_fusion.InterleavedFusion)
    module = torch_start(DEAD, torch_fusion.InterleavedFusion)
    for grads in (torch_grads(case, module, 5), jax_grads(case, layer, params, 5)):
        assert len(grads) == 4
        assert not any(np.any(grad) for grad in grads.values())


def test_torch_and_jax_start_from_the_same_distribution() -> None:
    """A query projection of another scale makes attention sharper or flatter from the start, so that a recipe
    tuned on one back-end would not carry over to the other."""
    fusion = Fusion("interleaved", feed_forward=True)
    torch.manual_seed(0)
    module = torch_fusion.InterleavedFusion(fusion, 64, 8, 16)
    params = jax_fusion.InterleavedFusion(fusion, 64, 8, 16).init(jax.random.key(0))
    for name in ("q_proj", "ff_in"):
        weight, kernel = getattr(module, name).weight.detach().numpy(), np.asarray(params[name]["kernel"])
        assert kernel.T.shape == weight.shape
        quantiles = np.linspace(0, 1, 21)
        # 8 000 and 16 000 uniform draws in +-1/8: quantiles scatter by about 0.001.
        np.testing.assert_allclose(np.quantile(kernel, quantiles), np.quantile(weight, quantiles), atol=0.006)
    for name in ("norm", "ff_norm"):
        assert not np.any(params[name]["weight"])
    for name in ("o_proj", "ff_out"):
        assert not np.any(params[name]["kernel"])
