"""The JAX form inside a scan over layers, which is how openpi runs its Gemma blocks.

N fusion sites   the other letters as in cases.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from apt_plugin.backends import jax_fusion, torch_fusion
from apt_plugin.errors import AptError
from apt_plugin.fusion import fusion_sites
from apt_plugin.recipe import Fusion
from tests.backends import cases

DEPTH = 5
# Every parameter shape that a scan meets: both kinds, all gates, with and without feed-forward.
SOME = [
    Fusion("interleaved", gate="channel", feed_forward=True),
    Fusion("interleaved", gate="head"),
    Fusion("host", gate="scalar"),
    Fusion("host", gate="channel"),
]
some = pytest.mark.parametrize("fusion", SOME, ids=cases.name)


def stacked(fusion: Fusion, sites: list[int]) -> tuple:
    """A layer and its opened parameters, leaves [N, ...]."""
    layer, params = jax_fusion.build_fusion(jax.random.key(0), fusion, sites, cases.D, cases.H, cases.C)
    rng = np.random.default_rng(1)
    return layer, jax.tree.map(lambda leaf: leaf + (0.4 * rng.standard_normal(leaf.shape)).astype(np.float32), params)


def block(case: cases.Case, layer, x: jax.Array, params: jax_fusion.Params) -> jax.Array:
    """An inherited layer's stand-in, then the fusion. x [B, K, T, D]."""
    x = x + 0.1 * jnp.tanh(x)
    if case.fusion.kind == "interleaved":
        case = cases.Case(**{**vars(case), "x": x})
        return cases.run_jax(case, layer, params)
    q = jnp.broadcast_to(x.mean(-1)[:, :, None, :, None], case.q.shape) * case.q  # queries that know the stream
    return x + cases.run_jax(cases.Case(**{**vars(case), "q": q}), layer, params)


@some
def test_a_scan_over_layers_is_the_loop_over_layers(fusion: Fusion) -> None:
    """Parameters [N, ...] scanned over `depth` layers; off by one row, language enters behind the wrong layer and
    a torch checkpoint of the same run would mean something else."""
    case = cases.make(fusion, 2)
    sites = fusion_sites(DEPTH, 2)
    assert sites == [1, 3]
    layer, params = stacked(fusion, sites)

    def scanned(params: jax_fusion.Params) -> tuple[jax.Array, jax.Array]:
        rows = jax_fusion.spread(params, sites, DEPTH)
        body = jax.checkpoint(lambda x, one: (block(case, layer, x, one), None))  # remat, as openpi's blocks are
        x = jax.lax.scan(body, jnp.asarray(case.x), rows)[0]
        return jnp.square(x).mean(), x

    x = jnp.asarray(case.x)
    for index in range(DEPTH):
        if index in sites:
            number = sites.index(index)
            row = jax.tree.map(lambda leaf, i=number: leaf[i], params)
            x = block(case, layer, x, row)
        else:
            x = x + 0.1 * jnp.tanh(x)

    (_, by_scan), grads = jax.jit(jax.value_and_grad(scanned, has_aux=True))(params)
    # The compiler orders float32 sums differently in a loop body; five layers of it.
    np.testing.assert_allclose(by_scan, x, rtol=1e-5, atol=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert leaf.shape[0] == len(sites)
        norms = np.abs(np.asarray(leaf)).reshape(len(sites), -1).max(-1)
        assert np.isfinite(norms).all(), path
        assert (norms > 0).all(), path  # every stored row learns: no dead weights at layers without fusion


def test_a_fusion_behind_every_layer_is_scanned_as_stored() -> None:
    """With `every` = 1 a scatter into zeros would copy all fusion weights once per step, for nothing."""
    _, params = stacked(Fusion(), fusion_sites(DEPTH, 1))
    assert jax_fusion.spread(params, range(DEPTH), DEPTH) is params


@some
def test_layers_without_fusion_are_exactly_closed(fusion: Fusion) -> None:
    """`spread` fills in zeros. A fusion of zeros that still let something through would put language (or noise)
    behind layers that the recipe left alone."""
    case = cases.make(fusion, 2)
    sites = fusion_sites(DEPTH, 3)
    layer, params = stacked(fusion, sites)
    rows = jax_fusion.spread(params, sites, DEPTH)
    rest = case.x if fusion.kind == "interleaved" else np.zeros_like(case.x)
    for index in range(DEPTH):
        out = cases.run_jax(case, layer, jax.tree.map(lambda leaf, i=index: leaf[i], rows))
        assert np.array_equal(out, rest) == (index not in sites)


def test_openings_name_the_layers_as_torch_does() -> None:
    """Logs of both back-ends go into one report, keyed by the inherited layer's index, not by the row."""
    sites, w = [1, 3, 4], np.array([[0.0], [2.0], [-1.0]], np.float32)
    for kind in ("interleaved", "host"):
        fusion = Fusion(kind)
        modules = torch_fusion.build_fusion(fusion, sites, cases.D, cases.H, cases.C)
        for site, row in zip(sites, w, strict=True):
            modules.at(site).gate.w.data = torch.from_numpy(row)
        layer, params = jax_fusion.build_fusion(jax.random.key(0), fusion, sites, cases.D, cases.H, cases.C)
        params["gate"]["w"] = jnp.asarray(w)
        by_jax = jax.jit(lambda p, layer=layer: jax_fusion.gate_openings(layer, p, sites))(params)
        by_torch = torch_fusion.gate_openings(modules)
        assert list(by_jax) == list(by_torch) == ["1", "3", "4"]
        np.testing.assert_allclose([float(by_jax[s]) for s in by_torch], list(by_torch.values()), rtol=1e-6)


def test_each_layer_starts_from_its_own_draw() -> None:
    """One key for all rows would make every fusion layer the same layer at the start."""
    _, params = jax_fusion.build_fusion(jax.random.key(0), Fusion(), [0, 1, 2], cases.D, cases.H, cases.C)
    kernels = np.asarray(params["q_proj"]["kernel"])
    assert kernels.shape == (3, cases.D, cases.H * cases.C)
    assert len({row.tobytes() for row in kernels}) == 3


def test_no_place_for_fusion_is_an_error() -> None:
    """An empty list of sites would build a Stage 2 that can never listen, and train it for days."""
    with pytest.raises(AptError, match="no place for fusion"):
        torch_fusion.build_fusion(Fusion(), [], 4, 2, 2)
    with pytest.raises(AptError, match="no place for fusion"):
        jax_fusion.build_fusion(jax.random.key(0), Fusion(), [], 4, 2, 2)
