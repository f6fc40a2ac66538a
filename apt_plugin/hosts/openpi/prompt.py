"""Where language enters: one transform in place of the host's TokenizePrompt, the same in training and serving.

    L text tokens (the model's max_token_len)

It marks which tokens are the instruction and orders kept tokens first; the model leaves the marked ones out or
gates them. Both stages use it, so nothing in a checkpoint is blind. At module level and without closures: data
workers are spawned and unpickle it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.names import INSTRUCTION_FIELD, POSITION_FIELD
from apt_plugin.language import Segment, arrange, as_words, clean, pi0_segments, pi05_segments


def kept_bound(max_token_len: int, action_dim: int, discrete_state: bool) -> int:
    """How many kept tokens a prompt can have: what Stage 1's shapes may be cut to under jit.

    Without the state in the prompt two remain (bos and newline). With it, PaliGemma splits digits, so a state
    dimension takes at most three of them and a space; the template around takes less than 16.
    """
    return min(max_token_len, 16 + 4 * action_dim) if discrete_state else min(max_token_len, 4)


@dataclass(frozen=True)
class AptTokenizePrompt:
    """Writes tokenized_prompt, its mask, the instruction mask and the native position, each [L].

    Raises (when called):
        AptError: no prompt where one is required (Stage 2), π0.5 without a state, a prompt longer than L.
    """

    tokenizer: Any  # the host's PaligemmaTokenizer
    max_token_len: int
    discrete_state_input: bool
    bound: int  # kept_bound
    require_prompt: bool  # Stage 2; Stage 1 may read data without any
    blank: bool = False  # unlabelled data beside labelled data (mix): whatever prompt there is, it is not read

    def __call__(self, data: dict) -> dict:
        prompt = data.pop("prompt", None)
        if self.blank:
            prompt = ""
        if prompt is None and self.require_prompt:
            raise AptError(
                "Stage 2 learns language, and this sample has no prompt. Use data with tasks (prompt_from_task, a "
                "default_prompt; when serving: send 'prompt'), or train Stage 1, which needs none."
            )
        arranged = arrange(
            self._segments(clean(as_words(prompt)), data.get("state")),
            lambda piece: _encode(self.tokenizer, piece),
            self.max_token_len,
            (self._sentencepiece.bos_id(),),
        )
        kept = int((arranged.valid & ~arranged.instruction).sum())
        if kept > self.bound:
            raise AptError(
                f"The prompt keeps {kept} tokens beside the instruction, Stage 1 reserves {self.bound}. This "
                "tokenizer splits numbers finer than PaliGemma's: write --apt.drop_instruction false."
            )
        return {
            **data,
            "tokenized_prompt": arranged.tokens.astype(np.int32),
            "tokenized_prompt_mask": arranged.valid,
            INSTRUCTION_FIELD: arranged.instruction,
            POSITION_FIELD: arranged.native_position.astype(np.int32),
        }

    def longest(self, text: str, state_width: int) -> int:
        """How many tokens a prompt can have, whatever the state's digits are."""
        widest = max(range(-1, 256), key=lambda digit: len(_encode(self.tokenizer, f" {digit}")))
        state = " ".join([str(widest)] * state_width)
        segments = pi05_segments(clean(text), state) if self.discrete_state_input else pi0_segments(clean(text))
        return 1 + sum(len(_encode(self.tokenizer, piece.text)) for piece in segments if piece.text)  # 1: bos

    @property
    def _sentencepiece(self) -> Any:
        return self.tokenizer._tokenizer

    def _segments(self, text: str, state: Any) -> list[Segment]:
        if not self.discrete_state_input:
            return pi0_segments(text)
        if state is None:
            raise AptError("This π0.5 config writes the state into its prompt, and the sample has no 'state'.")
        # 256 bins over [-1, 1], as the host's tokenizer has them
        bins = np.digitize(np.asarray(state), np.linspace(-1, 1, 257)[:-1]) - 1
        return pi05_segments(text, " ".join(map(str, bins)))


@functools.lru_cache(maxsize=4096)
def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer._tokenizer.encode(text))


@dataclass(frozen=True)
class FillPrompt:
    """Stage 1 reads data without task annotation: an empty prompt where a repack transform asks for one."""

    def __call__(self, data: dict) -> dict:
        return data if "prompt" in data else {**data, "prompt": ""}


def require_marked(obs: Any) -> None:
    """Refuse an observation whose prompt the stock transform tokenised: it would leak silently.

    Raises:
        AptError: the instruction mask is missing.
    """
    if obs.tokenized_prompt is None or obs.token_loss_mask is None or obs.token_ar_mask is None:
        raise AptError(
            "This observation does not say which tokens are the instruction (token_loss_mask, token_ar_mask): it came "
            "through openpi's own TokenizePrompt. Use the data transforms of the derived config "
            "(apt_plugin.hosts.openpi.derive)."
        )
