"""What is compared: an arm is a way of training, a setting is a world with its data, model size and length.

One YAML file each (`configs/arms/*.yaml`, `configs/settings/*.yaml`); the frozen dataclasses are the
truth. A file may say only what differs from the defaults; `name` is the file's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apt_plugin.errors import AptError, choose
from apt_plugin.recipe import MODES, Recipe, from_flat

POLICIES = ("stock", "apt")
GROUPS = ("baseline", "control", "apt", "ablation", "research")
DATA = ("labelled", "unlabelled", "both")
NEGATIVES = ("scene", "data")
GOALS = ("", "state", "location")
WORLDS = ("one", "each")
EXPERTS = ("random", "trained")
BUDGETS = ("steps", "flops")
PILOTS = {"twentieth": 0.05, "tenth": 0.1, "fifth": 0.2}  # short runs: share of the steps
BODIES = ("pi05", "groot")
# Defaults of the recipe that have changed since results were kept.
RAN_WITH: dict[str, Any] = {"vlm_lr_scale": 0.1, "frozen_share": 0.0}
WORDS = ("says", "group", "arms", "budgets", "seeds")
LATER = {
    "wait_for_labels": False,
    "label_rounds": 1,
    "play": False,
    "goal": "",
    "goal_share": 1.0,
    "worlds": "one",
    "expert": "random",
}  # fields that results were kept before, and what they were


@dataclass(frozen=True)
class Stage1:
    """The language-free first stage, where an arm has one."""

    share: float = 0.5  # of the arm's gradient steps
    extra: float = 0.0  # and so many times the setting's steps on top, charged to the arm's cost but not to its budget
    data: str = "unlabelled"
    draws: int = 4

    def __post_init__(self) -> None:
        choose("stage1.data", self.data, DATA)
        if not 0 <= self.share < 1:
            raise AptError(f"stage1.share is {self.share}; write a share of the steps in [0, 1).")
        if self.extra < 0 or self.draws < 1:
            raise AptError(f"stage1: extra {self.extra} and draws {self.draws}; write extra >= 0 and draws >= 1.")


@dataclass(frozen=True)
class Arm:
    """One way of training a policy.

    Args:
        says: one sentence for the report; group: what the arm is in the comparison.
        policy: "stock" is the host's own, "apt" the gated one of the recipe.
        vlm: what happens to the VLM in the last stage; vlm_lr_scale: its rate over the expert's (stock; an APT arm has
            `recipe.vlm_lr_scale`); vlm_frozen_share: share of the steps, the first ones, in which it is frozen.
        draws: flow-matching (noise, time) samples per observation; 1 is the host's own.
        stage1: a language-free first stage whose tensors the last stage takes over; None: one stage.
        goal: what that stage is told of where its own demonstration ends: the robot's state there, as the recipe's
            `prior.goal` has it ("state", gated), or its cell and jaws in the place of the instruction, as "reach
            <loc05>" ("location", stock). goal_share: of its samples, that are told so. Without a stage1, "location" is
            told to the unlabelled share of each batch, in either policy.
        insulate: no gradient from expert to VLM; token_loss: weight of the VLM's own discrete action-token loss.
        dropout: share of instructions blanked; unlabelled: share of each batch that is unlabelled, under none.
        self_label: share of the last stage's steps after which unlabelled frames get the training instruction that fits
            their action best under the policy itself (see training/labelling.py); 0 is never. wait_for_labels: until
            then batches are labelled frames alone, instead of unlabelled ones under no instruction. label_rounds: how
            often they are labelled, at equal distances up to the last step.
        prior_loss, ratio: weights of the loss under an empty instruction, and of the likelihood-ratio loss.
        contrast, temperature, negatives: weight of the contrastive instruction loss, its temperature, and where other
            instructions come from: those of objects in view ("scene"), or any of the training data ("data").
        prior_weight: exponent by which samples that the prior explains are weighed down; 0 is off.
        gate_push: weight of a pull of the gates towards open.
        guidance: scales to evaluate; the first is the arm's own, each other one a variant of it without training.
        recipe: fields of `apt_plugin.recipe.Recipe` (and `preset`).
        lr: peak rate; 0 takes the tuned one, or the setting's. rate_like: the arm whose tuned rate this one takes.
    """

    name: str
    says: str = ""
    group: str = "baseline"
    policy: str = "stock"
    vlm: str = "frozen"
    vlm_lr_scale: float = 1.0
    vlm_frozen_share: float = 0.0
    draws: int = 1
    stage1: Stage1 | None = None
    insulate: bool = False
    token_loss: float = 0.0
    dropout: float = 0.0
    unlabelled: float = 0.0
    self_label: float = 0.0
    wait_for_labels: bool = False
    label_rounds: int = 1
    prior_loss: float = 0.0
    ratio: float = 0.0
    contrast: float = 0.0
    temperature: float = 0.1
    negatives: str = "scene"
    goal: str = ""
    goal_share: float = 1.0
    prior_weight: float = 0.0
    gate_push: float = 0.0
    guidance: tuple[float, ...] = (1.0,)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 0.0
    rate_like: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", tuple(float(scale) for scale in self.guidance))
        for name, known in (("policy", POLICIES), ("group", GROUPS), ("vlm", MODES), ("negatives", NEGATIVES),
                            ("goal", GOALS)):  # fmt: skip
            choose(f"{self.name}: {name}", getattr(self, name), known)
        for name in ("vlm_frozen_share", "dropout", "unlabelled", "self_label"):
            if not 0 <= getattr(self, name) < 1:
                raise AptError(f"{self.name}: {name} is {getattr(self, name)}; write a share in [0, 1).")
        for name in ("token_loss", "prior_loss", "ratio", "contrast", "prior_weight", "gate_push", "lr"):
            if getattr(self, name) < 0:
                raise AptError(f"{self.name}: {name} is {getattr(self, name)}; write a number >= 0.")
        if self.temperature <= 0 or min(self.draws, self.label_rounds) < 1 or not self.guidance:
            raise AptError(f"{self.name}: write temperature > 0, draws >= 1, label_rounds >= 1 and a guidance scale.")
        if self.policy == "stock" and (self.recipe or self.gate_push or self.prior_weight or self.vlm == "lora"):
            raise AptError(
                f"{self.name}: recipe, gate_push, prior_weight and vlm=lora need the gated policy; write policy: apt."
            )
        if self.self_label and not self.unlabelled:
            raise AptError(f"{self.name}: self_label needs unlabelled frames in the batch; write unlabelled: 0.5.")
        if self.wait_for_labels and not self.self_label:
            raise AptError(f"{self.name}: wait_for_labels needs labels to wait for; write self_label: 0.3.")
        if self.insulate and not self.token_loss:
            raise AptError(f"{self.name}: an insulated VLM learns from its own loss only; write token_loss: 1.")
        if self.token_loss and (self.policy != "stock" or self.vlm != "full"):
            raise AptError(f"{self.name}: token_loss trains the VLM of a stock policy; write policy: stock, vlm: full.")
        if not 0 < self.goal_share <= 1:
            raise AptError(f"{self.name}: goal_share is {self.goal_share}; write a share in (0, 1].")
        told = self.mixes_goals or (self.stage1 and (self.goal == "state") == (self.policy == "apt"))
        if self.goal and not told:
            raise AptError(
                f"{self.name}: a goal is told to a stage1 (write state with policy: apt, location with stock), or to "
                "the unlabelled share of each batch (write goal: location, unlabelled: 0.5 and no stage1)."
            )
        if self.policy == "apt":
            self.resolved()

    @property
    def untold(self) -> float:
        """Of the first stage's samples, that lack the goal which the others are told."""
        return 1 - self.goal_share if self.goal else 0.0

    @property
    def mixes_goals(self) -> bool:
        """Whether unlabelled frames beside labelled ones are told their goal where those have an instruction."""
        return self.goal == "location" and self.stage1 is None and bool(self.unlabelled) and not self.self_label

    @property
    def sees_unlabelled(self) -> bool:
        """Whether any unlabelled demonstration has a part in training."""
        return bool(self.unlabelled) or (self.stage1 is not None and self.stage1.data != "labelled")

    def labelling_steps(self, steps: int) -> list[int]:
        """The steps of a last stage of so many at which unlabelled frames are labelled."""
        first = round(self.self_label * steps)
        every = (steps - first) / self.label_rounds
        return [first + round(turn * every) for turn in range(self.label_rounds)] if self.self_label else []

    def resolved(self) -> Any:
        """The recipe of an APT arm.

        Raises:
            AptError: an unknown field or value.
        """
        stated = self.goal == "state"
        told = {"prior.goal": self.goal, "prior.goal_share": self.goal_share} if stated else {}
        given = {**told, **dict(self.recipe), "vlm": self.vlm, "noise_draws": self.draws}
        return from_flat(given, Recipe(**RAN_WITH))

    def wordings(self) -> tuple[str, ...]:
        """Instructions per frame that training asks for, beside its own."""
        blank = self.dropout or self.unlabelled or self.prior_loss or self.ratio or max(self.guidance) != 1.0
        return (("blank",) if blank else ()) + (("other0", "other1") if self.contrast else ())


@dataclass(frozen=True)
class Setting:
    """A world, its data, the sizes of the model, how long it trains and how it is tested.

    Args:
        world, grounding: fields of `tabletop.world.World` and `tabletop.grounding.Grounding` that differ from theirs.
        sizes: of the model, over the tabletop's own.
        labelled, unlabelled: numbers of episodes; play: the unlabelled ones go for any object in view, each as often,
            instead of for what the labelled ones go for.
        steps, batch, warmup: of the stock arm.
        lr_expert, lr_full: peak rates with a frozen and with a trained VLM, where none was tuned.
        worlds: "each" seed has a world and a VLM of its own; with "one" all share the world and vlm_seeds VLMs in turn.
        expert: "trained" starts it from another world's demonstrations instead of from chance; episodes: tests a split.
        arms: names; empty: all. budgets: equal "steps", equal counted "flops".
    """

    name: str
    says: str = ""
    body: str = "pi05"
    world: Mapping[str, Any] = field(default_factory=dict)
    grounding: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    labelled: int = 300
    unlabelled: int = 1500
    play: bool = False
    worlds: str = "one"
    expert: str = "random"
    batch: int = 32
    steps: int = 1500
    warmup: int = 50
    lr_expert: float = 3e-3
    lr_full: float = 1.5e-3
    vlm_seeds: int = 2
    seeds: int = 5
    episodes: int = 200
    arms: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ("steps",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", tuple(self.arms))
        object.__setattr__(self, "budgets", tuple(self.budgets))
        choose(f"{self.name}: body", self.body, BODIES)
        choose(f"{self.name}: worlds", self.worlds, WORLDS)
        if choose(f"{self.name}: expert", self.expert, EXPERTS) == "trained" and self.body != "pi05":
            raise AptError(f"{self.name}: expert: trained is there for body: pi05 alone; write that, or random.")
        for budget in self.budgets:
            choose(f"{self.name}: budgets", budget, BUDGETS)
        for name in ("labelled", "unlabelled", "batch", "steps", "vlm_seeds", "seeds", "episodes"):
            if getattr(self, name) < 1:
                raise AptError(f"{self.name}: {name} is {getattr(self, name)}; write 1 or more.")


def at(setting: Setting, seed: int) -> Setting:
    """The setting as a run of a seed has it."""
    own = setting.worlds == "each"
    return dataclasses.replace(setting, world={**setting.world, "seed": seed}) if own else setting


def content(spec: Any) -> dict[str, Any]:
    """What decides a result: every field but the words of the report, and those that came later where they are off, so
    that results of before keep their names."""
    out = dataclasses.asdict(spec)
    off = [name for name, value in LATER.items() if out.get(name) == value]
    return {key: value for key, value in out.items() if key not in (*WORDS, *off)}


def digest(value: Any) -> str:
    """Ten hex digits of a JSON value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()[:10]
