"""openpi's Gemma layers, one stream at a time: the host's own linen modules on slices of the host's own tree.

    P batch   T tokens   D width   H heads   G key/value heads   C head width

LoRA variants keep working because the einsums are the host's, LoRA included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array
from openpi.models import gemma, lora
from openpi.training import sharding

from apt_plugin.errors import AptError


@dataclass(frozen=True, eq=False)
class GemmaStream:
    """Stream 0 is the VLM, stream 1 the action expert (their parameters carry the suffix `_1`)."""

    config: gemma.Config
    index: int

    def __post_init__(self) -> None:
        if self.config.num_kv_heads == self.config.num_heads:
            raise AptError(
                f"This Gemma variant has {self.config.num_heads} key/value heads for as many heads; openpi then fuses "
                "q, k and v into one matrix, a layout that no released variant uses and nobody tested here."
            )

    @property
    def head_width(self) -> int:
        return self.config.head_dim

    def _name(self, name: str) -> str:
        return name if self.index == 0 else f"{name}_{self.index}"

    def own(self, layers: Any) -> Any:
        """The part of the stacked `layers` tree that belongs to this stream, names unchanged."""
        mine = {name: layers[name] for name in map(self._name, ("mlp", "pre_attention_norm", "pre_ffw_norm"))}
        einsums = ("q_einsum", "kv_einsum", "attn_vec_einsum")
        return mine | {"attn": {name: layers["attn"][name] for name in map(self._name, einsums)}}

    def norm(self, params: Any, which: str, x: Array, cond: Array | None) -> tuple[Array, Array | None]:
        part = {"attention": "pre_attention_norm", "ffw": "pre_ffw_norm"}[which]
        return gemma.RMSNorm().apply({"params": params[self._name(part)]}, x, cond)

    def _einsum(self, params: Any, name: str, shape: tuple, equation: str, x: Array) -> Array:
        module = lora.Einsum(shape=shape, lora_config=self.config.lora_configs.get("attn"))
        return module.apply({"params": params["attn"][self._name(name)]}, equation, x)

    def queries(self, params: Any, x: Array) -> Array:
        c = self.config
        return self._einsum(params, "q_einsum", (c.num_heads, c.width, c.head_dim), "PTD,HDC->PTHC", x)

    def keys_values(self, params: Any, x: Array) -> tuple[Array, Array]:
        c = self.config
        k, v = self._einsum(params, "kv_einsum", (2, c.num_kv_heads, c.width, c.head_dim), "PTD,2GDC->2PTGC", x)
        return k, v

    def out(self, params: Any, x: Array) -> Array:
        c = self.config
        return self._einsum(params, "attn_vec_einsum", (c.num_heads, c.head_dim, c.width), "PTHC,HCD->PTD", x)

    def feed_forward(self, params: Any, x: Array) -> Array:
        c = self.config
        module = lora.FeedForward(features=c.width, hidden_dim=c.mlp_dim, lora_config=c.lora_configs.get("ffn"))
        return module.apply({"params": params[self._name("mlp")]}, x)

    def final_norm(self, llm: Any, x: Array, cond: Array | None) -> Array:
        return gemma.RMSNorm().apply({"params": llm[self._name("final_norm")]}, x, cond)[0]

    def constrain(self, x: Array) -> Array:
        return sharding.activation_sharding_constraint(x)
