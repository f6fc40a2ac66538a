"""The APT policy: a policy of lerobot with the recipe's stage, draws, groups and checks.

    B batch   K noise draws   T action tokens   A action dimensions

Mixed in front of the host's policy class, whose preprocessing, action queue, RTC and padding stay. What differs between
families is a method that a family's own policy answers.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.utils.constants import ACTION
from torch import Tensor

from apt_plugin import freeze, stages
from apt_plugin.backends import torch_params
from apt_plugin.backends.torch_retained import Retained
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import cache, cards, families, loading, records, shards
from apt_plugin.hosts.lerobot.groups import check_wrapped, in_vlm, optimizer_groups, trainable_share, vlm_digest
from apt_plugin.hosts.lerobot.names import ADAPTER_WEIGHTS
from apt_plugin.listen.interval import interval_numbers
from apt_plugin.stages import LIKELIHOOD
from apt_plugin.tracked import tracked

if TYPE_CHECKING:  # a mixin: the host's policy stands behind it
    from lerobot.policies.pretrained import PreTrainedPolicy as HostPolicy
else:
    HostPolicy = object

logger = logging.getLogger(__name__)


class AptPolicy(HostPolicy):
    """Stage 1 or Stage 2 of the recipe on a policy of lerobot."""

    config: Any
    model: Any
    lora: str  # pattern of the VLM's matrices that LoRA adapts

    def __init__(self, config: Any, source: loading.Source | None = None, **kwargs: Any):
        if config.stage == LIKELIHOOD and source is None:
            host = families.host_type(config.type)
            raise AptError(
                "Stage 2 starts from a Stage-1 result and none was named. Write --policy.path=<Stage-1 checkpoint> "
                f"--policy.stage=2, or train both: apt-plugin run lerobot-train --policy.type={host} ... --recipe apt."
            )
        shards.check_process()
        records.check_data(config, kwargs.get("dataset_meta"))
        self._apt_source = source
        with self._building(config):
            super().__init__(config, **kwargs)
        self.apt_absent = cache.leave_out(self, self._held(config))
        self._settle(config)
        self.apt_run = records.state_of(config)
        self._apt_eval: dict[str, list[float]] = {}
        self._apt_retained = Retained()
        config._apt_recorder = self._record_adapter
        config._apt_card = functools.partial(cards.described, self)

    # -- what a family says of itself -----------------------------------------------------------------------

    def _building(self, config: Any) -> contextlib.AbstractContextManager:
        """What is replaced in the host while it builds the policy."""
        raise NotImplementedError

    def _held(self, config: Any) -> torch.dtype | None:
        """In what a frozen VLM's weights are held; None: as the checkpoint has them."""
        return None

    def _settle(self, config: Any) -> None:
        """Put the model on its device, and say what of it trains."""
        raise NotImplementedError

    def _errors(self, batch: dict[str, Any], step: int, blank: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Squared errors averaged over the draws, {loss, prior, blank: [B, T, A]}; and which of them count, [B, T, A]
        or [B, T, 1] (errors that do not are zero), None for all.

        Args:
            step: of the optimiser, -1 in evaluation; blank: whether the error under no instruction is wanted.
        """
        raise NotImplementedError

    def _mean(self, error: Tensor, counts: Tensor | None, each: bool) -> Tensor:
        """The mean of an error over what counts: the batch's, or with `each` per sample [B]."""
        rows = error.mean((1, 2))
        return rows if each else rows.mean()

    @classmethod
    def _raw(cls, path: str | Path, config: Any) -> bool:
        """Whether `path` holds weights that the host reads by itself, while it builds the policy of `config`."""
        return False

    def _keeps_processors(self, source: loading.Source) -> bool:
        """Whether the saved processors of a checkpoint go on. Those of a foreign source lack our prompt step."""
        return source.kind == "same"

    # -- loading and saving -------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, *, config: Any = None, **kwargs: Any) -> Any:
        """Build the policy and load every shared tensor, or stop with the reason.

        Raises:
            AptError: see `loading.inspect` and `torch_params.load_shared`.
        """
        if config is None:
            config = loading.config_of(pretrained_name_or_path, **kwargs)
        data = {key: kwargs[key] for key in ("dataset_meta", "dataset_stats") if key in kwargs}
        if cls._raw(pretrained_name_or_path, config):
            policy = cls(config, **data).eval()
            policy.apt_run.began_with(str(pretrained_name_or_path))
            return policy
        source = loading.inspect(pretrained_name_or_path, config, **kwargs)
        if source.kind == "prior":
            config.stage1_path = str(source.folder)
        policy = cls(config, source=source, **data)
        names = policy.state_dict().keys()
        host = source.kind == "host"
        skip = {n for n in names if not in_vlm(n)} if host and config.recipe.expert == "fresh" else set()
        fresh = {name for name in names if freeze.added(name)} if source.kind == "prior" else set()
        renames = families.of(config.type).renames(source.files, families.host_type(config.type)) if host else {}
        loaded = torch_params.load_shared(policy, source.files, renames, skip, fresh, policy.apt_absent, host)
        loading.log_source(source, policy, loaded, skip | fresh)
        records.restore(policy, source, str(pretrained_name_or_path))
        policy.name_or_path = str(source.folder)  # PEFT notes the base model under this name
        if not policy._keeps_processors(source) and str(config.pretrained_path) == str(pretrained_name_or_path):
            config.pretrained_path = None  # where lerobot reads the processors from
        policy.to(config.device)
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path, **given: Any) -> None:
        # What else is given differs between versions of the host (0.6.1: `state_dict`).
        records.save(self, Path(save_directory), lambda: super(AptPolicy, self)._save_pretrained(
            save_directory, **given))  # fmt: skip

    def generate_model_card(
        self, dataset_repo_id: str, model_type: str, license: str | None, tags: list[str] | None, **more: Any
    ) -> Any:
        """lerobot's own card of the policy that this one was made from, with a section of ours (main: `cards`)."""
        host = families.host_type(model_type)
        made = super().generate_model_card(dataset_repo_id, host, license, cards.tags(model_type, tags), **more)
        return cards.described(self, made, more.get("cfg"))

    def _record_adapter(self, folder: Path) -> None:
        if (folder / ADAPTER_WEIGHTS).is_file():
            records.write(self, folder, ADAPTER_WEIGHTS)

    # -- training -----------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict]:
        """Flow-matching loss over K draws per pass of the VLM.

        Args:
            batch: a processed lerobot batch; `reduction`: "mean", or "none" for per-sample losses [B].

        Raises:
            NonFiniteError: naming the step and the loss term.
        """
        if self.training and self.apt_run.vlm_start is None:
            self.apt_run.begin(vlm_digest(self))
        recipe, two = self.config.recipe, self.config.stage == LIKELIHOOD
        step = self.apt_run.step if self.training else -1  # the same draws at every evaluation, in both stages
        blank = two and (not self.training or (recipe.gap_every > 0 and self.apt_run.step % recipe.gap_every == 0))
        terms, counts = self._errors(batch, step, blank)
        scalars = {name: float(self._mean(term.detach(), counts, False)) for name, term in terms.items()}
        stages.check_finite(scalars, self.apt_run.step)
        logged = self._log(scalars, terms["loss"])
        if blank and self.training and self.config.vlm_mode != "frozen":
            logged |= self._retention(batch)
        weights = {"loss": 1.0, "prior": recipe.prior_loss}
        parts = [w * self._mean(terms[n], counts, reduction == "none") for n, w in weights.items() if n in terms]
        return sum(parts[1:], parts[0]), logged

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
        per_dim = errors.detach()[..., : self.config.output_features[ACTION].shape[0]].mean((0, 1)).cpu().tolist()
        return {**tracked(curve), "loss_per_dim": per_dim, "trainable_share": trainable_share(self)}

    def _retention(self, batch: dict[str, Any]) -> dict[str, float]:
        listening = families.of(self.config.type).listening()
        value = self._apt_retained.now(
            self, lambda asked: listening.context(self, asked).read(), batch, listening.swap,
            lambda: [str(task) for task in batch.get("task") or ()], self.apt_run.step,
        )  # fmt: skip
        if value is None:
            return {}
        self.apt_run.curve.add(self.apt_run.step, {"retention": value})
        return tracked({"retention": value})

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

    # -- PEFT ---------------------------------------------------------------------------------------------

    def _saved_in_full(self) -> list[str]:
        """Modules that train in full beside LoRA: the expert, its heads, the fusion."""
        raise NotImplementedError

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """LoRA on the VLM's language model; the expert and the fusion train in full and are saved with it."""
        return {"target_modules": self.lora, "modules_to_save": self._saved_in_full(), "r": 16, "lora_alpha": 16}

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
