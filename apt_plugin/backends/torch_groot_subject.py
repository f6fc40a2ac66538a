"""A GR00T under the recipe, measured for `apt_plugin.proofs`; a host's adapter says how batches are made.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from apt_plugin.backends import torch_params, torch_subject
from apt_plugin.backends.torch_groot_flow import GrootFlow
from apt_plugin.backends.torch_groot_groups import parameter_groups, part_of
from apt_plugin.proofs import Outcome, Subject
from apt_plugin.stages import PRIOR
from apt_plugin.vlm import mode_of

PLACES = 160  # for words behind the images, where one layout is asked for; the longest proof prompt fits by letters


class GrootSubject(Subject):
    """One model, eager, in the precision that its weights are held in."""

    def __init__(
        self, flow: Any, make_batch: Callable[[Sequence[str], int, int], Mapping[str, Any]], autocast: bool = False
    ):
        """
        Args:
            flow: the model (a GrootFlow).
            make_batch: (instructions, state seed, image seed) -> the host's model inputs, action included; the same
                images and states for the same seeds.
            autocast: whether it computes under bfloat16 autocast, as in training.
        """
        assert isinstance(flow, GrootFlow)
        self.flow, self.make_batch, self.half = flow, make_batch, autocast
        self.rounding = torch_subject.rounding(flow, autocast)
        self.stage, self.prefix = flow.apt_stage, flow.apt_recipe.prefix
        self.trains_vlm = mode_of(flow.apt_recipe, self.stage) == "full"
        if self.prefix == "native":
            # Stage 1 leaves the words out there too, so that it leaks nothing; what is lost is the switch.
            self.unclaimed = {2} if self.stage == PRIOR else {1, 2}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(next(self.flow.parameters()).device.type, torch.bfloat16, enabled=self.half)

    @contextlib.contextmanager
    def _as(self, one_layout: bool, closed: bool) -> Iterator[Any]:
        flow = self.flow
        recipe, flow.apt_words = flow.apt_recipe, PLACES if one_layout else None
        flow.apt_recipe = replace(recipe, drop_instruction=not one_layout, guidance_scale=0.0 if closed else 1.0)
        flow.eval()
        flow.zero_grad(set_to_none=True)
        try:
            with self._autocast():
                yield flow
        finally:
            flow.apt_recipe, flow.apt_words = recipe, None
            flow.zero_grad(set_to_none=True)

    def evaluate(
        self, instructions: Sequence[str], *, closed: bool = False, one_layout: bool = True, state_seed: int = 0,
        image_seed: int = 0,
    ) -> Outcome:  # fmt: skip
        inputs = dict(self.make_batch(instructions, state_seed, image_seed))
        with self._as(one_layout, closed) as flow:
            backbone, action = flow.prepare_input(dict(inputs))
            chunk = action["action"]
            fixed = torch.Generator().manual_seed(11)
            noise = torch.randn(chunk.shape[0], 2, *chunk.shape[1:], generator=fixed).to(chunk)
            time = torch.rand(chunk.shape[0], 2, generator=fixed).to(chunk) * 0.99
            errors = flow.apt_errors(backbone, action, noise, time, closed=closed)
            loss = errors["loss"].sum((1, 2)) / (errors["mask"].sum((1, 2)) + 1e-6)
            loss.mean().backward()
            grads = torch_subject.gradients(flow)
            actions = self._sample(flow, {k: v for k, v in inputs.items() if k != "action"})
        tokens, mask = (torch.as_tensor(inputs[name]).cpu() for name in ("input_ids", "attention_mask"))
        words = torch.where(mask.bool(), tokens, -1).flip(-1)  # without the left padding, so that only words differ
        fed = {
            name: inputs[key].float().cpu().numpy()
            for name, key in (("state", "state"), ("images", "pixel_values"))
            if inputs.get(key) is not None
        }
        return Outcome(loss.detach().float().cpu().numpy(), actions.float().cpu().numpy(), grads, words.numpy(), fed)

    @staticmethod
    def _sample(flow: Any, inputs: dict) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)  # the host's loop draws its starting noise from the global stream
            return flow.get_action(inputs)["action_pred"]

    def train(self, instructions: Sequence[str], steps: int) -> dict[str, float]:
        """Optimiser steps with the recipe's own groups; afterwards |gradient| per fusion parameter."""
        flow = self.flow
        named = dict(flow.named_parameters())
        groups = parameter_groups(named, flow.apt_recipe, self.stage, 1e-3, set(named))
        optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
        inputs = dict(self.make_batch(instructions, 0, 0))

        def loss(step: int) -> Tensor:
            flow.train()
            with self._autocast():
                backbone, action = flow.prepare_input(dict(inputs))
                noise, time = flow.apt_draw(action["action"], step)
                errors = flow.apt_errors(backbone, action, noise, time)
            return errors["loss"].sum() / errors["mask"].sum()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch_subject.optimise(flow, optimizer, loss, steps)

    def vlm_digest(self) -> str:
        return torch_params.digest((n, p) for n, p in self.flow.named_parameters() if part_of(n) == "vlm")
