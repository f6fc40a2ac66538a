"""The policies whose flow is `flow.AptFlow`: a prefix of image and text tokens, an expert on its keys and values.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lerobot.utils.constants import ACTION
from torch import Tensor

from apt_plugin.backends.torch_draws import chosen, draw
from apt_plugin.hosts.lerobot import cache_data
from apt_plugin.hosts.lerobot.flow import Observed, PromptBatch
from apt_plugin.hosts.lerobot.groups import set_trainable
from apt_plugin.hosts.lerobot.policy import AptPolicy
from apt_plugin.run.replace import replaced


class PrefixPolicy(AptPolicy):
    """Mixed in front of the host's policy, like AptPolicy."""

    prepare_action: Any
    host: Any  # the host's modeling module, set by the subclass
    flow: tuple[str, type]  # (name of the host's model class in that module, our subclass of it)

    @contextmanager
    def _building(self, config: Any) -> Iterator[None]:
        # The host's own switch freezes the VLM and keeps it in eval mode. It is derived, never inherited: a
        # Stage-2 policy rebuilt from a Stage-1 config would otherwise keep Stage 1's freezing.
        config.train_expert_only = config.vlm_mode != "full"
        with replaced(self.host, *self.flow):
            yield

    @classmethod
    def stock_flow(cls, config: Any, stock: Any) -> Any:
        """The host's own flow at the sizes of one of ours.

        Args:
            config: ours; stock: the host's, of the same fields.
        """
        return getattr(cls.host, cls.flow[0])(stock)

    def _settle(self, config: Any) -> None:
        self.model.to(config.device)
        set_trainable(self, config)

    # -- what a family says of itself -----------------------------------------------------------------------

    def _images(self, batch: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Per camera: images as the tower takes them, and which samples have one [B] bool."""
        raise NotImplementedError

    def _cached(self, fields: dict[str, Tensor]) -> tuple[tuple[list, list], Any]:
        """((image tokens, masks), prefix or None) of a feature cache."""
        raise NotImplementedError

    def _state(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The robot's state where a token of the model's own carries it; None: it is in the prompt."""
        return None

    def _counts(self, batch: dict[str, Any]) -> Tensor | None:
        """Which steps of the chunks are trained on, [B, T, 1]; None for all."""
        return None

    # -- training and acting --------------------------------------------------------------------------------

    def observed(self, batch: dict[str, Any]) -> Observed:
        """A processed batch as the flow reads it, images or cached features."""
        cached, prefix = cache_data.fields_of(batch), None
        if cached is None:
            images, masks = self._images(batch)
        else:
            (images, masks), prefix = self._cached(cached)
        return Observed(images, masks, PromptBatch.of(batch), self._state(batch), prefix)

    def _errors(self, batch: dict[str, Any], step: int, blank: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        seen, actions = self.observed(batch), self.prepare_action(batch)
        draws, index = self.config.recipe.noise_draws, batch.get("index")
        share = self.config.recipe.prior.goal_share
        # an evaluation asks what Stage 2 starts from, which is told no goal
        told = chosen(share, actions, step, index) if seen.prompt.goal is not None and step >= 0 else False
        prompt = seen.prompt.told(told)
        noise, time = draw(lambda n: self.model.sample_time(n, "cpu"), actions, draws, step, index)
        errors = self.model.forward(
            seen.images, seen.masks, prompt, actions, noise, time, seen.state, blank, seen.prefix
        )
        counts, width = self._counts(batch), self.config.output_features[ACTION].shape[0]
        terms = {name: error[..., :width] for name, error in errors.items()}
        return terms if counts is None else {name: term * counts for name, term in terms.items()}, counts

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """An action chunk [B, T, A] for a processed batch; `noise` [B, T, max A] may be given."""
        self.eval()
        seen = self.observed(batch)
        actions = self.model.sample_actions(seen.images, seen.masks, seen.prompt.told(False), seen.state, **kwargs)
        return actions[:, :, : self.config.output_features[ACTION].shape[0]]
