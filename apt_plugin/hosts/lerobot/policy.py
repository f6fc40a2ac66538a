"""The APT policy: lerobot's PI0Policy / PI05Policy with the recipe's stage, draws, groups and checks.

    B batch   K noise draws   T action tokens   A action dimensions

Mixed in front of the host's policy class; image preprocessing, action queue, RTC and padding stay the host's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.utils.constants import ACTION
from torch import Tensor

from apt_plugin import freeze, stages
from apt_plugin.backends import torch_params
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import absent_pi, cache, cache_data, cache_pi, loading, records, shards
from apt_plugin.hosts.lerobot.flow import PromptBatch
from apt_plugin.hosts.lerobot.groups import check_wrapped, optimizer_groups, set_trainable, trainable_share, vlm_digest
from apt_plugin.hosts.lerobot.names import ADAPTER_WEIGHTS
from apt_plugin.hosts.lerobot.noise import draw
from apt_plugin.hosts.lerobot.sizes import sized
from apt_plugin.listen.interval import interval_numbers
from apt_plugin.run.replace import replaced
from apt_plugin.stages import LIKELIHOOD

if TYPE_CHECKING:  # a mixin: the host's policy stands behind it
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy as HostPolicy
else:
    HostPolicy = object

logger = logging.getLogger(__name__)


class AptPolicy(HostPolicy):
    """Stage 1 or Stage 2 of the recipe on one of lerobot's π policies."""

    config: Any
    model: Any
    host: Any  # the host's modeling module, set by the subclass
    flow: tuple[str, type]  # (name of the host's model class in that module, our subclass of it)

    def __init__(self, config: Any, source: loading.Source | None = None, **kwargs: Any):
        if config.stage == LIKELIHOOD and source is None:
            raise AptError(
                "Stage 2 starts from a Stage-1 result and none was named. Write --policy.path=<Stage-1 checkpoint> "
                "--policy.stage=2, or train both: apt-plugin run lerobot-train ... --recipe apt."
            )
        shards.check_process()
        records.check_data(config, kwargs.get("dataset_meta"))
        # The host's own switch freezes the VLM and keeps it in eval mode. It is derived, never inherited: a
        # Stage-2 policy rebuilt from a Stage-1 config would otherwise keep Stage 1's freezing.
        config.train_expert_only = config.vlm_mode != "full"
        with sized(config.sizes), replaced(self.host, *self.flow), absent_pi.outline(config, self.host):
            super().__init__(config, **kwargs)
        self.apt_absent = cache.leave_out(self)
        self.model.to(config.device)
        set_trainable(self, config)
        self.apt_run = records.state_of(config)
        self._apt_eval: dict[str, list[float]] = {}
        config._apt_recorder = self._record_adapter

    # -- loading and saving -------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, *, config: Any = None, **kwargs: Any) -> Any:
        """Build the policy and load every shared tensor, or stop with the reason.

        Raises:
            AptError: see `loading.inspect` and `torch_params.load_shared`.
        """
        if config is None:
            config = loading.config_of(pretrained_name_or_path, **kwargs)
        source = loading.inspect(pretrained_name_or_path, config, **kwargs)
        if source.kind == "prior":
            config.stage1_path = str(source.folder)
        data = {key: kwargs[key] for key in ("dataset_meta", "dataset_stats") if key in kwargs}
        policy = cls(config, source=source, **data)
        names = policy.state_dict().keys()
        skip: set[str] = set()
        if source.kind == "host" and config.recipe.expert == "fresh":
            skip = loading.expert_keys(names)
        fresh = {name for name in names if freeze.added(name)} if source.kind == "prior" else set()
        host = source.kind == "host"
        renames = loading.host_renames(source.files, loading.family_of(config.type)) if host else {}
        loaded = torch_params.load_shared(policy, source.files, renames, skip, fresh, policy.apt_absent, host)
        loading.log_source(source, policy, loaded, skip | fresh)
        records.restore(policy, source)
        policy.name_or_path = str(source.folder)  # PEFT notes the base model under this name
        if source.kind != "same" and str(config.pretrained_path) == str(pretrained_name_or_path):
            # lerobot reads the processors from pretrained_path; those of a foreign source lack our prompt step.
            config.pretrained_path = None
        policy.to(config.device)
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path, **given: Any) -> None:
        # What else is given differs between versions of the host (0.6.1: `state_dict`).
        records.save(self, Path(save_directory), lambda: super(AptPolicy, self)._save_pretrained(
            save_directory, **given))  # fmt: skip

    def _record_adapter(self, folder: Path) -> None:
        if (folder / ADAPTER_WEIGHTS).is_file():
            records.write(self, folder, ADAPTER_WEIGHTS)

    # -- training -----------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict]:
        """Flow-matching loss over K draws per prefix pass.

        Args:
            batch: a processed lerobot batch; `reduction`: "mean", or "none" for per-sample losses [B].

        Raises:
            NonFiniteError: naming the step and the loss term.
        """
        if self.training and self.apt_run.vlm_start is None:
            self.apt_run.begin(vlm_digest(self))
        recipe, two = self.config.recipe, self.config.stage == LIKELIHOOD
        cached = cache_data.fields_of(batch)
        if cached is None:
            images, img_masks = self._preprocess_images(batch)
        else:
            images, img_masks = cache_pi.images_of(self, cached) if "tokens" in cached else ([], [])
        prefix = cache_pi.prefix_of(cached) if cached is not None and "k" in cached else None
        actions = self.prepare_action(batch)
        step = self.apt_run.step if self.training else -1  # the same draws at every evaluation, in both stages
        noise, time = draw(self.model, batch, actions, recipe.noise_draws, step)
        blank = two and (not self.training or (recipe.gap_every > 0 and self.apt_run.step % recipe.gap_every == 0))
        errors = self.model.forward(
            images, img_masks, PromptBatch.of(batch), actions, noise, time, self._state(batch), blank, prefix
        )
        width = self.config.output_features[ACTION].shape[0]
        terms = {name: error[..., :width] for name, error in errors.items()}
        per_sample = terms["loss"].mean((1, 2))
        if "prior" in terms:
            per_sample = per_sample + recipe.prior_loss * terms["prior"].mean((1, 2))
        scalars = {name: float(term.detach().mean()) for name, term in terms.items()}
        stages.check_finite(scalars, self.apt_run.step)
        logged = self._log(scalars, terms["loss"])
        return (per_sample if reduction == "none" else per_sample.mean()), logged

    def _log(self, scalars: dict[str, float], errors: Tensor) -> dict[str, Any]:
        """Scalars for lerobot's tracker, which averages them over a log interval; and the curve for the report."""
        if not self.training:
            for name, value in scalars.items():
                self._apt_eval.setdefault(name, []).append(value)
            return scalars
        curve = {"loss": scalars["loss"]}
        if "prior" in scalars:
            curve["prior_loss"] = scalars["prior"]
        gates = {} if self.model.apt_fusion is None else self.model.apt_fusion.openings()
        cheap = interval_numbers(scalars["loss"], scalars.get("blank"), gates)
        curve |= {"blank_gap_train" if name == "blank_gap" else name: value for name, value in cheap.items()}
        curve |= self._held_out()
        if gates and self.apt_run.step % max(self.config.recipe.gap_every, 1) == 0:
            self.apt_run.curve.add(self.apt_run.step, {f"gate.{site}": g for site, g in gates.items()})
        self.apt_run.curve.add(self.apt_run.step, curve)
        per_dim = errors.detach().mean((0, 1)).cpu().tolist()
        return {**curve, "loss_per_dim": per_dim, "trainable_share": trainable_share(self)}

    def _held_out(self) -> dict[str, float]:
        """Means of the host's evaluation pass since the last step (`--dataset.eval_split --eval_steps`)."""
        seen, self._apt_eval = self._apt_eval, {}
        means = {name: sum(values) / len(values) for name, values in seen.items()}
        if not means:
            return {}
        out = {"eval_loss": means["loss"]}
        return out | interval_numbers(means["loss"], means.get("blank"), None)

    def update(self) -> None:
        """lerobot calls this after each optimiser step."""
        self.apt_run.step += 1

    def get_optim_params(self) -> Any:
        """
        Raises:
            AptError: the recipe asks for LoRA and the host was not told to wrap the policy.
        """
        check_wrapped(self, self.config.vlm_mode)
        return optimizer_groups(self, self.config)

    # -- acting -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """An action chunk [B, T, A] for a processed batch; `noise` [B, T, max A] may be given."""
        self.eval()
        images, img_masks = self._preprocess_images(batch)
        actions = self.model.sample_actions(images, img_masks, PromptBatch.of(batch), self._state(batch), **kwargs)
        return actions[:, :, : self.config.output_features[ACTION].shape[0]]

    def _state(self, batch: dict[str, Tensor]) -> Tensor | None:
        """π0's state enters as a suffix token; π0.5 has it in the prompt."""
        return None

    # -- PEFT ---------------------------------------------------------------------------------------------

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """LoRA on the VLM's language model; the expert and the fusion train in full and are saved with it."""
        host = r".*paligemma\.model\.language_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        heads = [n for n, _ in self.model.named_children() if n not in ("paligemma_with_expert",)]
        return {"target_modules": host, "modules_to_save": ["gemma_expert", *heads], "r": 16, "lora_alpha": 16}

    def _validate_peft_config(self, peft_config: Any) -> None:
        """The host insists on pretrained_path, which a foreign source resets on purpose; ask for a stage instead."""
        if self.config.stage != LIKELIHOOD:
            raise AptError(
                "Stage 1 keeps the VLM frozen and trains the whole expert: LoRA belongs to Stage 2 (--apt.vlm lora)."
            )
        if self.config.vlm_mode != "lora":
            raise AptError(
                f"--peft.* puts trained factors into the VLM, and the recipe says vlm={self.config.vlm_mode}. Write "
                "--apt.vlm lora (without apt-plugin run: --policy.recipe.vlm=lora), or drop --peft.*."
            )
        logger.info("APT: LoRA on the VLM, expert and fusion trained in full.")
