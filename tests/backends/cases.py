"""One fusion problem, in numbers that all three forms of the rule can take.

    B batch   K noise draws   T suffix tokens   S prefix tokens   D width   H heads   G key/value heads   C head width

Sample 0 has an instruction, sample 1 an empty one (host: no readable key at all), sample 2 nothing readable in
either kind. Every parameter is open: no zero hides a difference.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.typing import DTypeLike
from numpy import ndarray

from apt_plugin import fusion as oracle
from apt_plugin.backends import jax_fusion, torch_fusion
from apt_plugin.recipe import GATES, Fusion

B, T, S, D, H, G, C = 3, 4, 6, 10, 4, 2, 6

FUSIONS = [Fusion("interleaved", gate=g, feed_forward=ff) for g, ff in itertools.product(GATES, (False, True))]
FUSIONS += [Fusion("host", gate=g) for g in GATES]


def name(value: object) -> str:
    """A test id."""
    if not isinstance(value, Fusion):
        return f"K{value}"
    return f"{value.kind}-{value.gate}" + ("-ff" if value.feed_forward else "")


@dataclass
class Case:
    """Inputs in float32, so that every form starts from the same bits."""

    fusion: Fusion
    x: ndarray  # [B, K, T, D] suffix stream
    q: ndarray  # [B, K, H, T, C] an inherited layer's own queries (host)
    position: ndarray  # [B, T]
    k: ndarray  # [B, G, S, C]
    v: ndarray  # [B, G, S, C]
    mask: ndarray  # [B, S] bool: readable keys (interleaved) or instruction keys (host)
    host_o: ndarray  # [H*C, D] an inherited layer's own output projection (host)
    params: dict[str, ndarray]  # named as in the oracle

    @property
    def draws(self) -> int:
        return self.x.shape[1]


def make(fusion: Fusion, draws: int, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    params = {"w": normal(oracle.gate_size(fusion.gate, H, D))}
    if fusion.kind == "interleaved":
        params |= {"norm": normal(D, scale=0.3), "q": normal(D, H * C, scale=D**-0.5)}
        params |= {"o": normal(H * C, D, scale=(H * C) ** -0.5)}
    if fusion.feed_forward:
        params |= {"ff_norm": normal(D, scale=0.3), "ff_in": normal(D, 4 * D, scale=D**-0.5)}
        params |= {"ff_out": normal(4 * D, D, scale=(4 * D) ** -0.5)}
    readable = np.array([[1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 1, 0], [0] * S], bool)
    instruction = np.array([[0, 0, 0, 1, 1, 0], [0] * S, [0] * S], bool)
    return Case(
        fusion=fusion,
        x=normal(B, draws, T, D),
        q=normal(B, draws, H, T, C),
        position=np.array([5, 3, 0])[:, None] + np.arange(T),
        k=normal(B, G, S, C),
        v=normal(B, G, S, C),
        mask=readable if fusion.kind == "interleaved" else instruction,
        host_o=normal(H * C, D, scale=(H * C) ** -0.5),
        params=params,
    )


def by_oracle(case: Case) -> ndarray:
    """[B, K, T, D] in float64, draw by draw: the oracle knows no draws."""
    wide = {f: getattr(case, f).astype(np.float64) for f in ("x", "q", "k", "v", "host_o")}
    params = {n: p.astype(np.float64) for n, p in case.params.items()}
    outs = []
    for draw in range(case.draws):
        if case.fusion.kind == "interleaved":
            x = wide["x"][:, draw]
            out = oracle.interleaved(x, case.position, wide["k"], wide["v"], case.mask, params, case.fusion.gate)
        else:
            q = wide["q"][:, draw]
            out = oracle.host(q, wide["k"], wide["v"], case.mask, params["w"], case.fusion.gate, wide["host_o"])
        outs.append(out)
    return np.stack(outs, 1)


# -- torch ------------------------------------------------------------------------------------------------

# name in the oracle -> name in torch; the matrices of nn.Linear are transposed
TORCH = {
    "w": "gate.w",
    "norm": "norm.weight",
    "q": "q_proj.weight",
    "o": "o_proj.weight",
    "ff_norm": "ff_norm.weight",
    "ff_in": "ff_in.weight",
    "ff_out": "ff_out.weight",
}


def torch_module(case: Case) -> torch_fusion.HostFusion | torch_fusion.InterleavedFusion:
    module = torch_fusion.FUSIONS[case.fusion.kind](case.fusion, D, H, C)
    module.load_state_dict({TORCH[n]: torch.from_numpy(p.T.copy()) for n, p in case.params.items()}, strict=True)
    return module


def torch_rotary(position: ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [B, T, C] as a Hugging Face rotary module returns them."""
    half = C // 2
    angle = torch.from_numpy(position)[..., None].float() / 10_000.0 ** (torch.arange(half) / half)
    return torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)


def run_torch(
    case: Case, module: torch_fusion.HostFusion | torch_fusion.InterleavedFusion, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """[B, K, T, D]; activations in `dtype`."""
    x, q, k, v, o = (torch.from_numpy(a).to(dtype) for a in (case.x, case.q, case.k, case.v, case.host_o))
    mask = torch.from_numpy(case.mask)
    if isinstance(module, torch_fusion.InterleavedFusion):
        out = module(x.flatten(0, 1), torch_rotary(case.position), k, v, mask)
    else:
        _, heard = torch_fusion.attend(
            q, torch_fusion.Read(k, v, mask[:, None, None, None]), also=mask[:, None, None, None]
        )
        assert heard is not None
        out = module.instruction_branch(heard, lambda out: out.transpose(2, 3).flatten(3).flatten(0, 1) @ o)
    return out.unflatten(0, (B, case.draws))


# -- jax --------------------------------------------------------------------------------------------------


def jax_layer(case: Case) -> jax_fusion.HostFusion | jax_fusion.InterleavedFusion:
    return jax_fusion.FUSIONS[case.fusion.kind](case.fusion, D, H, C)


def jax_params(case: Case) -> jax_fusion.Params:
    tree: jax_fusion.Params = {}
    for key, value in case.params.items():
        part, _, leaf = TORCH[key].partition(".")
        tree[part] = {"kernel" if value.ndim == 2 else leaf: jnp.asarray(value)}
    return tree


def run_jax(
    case: Case,
    layer: jax_fusion.HostFusion | jax_fusion.InterleavedFusion,
    params: jax_fusion.Params,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """[B, K, T, D]; activations in `dtype`."""
    x, q, k, v, o = (jnp.asarray(a, dtype) for a in (case.x, case.q, case.k, case.v, case.host_o))
    mask, flat = jnp.asarray(case.mask), B * case.draws
    if isinstance(layer, jax_fusion.InterleavedFusion):
        rotary = jax_fusion.rotary(jnp.asarray(case.position), C)
        out = layer(params, x.reshape(flat, T, D), rotary, k, v, mask)
    else:
        logits = jax_fusion.Logits(jax_fusion.scores(q, k), v)
        out = layer.instruction_branch(params, logits, mask, lambda out: out.swapaxes(2, 3).reshape(flat, T, H * C) @ o)
    return out.reshape(B, case.draws, T, D)
