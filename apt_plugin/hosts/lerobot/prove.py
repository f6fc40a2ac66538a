"""A lerobot checkpoint opened for `apt_plugin.proofs`.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_plugin import freeze
from apt_plugin.backends import torch_subject
from apt_plugin.backends.torch_params import shapes
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import goals, groups, register
from apt_plugin.hosts.lerobot.checkpoints import refuses_without_plugin
from apt_plugin.hosts.lerobot.families import FAMILIES, POLICIES, host_type, of
from apt_plugin.hosts.lerobot.loading import config_of
from apt_plugin.hosts.lerobot.names import INSTRUCTION_MASK, PREPROCESSOR, WEIGHTS
from apt_plugin.hosts.lerobot.processors import AptPromptStep
from apt_plugin.hub import local_folder
from apt_plugin.proofs import Outcome, Subject
from apt_plugin.run.replace import watch
from apt_plugin.stages import LIKELIHOOD
from apt_plugin.vlm import mode_of


def made_up(config: Any, length: int, instructions: Sequence[str], state_seed: int, image_seed: int) -> dict[str, Any]:
    """A raw batch as this policy's data sets have it: images and states by their seeds, the same actions always.

    Args:
        length: action tokens of a chunk.
    """
    n = len(instructions)
    pictures, numbers, steps = (torch.Generator().manual_seed(seed) for seed in (image_seed, 100 + state_seed, 7))
    raw: dict[str, Any] = {k: torch.rand(n, *f.shape, generator=pictures) for k, f in config.image_features.items()}
    if (state := config.robot_state_feature) is not None:
        raw["observation.state"] = torch.rand(n, *state.shape, generator=numbers) * 2 - 1
    raw["action"] = torch.rand(n, length, *config.action_feature.shape, generator=steps) * 2 - 1
    return {**raw, "task": list(instructions), "index": torch.arange(n)}


class LerobotSubject(Subject):
    """One policy with its own preprocessor, eager, in the precision that it trains in."""

    goal_seed: int | None = None  # of the state that its batches are told as their goal

    def __init__(self, policy: Any, preprocessor: Any, folder: Path, changed: Callable[[], list[str]]):
        self.policy, self.preprocessor, self.folder, self.replaced_names = policy, preprocessor, folder, changed
        self.stage, self.prefix = policy.config.stage, policy.config.recipe.prefix
        self.trains_vlm = mode_of(policy.config.recipe, self.stage) == "full"
        family = of(policy.config.type)
        self._half = family.autocasts(policy.config)
        self.rounding = torch_subject.rounding(policy, self._half)

    def _as_trained(self) -> contextlib.AbstractContextManager:
        """lerobot trains under autocast where the policy is bfloat16, and acts without."""
        return torch.autocast(torch.device(self.policy.config.device).type, torch.bfloat16, enabled=self._half)

    def _batch(self, instructions: Sequence[str], state_seed: int, image_seed: int) -> dict[str, Tensor]:
        config = self.policy.config
        raw = made_up(config, config.chunk_size, instructions, state_seed, image_seed)
        if (state := config.robot_state_feature) is not None and self.goal_seed is not None:
            ends = torch.Generator().manual_seed(200 + self.goal_seed)
            goal = torch.rand(len(instructions), *state.shape, generator=ends) * 2 - 1
            raw["observation.state"] = torch.stack([raw["observation.state"], goal], 1)
        return self.preprocessor(raw)

    def _recipe(self, **changes: Any) -> contextlib.AbstractContextManager:
        """The recipe with other run-time choices, for one evaluation."""
        model, recipe = self.policy.model, self.policy.model.apt_recipe

        @contextlib.contextmanager
        def changed():
            model.apt_recipe = replace(recipe, **changes)
            try:
                yield
            finally:
                model.apt_recipe = recipe

        return changed()

    def evaluate(
        self,
        instructions: Sequence[str],
        *,
        closed: bool = False,
        one_layout: bool = True,
        state_seed: int = 0,
        image_seed: int = 0,
    ) -> Outcome:
        policy, model = self.policy, self.policy.model
        batch = self._batch(instructions, state_seed, image_seed)
        seen, actions = policy.observed(batch), policy.prepare_action(batch)
        images, img_masks, state, prompt = seen.images, seen.masks, seen.state, seen.prompt
        b, device = actions.shape[0], actions.device
        fixed = torch.Generator().manual_seed(11)
        noise = torch.randn(b, 2, *actions.shape[1:], generator=fixed).to(device)
        time = torch.rand(b, 2, generator=fixed).to(device)
        fusion, model.apt_fusion = model.apt_fusion, None if closed else model.apt_fusion
        try:
            with self._recipe(drop_instruction=not one_layout, guidance_scale=1.0):
                policy.eval()
                policy.zero_grad(set_to_none=True)
                with self._as_trained():
                    errors = model.forward(images, img_masks, prompt, actions, noise, time, state)["loss"]
                loss = errors.mean((1, 2))
                loss.mean().backward()
                chunk = model.sample_actions(images, img_masks, prompt, state, noise=noise[:, 0].contiguous())
        finally:
            model.apt_fusion = fusion
        grads = torch_subject.gradients(policy)
        policy.zero_grad(set_to_none=True)
        spoken = torch.where(batch[INSTRUCTION_MASK], prompt.tokens, -1)
        seen = [image[mask.bool()] for image, mask in zip(images, img_masks, strict=True)]
        fed = {"images": torch.cat(seen).float().cpu().numpy()} if any(map(len, seen)) else {}
        if prompt.goal is not None and self.goal_seed is not None:
            fed["goal"] = torch.where(prompt.goal, prompt.tokens, -1).cpu().numpy()
        if policy.config.robot_state_feature is not None:  # a suffix token, or among the prompt's kept tokens
            robot = torch.where(batch[INSTRUCTION_MASK], -1, prompt.tokens) if state is None else state
            fed["state"] = robot.float().cpu().numpy()
        return Outcome(
            loss.detach().float().cpu().numpy(), chunk.float().cpu().numpy(), grads, spoken.cpu().numpy(), fed
        )

    def told(self, seed: int) -> LerobotSubject | None:
        if not goals.wanted(self.policy.config):
            return None
        other = copy.copy(self)
        other.goal_seed = seed
        return other

    def switched(self) -> LerobotSubject:
        kind, config = type(self.policy), replace(self.policy.config, stage=LIKELIHOOD, pretrained_path=None)
        del self.policy  # it is spent: two models would not fit where one was trained
        gc.collect()
        policy = kind.from_pretrained(self.folder, config=config)
        return LerobotSubject(policy, self.preprocessor, self.folder, self.replaced_names)

    def train(self, instructions: Sequence[str], steps: int) -> dict[str, float]:
        policy = self.policy
        policy.train()
        config = policy.config
        optimizer = torch.optim.AdamW(groups.optimizer_groups(policy, config), lr=config.optimizer_lr, weight_decay=0.1)
        batch = self._batch(instructions, 0, 0)

        def loss(_: int) -> Tensor:
            with self._as_trained():
                return policy.forward(batch)[0]

        return torch_subject.optimise(policy, optimizer, loss, steps, policy.update)

    def vlm_digest(self) -> str:
        return groups.vlm_digest(self.policy)

    def host_tree(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
        ours = {n: s for n, s in shapes(self.policy).items() if not freeze.added(n)}
        return ours, stock_tree(self.policy.config)

    def refused_without_plugin(self) -> tuple[bool, str]:
        return refuses_without_plugin(self.folder)


def stock_tree(config: Any) -> dict[str, tuple]:
    """Names and shapes of the host's own policy of this size, built on the meta device: no memory, full size too."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    policy_class: Any = get_policy_class(config.type)
    cls: Any = PreTrainedConfig.get_choice_class(host_type(config.type))
    stock = cls(**{k: getattr(config, k) for k in cls.__dataclass_fields__})
    with torch.device("meta"):
        model = policy_class.stock_flow(config, stock)
    return {f"model.{n}": s for n, s in shapes(model).items()}


def open_subject(checkpoint: str | Path, device: str | None = None) -> Any:
    """Open an APT checkpoint folder of lerobot.

    Raises:
        AptError: no such folder, or not an APT checkpoint.
    """
    register()
    from lerobot.policies.factory import get_policy_class
    from lerobot.processor import PolicyProcessorPipeline

    changed = watch({module: names for family in FAMILIES for module, names in family.watched().items()})
    folder = local_folder(checkpoint)
    config = config_of(folder)
    if config.type not in POLICIES.values():
        raise AptError(f"{folder} holds a {config.type!r} policy; prove takes {', '.join(POLICIES.values())}.")
    if device:
        config.device = device
    if not (folder / WEIGHTS).is_file():
        raise AptError(f"{folder} holds adapters only; prove the Stage-1 checkpoint that they were trained on.")
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    if (folder / PREPROCESSOR).is_file():
        overrides = {"device_processor": {"device": config.device}}
        steps = PolicyProcessorPipeline.from_pretrained(folder, config_filename=PREPROCESSOR, overrides=overrides)
    else:
        raise AptError(f"{folder} holds no {PREPROCESSOR}: it was not written by lerobot-train.")
    prompts: list[Any] = [step for step in steps.steps if isinstance(step, AptPromptStep)]
    for prompt in prompts:  # the limit bounds memory, not the model; our instructions must fit
        prompt.max_length = max(prompt.max_length, 64)
    return of(config.type).subject(policy, steps, folder, changed)
