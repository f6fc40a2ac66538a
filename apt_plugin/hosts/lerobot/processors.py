"""Where language enters: one registered processor step in place of the host's prompt steps.

    B batch   L text tokens (the host's tokenizer_max_length)

The step is the same in both stages: it says which tokens are the instruction, and the model leaves them out or
gates them. So it survives saving, loading and the switch; nothing in a saved processor is blind.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.processor import (
    NormalizerProcessorStep,
    ObservationProcessorStep,
    PolicyProcessorPipeline,
    ProcessorStepRegistry,
)
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import families, goals
from apt_plugin.hosts.lerobot.names import GOAL_MASK, INSTRUCTION_MASK, NATIVE_POSITION, PALIGEMMA, PREPROCESSOR
from apt_plugin.language import arrange, as_words, goal_segment
from apt_plugin.run.replace import replaced
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)


@ProcessorStepRegistry.register(name="apt_prompt_processor")
@dataclass
class AptPromptStep(ObservationProcessorStep):
    """Tokenise the host's prompt, kept tokens first, and mark the instruction.

    Writes into the observation: tokens [B, L] int64, attention mask [B, L] bool, instruction mask [B, L] bool,
    native position [B, L] int64; with `goal` also which tokens are a goal [B, L] bool, where the state has two rows
    [B, 2, D], the robot's own and the goal; the first is left in the observation.

    Raises (when called):
        AptError: no task where one is required; no state where the prompt holds it; a prompt longer than L.
    """

    family: str = "pi05"  # the host's policy type
    tokenizer_name: str = PALIGEMMA
    max_length: int = 200
    require_task: bool = False  # Stage 2; Stage 1 may read data without any task
    task_key: str = "task"
    goal: bool = False  # Stage 1 is told one; without a second row of the state (serving) none is written
    _tokenizer: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_name)
        self._encode = functools.lru_cache(maxsize=4096)(self._encode_uncached)
        plain, special = self._encode("a"), tuple(self._tokenizer("a")["input_ids"])
        start = next((i for i in range(len(special)) if special[i : i + len(plain)] == plain), 0)
        self._bos = special[:start]

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        observation, ends = self._parted(observation)
        spelled = self._segments(observation)
        if ends is not None:
            spelled = [
                [*segments, goal_segment(digits)] for segments, digits in zip(spelled, _digits(ends), strict=True)
            ]
        prompts = [arrange(segments, self._encode, self.max_length, self._bos) for segments in spelled]
        device = next((v.device for v in observation.values() if isinstance(v, torch.Tensor)), "cpu")

        def stack(name: str) -> torch.Tensor:
            return torch.from_numpy(np.stack([getattr(p, name) for p in prompts])).to(device)

        return {
            **observation,
            OBS_LANGUAGE_TOKENS: stack("tokens"),
            OBS_LANGUAGE_ATTENTION_MASK: stack("valid"),
            INSTRUCTION_MASK: stack("instruction"),
            NATIVE_POSITION: stack("native_position"),
            **({GOAL_MASK: stack("goal")} if self.goal else {}),
        }

    def _parted(self, observation: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor | None]:
        """(observation with the robot's own state, the goal [B, D] or None)."""
        state = observation.get(OBS_STATE)
        if not self.goal or state is None or state.dim() < 3:
            return observation, None
        rest = {name: value for name, value in observation.items() if name != f"{OBS_STATE}_is_pad"}
        return {**rest, OBS_STATE: state[:, 0]}, state[:, 1]

    def _segments(self, observation: dict[str, Any]) -> list[list]:
        state = observation.get(OBS_STATE)
        tasks = self._tasks(observation)
        family = families.of(self.family)
        if not family.writes_state(self.family):
            return [family.segments(self.family, task, "") for task in tasks]
        if state is None:
            raise AptError(f"{self.family} writes observation.state into its prompt, and the batch has none.")
        spelled = zip(tasks, _digits(state), strict=True)
        return [family.segments(self.family, task, digits) for task, digits in spelled]

    def longest(self, task: str, state_width: int) -> int:
        """How many tokens a prompt can have, whatever the state's digits are."""
        digits, family = "", families.of(self.family)
        if family.writes_state(self.family):
            widest = max(range(-1, 256), key=lambda digit: len(self._encode(f" {digit}")))
            digits = " ".join([str(widest)] * state_width)
        segments = family.segments(self.family, task, digits) + ([goal_segment(digits)] if self.goal else [])
        return len(self._bos) + sum(len(self._encode(segment.text)) for segment in segments if segment.text)

    def _tasks(self, observation: dict[str, Any]) -> list[str | None]:
        extra = self.transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}
        tasks = extra.get(self.task_key)
        if tasks is None:
            if self.require_task:
                raise AptError(
                    "Stage 2 learns language, and this batch has no task text. Use a data set with tasks (at "
                    "inference: pass the instruction as 'task'), or train Stage 1, which needs none."
                )
            sizes = [v.shape[0] for v in observation.values() if isinstance(v, torch.Tensor) and v.dim() > 0]
            return [None] * (sizes[0] if sizes else 1)
        return [as_words(task) for task in ([tasks] if isinstance(tasks, str | bytes) else tasks)]

    def get_config(self) -> dict[str, Any]:
        # `goal` where it is set alone: what other recipes save stays what it was, and so do the stamps of their caches
        names = ("family", "tokenizer_name", "max_length", "require_task", "task_key")
        return {name: getattr(self, name) for name in names} | ({"goal": True} if self.goal else {})

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        goal = (GOAL_MASK,) if self.goal else ()
        for key in (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK, INSTRUCTION_MASK, NATIVE_POSITION, *goal):
            feature = PolicyFeature(type=FeatureType.LANGUAGE, shape=(self.max_length,))
            features[PipelineFeatureType.OBSERVATION].setdefault(key, feature)
        return features


def _digits(state: torch.Tensor) -> list[str]:
    """States [B, D] in 256 bins over [-1, 1], as lerobot's processor_pi05.py and openpi's tokenizer write them."""
    bins = np.digitize(state.detach().cpu().float().numpy(), np.linspace(-1, 1, 257)[:-1]) - 1
    return [" ".join(map(str, digits)) for digits in bins]


def apt_processors(config: Any, dataset_stats: dict | None, host: ModuleType, make: Any) -> tuple[Any, Any]:
    """The host's own two pipelines, with `AptPromptStep` where the host tokenises.

    Args:
        config: of a policy of ours, with `tokenizer_name`; host: the host's processor module; make: its factory.
    """

    def prompt_step(**_: Any) -> AptPromptStep:
        return AptPromptStep(
            family=families.host_type(config.type),
            tokenizer_name=config.tokenizer_name,
            max_length=config.tokenizer_max_length,
            require_task=config.stage == LIKELIHOOD,
            goal=goals.wanted(config),
        )

    with replaced(host, "TokenizerProcessorStep", prompt_step):
        before, after = make(config, dataset_stats=_statistics(config, dataset_stats))
    replaces = families.of(config.type).prompt_steps
    before.steps = [step for step in before.steps if type(step).__name__ not in replaces]
    return before, after


def _statistics(config: Any, dataset_stats: dict | None) -> dict | None:
    """Stage 2 keeps the statistics that its prior was trained under, unless the recipe says otherwise."""
    if config.stage != LIKELIHOOD or config.recipe.norm_stats != "stage1" or not config.stage1_path:
        return dataset_stats
    folder = Path(config.stage1_path)
    if not (folder / PREPROCESSOR).is_file():
        raise AptError(
            f"norm_stats=stage1, but {folder} holds no {PREPROCESSOR}. Write --apt.norm_stats data to normalise with "
            "the statistics of Stage 2's own data set."
        )
    pipeline = PolicyProcessorPipeline.from_pretrained(folder, config_filename=PREPROCESSOR)
    step: Any = next(step for step in pipeline.steps if isinstance(step, NormalizerProcessorStep))
    logger.info("APT: Stage 2 normalises with the statistics of its Stage 1 (recipe norm_stats=stage1).")
    return step.stats
