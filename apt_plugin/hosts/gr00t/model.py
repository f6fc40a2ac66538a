"""`Gr00tN1d7Apt`: the host's model with the recipe's forward passes. Everything tensor-shaped is in the back-end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gr00t.model.gr00t_n1d7.gr00t_n1d7 import Gr00tN1d7

from apt_plugin import stages
from apt_plugin.backends import torch_absent, torch_device, torch_params, torch_precision, torch_ranks
from apt_plugin.backends.torch_cache import take_fields
from apt_plugin.backends.torch_groot_cache import FIELDS, CachedGrootFlow
from apt_plugin.backends.torch_groot_dit import stage_frozen
from apt_plugin.backends.torch_groot_groups import part_of
from apt_plugin.backends.torch_listen import AptGrootContext
from apt_plugin.backends.torch_retained import Retained, by_rows
from apt_plugin.hosts.gr00t import acting, records
from apt_plugin.hosts.gr00t.config import Gr00tN1d7AptConfig
from apt_plugin.hosts.gr00t.names import FAMILY, WEIGHTS
from apt_plugin.hub import local_folder
from apt_plugin.recipe import Recipe
from apt_plugin.run.state import StageState
from apt_plugin.stages import LIKELIHOOD, PRIOR

logger = logging.getLogger(__name__)
SWAP = by_rows("input_ids", "attention_mask", "mm_token_type_ids")


class Gr00tN1d7Apt(CachedGrootFlow, Gr00tN1d7):
    """Built by AutoModel from our checkpoints, or made in place from a stock model that the host loaded."""

    config_class = Gr00tN1d7AptConfig

    def __init__(self, config: Gr00tN1d7AptConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.apt_attach(acting.applied(config.recipe, config.apt_stage), config.apt_stage)
        self.apt_begin()

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """The host's loading of a checkpoint of ours, by whatever door: nothing of it may be another than was written.

        Raises:
            AptError: a file that is missing or was changed, a tensor that the file or the model lacks.
        """
        folder = local_folder(name, **kwargs)
        records.check_whole(folder)
        model, info = super().from_pretrained(folder, *args, output_loading_info=True, **kwargs)
        records.check_loaded(info, folder)
        return (model, info) if output_loading_info else model

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """PyTorch's, by which the host's policy and server move a model.

        Raises:
            AptError: a device that this machine lacks.
        """
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, str | int):
            torch_device.check(f"cuda:{device}" if isinstance(device, int) else device, "--device")
        return super().to(*args, **kwargs)

    def apt_begin(self) -> None:
        """Run-time state of a training run; restored from a record where one goes on."""
        self.apt_run = StageState(self.apt_stage, self.apt_recipe, FAMILY, "gr00t N1.7")
        self.apt_retained = Retained()
        self.apt_absent: torch_absent.Vlm | None = None  # the VLM, where a run from a cache leaves it in its file
        self.apt_exact: torch_precision.Exact | None = None

    @classmethod
    def convert(cls, model: Gr00tN1d7, recipe: Recipe, stage: int) -> Gr00tN1d7Apt:
        """Turn a loaded model (stock, or Stage 1 for a Stage 2) into one of `stage`, in place.

        The host checks keys strictly while it loads; parameters that are added afterwards pass that check.
        """
        if stage == PRIOR and recipe.expert == "fresh" and type(model) is Gr00tN1d7:
            # Built from the checkpoint's config: the host's own skip_weight_loading takes sizes from code defaults.
            logger.info("APT: the action head starts fresh, at the checkpoint's sizes (recipe expert=fresh).")
            model.action_head = type(model.action_head)(model.config).to(model.device, model.dtype)
        model.__class__ = cls
        config = Gr00tN1d7AptConfig.of(model.config, stage, recipe)
        model.config = model.action_head.config = config
        model.apt_attach(recipe, stage)  # type: ignore[attr-defined]
        model.apt_begin()  # type: ignore[attr-defined]
        return model  # type: ignore[return-value]

    def forward(self, inputs: dict) -> dict[str, Any]:
        """The host's training pass: flow-matching loss over K draws per backbone-and-adapter pass.

        Raises:
            NonFiniteError: naming the step and the loss term.
        """
        recipe, two = self.apt_recipe, self.apt_stage == LIKELIHOOD
        if self.training and self.apt_run.vlm_start is None:
            self.apt_run.begin(self.apt_vlm_digest())
        inputs, cached = take_fields(inputs)
        backbone, action = self.prepare_input(inputs)
        backbone = backbone if cached is None else {FIELDS: cached}
        noise, time = self.apt_draw(action["action"], self.apt_run.step if self.training else -1)
        blank = two and (not self.training or (recipe.gap_every > 0 and self.apt_run.step % recipe.gap_every == 0))
        errors = self.apt_errors(backbone, action, noise, time, blank)
        mask = errors.pop("mask")
        terms = {name: error.float().sum() / (mask.sum() + 1e-6) for name, error in errors.items()}
        scalars = {name: float(term.detach()) for name, term in terms.items()}
        scalars = torch_ranks.mean(scalars) if self.training else scalars
        stages.check_finite(scalars, self.apt_run.step)
        loss = terms["loss"] + recipe.prior_loss * terms["prior"] if "prior" in terms else terms["loss"]
        if self.training:
            self._note(scalars)
            if blank and self.apt_recipe.vlm == "full":
                self._note_retention(inputs)
        return {"loss": loss, "action_loss": errors["loss"], "action_mask": mask}

    def _note(self, scalars: dict[str, float]) -> None:
        curve = {"loss": scalars["loss"]}
        if "prior" in scalars:
            curve["prior_loss"] = scalars["prior"]
        if "blank" in scalars:
            curve["blank_gap_train"] = scalars["blank"] - scalars["loss"]
        if self.apt_fusion is not None and self.apt_run.step % max(self.apt_recipe.gap_every, 1) == 0:
            curve |= {f"gate.{site}": opened for site, opened in self.apt_fusion.openings().items()}
        self.apt_run.curve.add(self.apt_run.step, curve | self.apt_gates())

    def _note_retention(self, inputs: dict) -> None:
        value = self.apt_retained.now(
            self, lambda asked: AptGrootContext(self, dict(asked)).read(), inputs, SWAP,
            lambda: [tuple(row) for row in inputs["input_ids"].tolist()], self.apt_run.step,
        )  # fmt: skip
        if value is not None:
            self.apt_run.curve.add(self.apt_run.step, {"retention": value})

    def apt_gates(self) -> dict[str, float]:
        """Gate openings, for logs and the curve."""
        if self.apt_fusion is None:
            return {}
        opened = self.apt_fusion.openings().values()
        return {"gate_mean": sum(opened) / len(opened), "gate_max": max(opened)}

    def apt_hold_exact(self) -> None:
        """For a run under bfloat16 autocast: see `torch_precision.Exact`. The VLM, and text blocks that stay off."""
        two, dit = self.apt_stage == LIKELIHOOD, self.action_head.model
        unread = stage_frozen(dit, self.apt_recipe.fusion if two else None)
        linear = [*self.backbone.modules(), *(m for name, m in dit.named_modules() if f"{name}.weight" in unread)]
        tables = [] if self.apt_absent is not None else [self.backbone.model.get_input_embeddings()]
        self.apt_exact = torch_precision.Exact(self, linear, tables)

    def apt_vlm_digest(self) -> str:
        """SHA-256 over the backbone as it is now, in memory or in its file."""
        here = {n: p for n, p in self.named_parameters() if part_of(n) == "vlm"}
        if self.apt_exact is not None:
            here = {n: self.apt_exact.of(n, p) for n, p in here.items()}
        return torch_params.digest(here.items()) if self.apt_absent is None else self.apt_absent.digest(here)

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, max_shard_size: str = "1TB", **kwargs: Any
    ) -> Any:
        """One weights file whatever its size: its digest is in the record. A VLM that is not in memory is added."""
        done = super().save_pretrained(save_directory, *args, max_shard_size=max_shard_size, **kwargs)
        if self.apt_absent is not None:
            torch_absent.merge(Path(save_directory) / WEIGHTS, self.apt_absent)
        return done
