"""What openpi's π0 and π0.5 must do, tried on tiny ones in JAX; the prompt on a tokenizer that hands its text back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from openpi.models import model as _model
from openpi.models import pi0_config, tokenizer

from apt_plugin.canaries import Canary, layout, order
from apt_plugin.hosts.openpi.bench_host import SIZES, made_up, shapes_of, sized

NAMES = (
    "PaliGemma/llm/embedder/input_embedding",
    "PaliGemma/llm/layers/attn/q_einsum/w",  # the VLM's
    "PaliGemma/llm/layers/attn/q_einsum_1/w",  # the expert's
    "PaliGemma/llm/layers/mlp_1/linear",
    "PaliGemma/img/head/kernel",
    "action_in_proj/kernel",
    "action_out_proj/kernel",
)
OWN = {"pi05": ("time_mlp_in/kernel",), "pi0": ("action_time_mlp_in/kernel", "state_proj/kernel")}


def _config(family: str) -> pi0_config.Pi0Config:
    return pi0_config.Pi0Config(pi05=family == "pi05", action_horizon=5, action_dim=7, max_token_len=9, dtype="float32")


def prefix(family: str) -> str | None:
    """Whether the prefix is images, then words, in one block of attention."""
    config = _config(family)
    with sized(SIZES["tiny"]):
        graph, shapes = shapes_of(config)
        model = nnx.merge(graph, made_up(shapes))  # not its own start: SigLIP's head is zero, and no image would show
        seen = _model.preprocess_observation(None, config.fake_obs(1), train=False)
        assert seen.tokenized_prompt is not None
        tokens, _, blocks = model.embed_prefix(seen)
        spoken = dataclasses.replace(seen, tokenized_prompt=seen.tokenized_prompt + 1)
        pictured = dataclasses.replace(seen, images={name: 0.5 - image for name, image in seen.images.items()})
        others = [model.embed_prefix(one)[0] for one in (spoken, pictured)]
    by_words, by_images = (np.asarray((other != tokens).any(-1))[0].tolist() for other in others)
    if (why := order(by_words, by_images, config.max_token_len)) is not None:
        return why
    return "images and words are not one block of attention" if bool(jnp.any(blocks)) else None


def names(family: str) -> str | None:
    """Whether weights have the names of the published parameters."""
    with sized(SIZES["tiny"]):
        shapes = shapes_of(_config(family))[1]
    found = traverse_util.flatten_dict(shapes.to_pure_dict(), sep="/")
    return layout(found, NAMES + OWN[family])


class _Said:
    """In place of sentencepiece: one token a character, so that the text can be read off the tokens."""

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        return [2] * add_bos + list(map(ord, text))


def prompt() -> str | None:
    """Whether prompts read as the recipe takes them apart: bos, the task, the state in digits, one newline."""
    made: Any = object.__new__(tokenizer.PaligemmaTokenizer)  # its own opening downloads a file
    made._max_len, made._tokenizer = 64, _Said()
    state = np.asarray([-1.0, 0.0, 1.0])
    for given, wanted in (((), "\x02pick up\n"), ((state,), "\x02Task: pick up, State: 0 128 255;\nAction: ")):
        tokens, valid = made.tokenize("pick_up", *given)
        reads = "".join(map(chr, np.asarray(tokens)[np.asarray(valid)]))
        if reads != wanted:
            return f"a prompt reads {reads!r}, the recipe takes apart {wanted!r}"
    return None


def canaries() -> Sequence[Canary]:
    return [Canary("prompt", prompt), *_of_models()]


def _of_models() -> Iterator[Canary]:
    for family in OWN:
        yield Canary(f"{family} prefix", lambda family=family: prefix(family))
        yield Canary(f"{family} names", lambda family=family: names(family))
