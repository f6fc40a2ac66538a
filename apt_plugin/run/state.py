"""What one stage of training knows of itself beyond the host's own state, and the record that it leaves.

Every host keeps one of these while it trains: the optimiser step, the curve, the VLM's hash at the start, and where a
Stage 2 came from. What must not be saved is refused here, once for all hosts.
"""

from __future__ import annotations

import copy
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apt_plugin
from apt_plugin.curve import Curve
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD, NonFiniteError, Record
from apt_plugin.vlm import mode_of

logger = logging.getLogger(__name__)


@dataclass
class StageState:
    """The state of one stage. Saved in each checkpoint's record and taken up again from it.

    Args:
        stage: 1 or 2.
        policy: the host's name for the model family.
        host: host and version as the record names them.
        step: optimiser steps taken.
        vlm_start: `freeze.digest` of the VLM when the stage began; None until it was hashed.
        stage1: Stage 2's provenance, see `after`.
        facts: what Stage 2 must have in common with Stage 1, see `agreement`.
        base: what training began with, as the user named it; a Stage 2 takes its Stage 1's.
    """

    stage: int
    recipe: Recipe
    policy: str
    host: str
    step: int = 0
    curve: Curve = field(default_factory=Curve)
    vlm_start: str | None = None
    stage1: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None
    base: str | None = None

    @property
    def vlm_mode(self) -> str:
        """frozen | lora | full."""
        return mode_of(self.recipe, self.stage)

    def begin(self, vlm: str) -> None:
        """Note the VLM's hash before the first step; a resumed stage keeps the one it began with."""
        if self.vlm_start is None:
            self.vlm_start = vlm

    def after(self, folder: Path | str, record: Record) -> None:
        """Note which Stage 1 this stage starts from.

        Raises:
            AptError: `record` is no Stage 1's.
        """
        if record.stage == LIKELIHOOD:
            raise AptError(f"{folder} is a Stage-2 result; Stage 2 starts from Stage 1. To go on training it, resume.")
        self.stage1 = {"path": str(folder), "weights": record.weights, "vlm": record.vlm, "steps": record.steps}
        self.base = record.base
        logger.info("APT: Stage 2 starts from %s. %s", folder, record.trend().sentence())

    def began_with(self, named: str) -> None:
        """Note the base; a folder's name begins with its place, so that nobody takes it for one on the hub."""
        here = Path(named).exists() and not Path(named).is_absolute()
        self.base = os.path.join(os.curdir, named) if here else named

    def resume(self, folder: Path | str, record: Record) -> None:
        """Go on where a checkpoint of this stage stopped.

        Raises:
            AptError: a checkpoint of the other stage.
        """
        if record.stage != self.stage:
            raise AptError(f"{folder} is of Stage {record.stage}, this run of Stage {self.stage}.")
        self.step, self.curve = record.steps, record.curve
        self.vlm_start, self.stage1, self.base = record.vlm_start, record.stage1, record.base
        logger.info("APT: resuming Stage %d behind %d steps.", record.stage, record.steps)

    def check(self, vlm: str, non_finite: str | None = None) -> str:
        """The VLM's digest, after refusing what must not be saved.

        Args:
            vlm: digest of the VLM as it is now.
            non_finite: name of a parameter that holds NaN or infinity, if one does.

        Raises:
            NonFiniteError: there is such a parameter.
            AptError: a frozen VLM has changed (LoRA's own factors are not part of the digest).
        """
        if non_finite is not None:
            raise NonFiniteError(f"Parameter {non_finite} is not finite after step {self.step}: refusing to save it.")
        if self.vlm_mode != "full" and self.vlm_start not in (None, vlm):
            raise AptError(
                f"The VLM was to stay {self.vlm_mode} and its hash went from {self.vlm_start[:12]} to {vlm[:12]} by "
                f"step {self.step}. Something trains or averages it (an EMA over frozen bfloat16 leaves, a second "
                "optimiser); nothing was saved."
            )
        return vlm

    def record(self, *, vlm: str, weights: str, layout: str, steps: int | None = None, **more: Any) -> Record:
        """The record of a checkpoint that is being written.

        Args:
            vlm: digest of the VLM as written; weights: SHA-256 of the weights; layout: `freeze.layout`.
            steps: optimiser steps where the host counts them itself.
            more: further fields of `Record`.

        Raises:
            AptError: see `check`.
        """
        return Record(
            stage=self.stage,
            policy=self.policy,
            recipe=self.recipe,
            host=self.host,
            plugin=apt_plugin.__version__,
            steps=self.step if steps is None else steps,
            layout=layout,
            vlm=self.check(vlm),
            vlm_start=self.vlm_start or vlm,
            weights=weights,
            curve=copy.deepcopy(self.curve),  # a host may write it from a thread while training goes on
            stage1=self.stage1,
            base=self.base,
            **{"facts": self.facts, **more},
        )
