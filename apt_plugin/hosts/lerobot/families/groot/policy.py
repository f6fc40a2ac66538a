"""`groot_apt`: lerobot's GrootPolicy (GR00T N1.7) under the recipe.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.policies.groot.configuration_groot import is_raw_groot_n1_7_checkpoint
from lerobot.policies.utils import get_device_from_parameters
from torch import Tensor

from apt_plugin.backends import torch_params, torch_precision
from apt_plugin.backends.torch_groot_flow import apt_class
from apt_plugin.backends.torch_groot_groups import parameter_groups, part_of
from apt_plugin.hosts.lerobot import cache_data, loading
from apt_plugin.hosts.lerobot.families.groot import cache
from apt_plugin.hosts.lerobot.groups import check_wrapped
from apt_plugin.hosts.lerobot.policy import AptPolicy
from apt_plugin.hub import local_folder
from apt_plugin.stages import PRIOR

if TYPE_CHECKING:  # a mixin: the host's policy stands behind it
    from lerobot.policies.groot.modeling_groot import GrootPolicy as HostPolicy
else:
    HostPolicy = object

logger = logging.getLogger(__name__)


def held_dtype(config: Any) -> torch.dtype | None:
    """In what the VLM's weights are held: bfloat16 where they only ever compute in it; None: as the checkpoint has
    them."""
    if config.use_bf16 and config.vlm_mode == "frozen":
        return torch.bfloat16
    return torch.float32 if config.model_params_fp32 else None


class GrootMixin(AptPolicy, HostPolicy):
    """Mixed in front of the host's policy."""

    lora = r".*backbone\..*language_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

    def _building(self, config: Any) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()  # `_create_groot_model` is the host's own place for it

    def _held(self, config: Any) -> torch.dtype | None:
        return held_dtype(config)

    def _settle(self, config: Any) -> None:
        if self.apt_absent is not None and self._apt_source is None:
            raw = sorted(loading.local_folder(config.base_model_path).glob("*.safetensors"))
            self.apt_absent.locate(raw, {name.removeprefix("_groot_model."): name for name in self.apt_absent.specs})
        self.to(config.device)
        # PEFT opens all of a module that it saves in full: what the recipe froze of the head is frozen again behind it.
        self._apt_frozen = {n for n, p in self.named_parameters() if not p.requires_grad and part_of(n) != "vlm"}

    @property
    def model(self) -> Any:
        """The flow, under the name that AptPolicy uses."""
        return self._groot_model

    def _create_groot_model(self) -> Any:
        """The host's model from its raw weights, every tensor accounted for, then turned into one of ours."""
        with cache.outline(self.config):
            model: Any = super()._create_groot_model()
        if self._apt_source is None:
            folder = local_folder(self.config.base_model_path)
            parts = [torch_params.file_shapes(file) for file in sorted(folder.glob("*.safetensors"))]
            torch_params.check_tree(model, {k: v for part in parts for k, v in part.items()}, folder)
        if self.config.recipe.expert == "fresh" and self.config.stage == PRIOR:
            logger.info("APT: the action head starts fresh, at the checkpoint's sizes (recipe expert=fresh).")
            model.action_head = type(model.action_head)(model.config).to(model.device)
        model.__class__ = apt_class(cache.CachedGrootFlow, type(model))
        model.apt_attach(self.config.recipe, self.config.stage)
        if held_dtype(self.config) == torch.bfloat16:
            torch_precision.hold_frozen(model.backbone)
        if self.config.use_bf16 and not self.config.model_params_fp32:
            torch_precision.hold_trained(model.action_head)
        config = self.config
        model.apt_train_as(config)
        return model

    @classmethod
    def _raw(cls, path: str | Path, config: Any) -> bool:
        if is_raw_groot_n1_7_checkpoint(path):
            config.base_model_path = str(path)
            return True
        return False

    def _keeps_processors(self, source: loading.Source) -> bool:
        # A saved groot processor keeps its own statistics whatever the data set's are: Stage 2 normalises as its
        # Stage 1 did unless the recipe wants the new data's.
        return source.kind != "prior" or self.config.recipe.norm_stats != "data"

    # -- training -----------------------------------------------------------------------------------------

    def _errors(self, batch: dict[str, Any], step: int, blank: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        flow = self.model
        backbone, action = flow.prepare_input(self._filter_groot_inputs(batch, include_action=True))
        if (cached := cache_data.fields_of(batch)) is not None:
            backbone = {cache.FIELDS: cached}
        index = batch.get("index")
        noise, time = flow.apt_draw(action["action"], step, index if isinstance(index, Tensor) else None)
        kind = get_device_from_parameters(self).type
        with torch.autocast(device_type=kind, dtype=torch.bfloat16, enabled=self.config.use_bf16):
            errors = flow.apt_errors(backbone, action, noise, time, blank)
        counts = errors.pop("mask")
        return errors, counts

    def _mean(self, error: Tensor, counts: Tensor | None, each: bool) -> Tensor:
        """As in the host: over the valid entries of the batch's own robots."""
        assert counts is not None
        if each:
            return error.float().sum((1, 2)) / (counts.sum((1, 2)) + 1e-6)
        return error.float().sum() / (counts.sum() + 1e-6)

    def get_optim_params(self) -> Any:
        """The host's own split by weight decay, inside the recipe's groups.

        Raises:
            AptError: the recipe asks for LoRA and the host was not told to wrap the policy.
        """
        named = dict(self.named_parameters())
        for name, parameter in named.items():
            if name.replace(".modules_to_save.default", "") in self._apt_frozen:
                parameter.requires_grad_(False)
        check_wrapped(self, self.config.vlm_mode)
        groups: Any = self._build_weight_decay_parameter_groups(self)
        decayed = {id(p) for p in groups[0]["params"]}
        names = {name for name, p in named.items() if id(p) in decayed}
        return parameter_groups(named, self.config.recipe, self.config.stage, self.config.optimizer_lr, names)

    def _saved_in_full(self) -> list[str]:
        return ["action_head"]
