"""A `groot_apt` checkpoint of lerobot opened for `apt_plugin.proofs`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.groot.groot_n1_7 import GR00TN17

from apt_plugin import freeze
from apt_plugin.backends.torch_groot_subject import GrootSubject
from apt_plugin.backends.torch_params import shapes
from apt_plugin.hosts.lerobot.checkpoints import refuses_without_plugin
from apt_plugin.hosts.lerobot.prove import made_up
from apt_plugin.stages import LIKELIHOOD


class LerobotGrootSubject(GrootSubject):
    """One policy with its own preprocessor."""

    def __init__(self, policy: Any, preprocessor: Any, folder: Path):
        super().__init__(policy.model, self._batch, policy.config.use_bf16)
        self.policy, self.preprocessor, self.folder = policy, preprocessor, folder

    def _batch(self, instructions: Sequence[str], state_seed: int, image_seed: int) -> dict[str, Any]:
        config = self.policy.config
        raw = made_up(config, len(config.action_delta_indices), instructions, state_seed, image_seed)
        batch = self.preprocessor(raw)
        return self.policy._filter_groot_inputs(batch, include_action=True)

    def switched(self) -> LerobotGrootSubject:
        kind, config = type(self.policy), replace(self.policy.config, stage=LIKELIHOOD, pretrained_path=None)
        del self.policy, self.flow  # spent: two models would not fit where one was trained
        gc.collect()
        policy = kind.from_pretrained(self.folder, config=config)
        return LerobotGrootSubject(policy, self.preprocessor, self.folder)

    def host_tree(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
        ours = {n: s for n, s in shapes(self.flow).items() if not freeze.added(n)}
        with torch.device("meta"):
            stock = GR00TN17(self.flow.config, load_backbone_weights=False)
        return ours, shapes(stock)

    def refused_without_plugin(self) -> tuple[bool, str]:
        return refuses_without_plugin(self.folder)

    def replaced_names(self) -> list[str]:
        """Classes are changed on this model's own objects, never in the host's modules."""
        from lerobot.policies.groot import groot_n1_7
        from lerobot.policies.groot.action_head import cross_attention_dit

        watched = {
            "groot_n1_7.GR00TN17": groot_n1_7.GR00TN17,
            "groot_n1_7.AlternateVLDiT": groot_n1_7.AlternateVLDiT,
            "cross_attention_dit.AlternateVLDiT": cross_attention_dit.AlternateVLDiT,
        }
        return [name for name, cls in watched.items() if cls.__name__ != name.rpartition(".")[2]]
