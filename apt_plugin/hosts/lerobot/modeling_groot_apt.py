"""`groot_apt`: lerobot's GrootPolicy (GR00T N1.7) under the recipe.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.groot.configuration_groot import is_raw_groot_n1_7_checkpoint
from lerobot.policies.groot.modeling_groot import GrootPolicy
from lerobot.policies.utils import get_device_from_parameters
from lerobot.utils.constants import ACTION
from torch import Tensor

from apt_plugin import stages
from apt_plugin.backends import torch_params, torch_precision
from apt_plugin.backends.torch_groot_flow import apt_class
from apt_plugin.backends.torch_groot_groups import parameter_groups, part_of
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import cache, cache_data, cache_groot, loading, records, shards
from apt_plugin.hosts.lerobot.configuration_groot_apt import GrootAptConfig
from apt_plugin.hosts.lerobot.groups import check_wrapped, vlm_digest
from apt_plugin.hosts.lerobot.policy import AptPolicy
from apt_plugin.hub import local_folder
from apt_plugin.stages import LIKELIHOOD, PRIOR

logger = logging.getLogger(__name__)


def held_dtype(config: Any) -> torch.dtype | None:
    """In what the VLM's weights are held: bfloat16 where they only ever compute in it; None: as the checkpoint has
    them."""
    if config.use_bf16 and config.vlm_mode == "frozen":
        return torch.bfloat16
    return torch.float32 if config.model_params_fp32 else None


class GrootAptPolicy(AptPolicy, GrootPolicy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = GrootAptConfig
    name = "groot_apt"

    def __init__(self, config: Any, source: loading.Source | None = None, **kwargs: Any):
        if config.stage == LIKELIHOOD and source is None:
            raise AptError(
                "Stage 2 starts from a Stage-1 result and none was named. Write --policy.path=<Stage-1 checkpoint> "
                "--policy.stage=2, or train both: apt-plugin run lerobot-train --policy.type=groot ... --recipe apt."
            )
        shards.check_process()
        records.check_data(config, kwargs.get("dataset_meta"))
        self._apt_source = source
        GrootPolicy.__init__(self, config)
        self.apt_absent = cache.leave_out(self, held_dtype(config))
        if self.apt_absent is not None and source is None:
            raw = sorted(loading.local_folder(config.base_model_path).glob("*.safetensors"))
            self.apt_absent.locate(raw, {name.removeprefix("_groot_model."): name for name in self.apt_absent.specs})
        self.to(config.device)
        self.apt_run = records.state_of(config)
        self._apt_eval: dict[str, list[float]] = {}
        # PEFT opens all of a module that it saves in full: what the recipe froze of the head is frozen again behind it.
        self._apt_frozen = {n for n, p in self.named_parameters() if not p.requires_grad and part_of(n) != "vlm"}
        config._apt_recorder = self._record_adapter

    @property
    def model(self) -> Any:
        """The flow, under the name that AptPolicy uses."""
        return self._groot_model

    def _create_groot_model(self) -> Any:
        """The host's model from its raw weights, every tensor accounted for, then turned into one of ours."""
        with cache_groot.outline(self.config):
            model: Any = super()._create_groot_model()
        if self._apt_source is None:
            folder = local_folder(self.config.base_model_path)
            parts = [torch_params.file_shapes(file) for file in sorted(folder.glob("*.safetensors"))]
            torch_params.check_tree(model, {k: v for part in parts for k, v in part.items()}, folder)
        if self.config.recipe.expert == "fresh" and self.config.stage == PRIOR:
            logger.info("APT: the action head starts fresh, at the checkpoint's sizes (recipe expert=fresh).")
            model.action_head = type(model.action_head)(model.config).to(model.device)
        model.__class__ = apt_class(cache_groot.CachedGrootFlow, type(model))
        model.apt_attach(self.config.recipe, self.config.stage)
        if held_dtype(self.config) == torch.bfloat16:
            torch_precision.hold_frozen(model.backbone)
        if self.config.use_bf16 and not self.config.model_params_fp32:
            torch_precision.hold_trained(model.action_head)
        config = self.config
        model.apt_train_as(config)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, *, config: Any = None, **kwargs: Any) -> Any:
        """Build the policy and load every shared tensor, or stop with the reason.

        Raises:
            AptError: see `loading.inspect` and `torch_params.load_shared`.
        """
        if config is None:
            config = loading.config_of(pretrained_name_or_path, **kwargs)
        data = {key: kwargs[key] for key in ("dataset_meta", "dataset_stats") if key in kwargs}
        if is_raw_groot_n1_7_checkpoint(pretrained_name_or_path):
            config.base_model_path = str(pretrained_name_or_path)
            return cls(config, **data).eval()
        source = loading.inspect(pretrained_name_or_path, config, **kwargs)
        if source.kind == "prior":
            config.stage1_path = str(source.folder)
        policy = cls(config, source=source, **data)
        names = policy.state_dict().keys()
        skip: set[str] = set()
        if source.kind == "host" and config.recipe.expert == "fresh":
            skip = {name for name in names if ".backbone." not in name}
        fresh = {name for name in names if "apt_" in name} if source.kind == "prior" else set()
        host = source.kind == "host"
        loaded = torch_params.load_shared(policy, source.files, {}, skip, fresh, policy.apt_absent, host)
        loading.log_source(source, policy, loaded, skip | fresh)
        records.restore(policy, source)
        policy.name_or_path = str(source.folder)
        # A saved groot processor keeps its own statistics whatever the data set's are: Stage 2 normalises as its
        # Stage 1 did unless the recipe wants the new data's.
        if source.kind == "prior" and config.recipe.norm_stats == "data":
            config.pretrained_path = None
        return policy.to(config.device).eval()

    # -- training -----------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict]:
        """Flow-matching loss over K draws per backbone-and-adapter pass.

        Raises:
            NonFiniteError: naming the step and the loss term.
        """
        if self.training and self.apt_run.vlm_start is None:
            self.apt_run.begin(vlm_digest(self))
        flow, recipe, two = self.model, self.config.recipe, self.config.stage == LIKELIHOOD
        backbone, action = flow.prepare_input(self._filter_groot_inputs(batch, include_action=True))
        if (cached := cache_data.fields_of(batch)) is not None:
            backbone = {cache_groot.FIELDS: cached}
        step = self.apt_run.step if self.training else -1  # the same draws at every evaluation, in both stages
        index = batch.get("index")
        noise, time = flow.apt_draw(action["action"], step, index if isinstance(index, Tensor) else None)
        blank = two and (not self.training or (recipe.gap_every > 0 and self.apt_run.step % recipe.gap_every == 0))
        kind = get_device_from_parameters(self).type
        with torch.autocast(device_type=kind, dtype=torch.bfloat16, enabled=self.config.use_bf16):
            errors = flow.apt_errors(backbone, action, noise, time, blank)
        mask = errors.pop("mask")
        terms = {name: error.float().sum() / (mask.sum() + 1e-6) for name, error in errors.items()}
        scalars = {name: float(term.detach()) for name, term in terms.items()}
        stages.check_finite(scalars, self.apt_run.step)
        logged = self._log(scalars, errors["loss"][..., : self.config.output_features[ACTION].shape[0]])
        weight = {"loss": 1.0, "prior": recipe.prior_loss}
        if reduction == "none":
            count = mask.sum((1, 2)) + 1e-6
            per_sample: Any = sum(weight[n] * e.float().sum((1, 2)) / count for n, e in errors.items() if n in weight)
            return per_sample, logged
        total: Any = sum(weight[name] * term for name, term in terms.items() if name in weight)
        return total, logged

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
        groups: Any = GrootPolicy._build_weight_decay_parameter_groups(self)
        decayed = {id(p) for p in groups[0]["params"]}
        names = {name for name, p in named.items() if id(p) in decayed}
        return parameter_groups(named, self.config.recipe, self.config.stage, self.config.optimizer_lr, names)

    # -- acting -------------------------------------------------------------------------------------------

    predict_action_chunk: Any = GrootPolicy.predict_action_chunk  # the host's, RTC included; its model is ours

    # -- PEFT ---------------------------------------------------------------------------------------------

    def _get_default_peft_targets(self) -> Any:
        """LoRA on the VLM's decoder layers; the action head, fusion included, trains in full and is saved with it."""
        host = r".*backbone\..*language_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        return {"target_modules": host, "modules_to_save": ["action_head"], "r": 16, "lora_alpha": 16}
