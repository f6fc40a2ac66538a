"""Guidance for lerobot's own policies, in any program of the host that acts.

A policy reads tokens, so the words are taken out where they still are words: the preprocessor's own steps run a second
time on the same observation under an empty instruction, when an action chunk is due.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor.pipeline import DataProcessorPipeline
from lerobot.utils.constants import POLICY_PREPROCESSOR_DEFAULT_NAME

from apt_plugin.backends.torch_guidance import Guidance
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.acting import check_guided
from apt_plugin.hosts.lerobot.families import of
from apt_plugin.launch import acting_as
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)
_INSTALLED = Replacements()
BLANK, TASK = "apt_blank", "task"


def install(scale: float) -> None:
    """For the life of this process: policies that it builds act with this guidance. 1 is the policy itself, and
    replaces nothing.

    Raises (when a policy is built or acts):
        AptError: a policy of which nobody knows how it denoises; a batch without an instruction, or one that another
            preprocessor made.
    """
    if scale == 1:
        logger.info("APT: guidance 1 is the policy itself: nothing is replaced.")
        return
    _INSTALLED.wrap(PreTrainedPolicy, "__init__", lambda host: _built(host, Guidance(scale)))
    _INSTALLED.wrap(DataProcessorPipeline, "_forward", _with_blank)


def uninstall() -> None:
    """Put the host's functions back."""
    _INSTALLED.restore()


def _built(host: Any, guidance: Guidance) -> Any:
    guided: set[type] = set()

    @functools.wraps(host)
    def __init__(policy: Any, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if hasattr(config, "recipe"):  # ours: its gates give both velocities
            config.recipe = acting_as(config.recipe, config.stage, {"guidance_scale": guidance.scale})
        elif type(policy) not in guided:
            check_guided(config.type)
            guided.add(type(policy))
            _guide(type(policy), config.type, guidance)
        host(policy, config, *args, **kwargs)

    return __init__


def _guide(policy: type, kind: str, guidance: Guidance) -> None:
    logger.info(
        "APT: %s acts with guidance %g. A policy that was never trained under an empty instruction may get worse: "
        "apt-plugin listen ... --guidance 0 1 1.5 2 says what it does on your data.", kind, guidance.scale,
    )  # fmt: skip
    listening, stepped = of(kind).listening(), []

    def begin(policy: Any) -> None:
        if not stepped:
            owner, name, wrap = listening.guide(policy, guidance)
            _INSTALLED.wrap(_owner(owner, name), name, wrap)
            stepped.append(name)
        if vars(listening.flow(policy)).pop("sample_actions", None) is not None:
            logger.info("APT: compile_model is off under guidance: each step is asked twice.")

    for name in ("select_action", "predict_action_chunk"):
        _INSTALLED.wrap(_owner(policy, name), name, lambda host: _acts(host, guidance, begin))


def _owner(kind: type, name: str) -> type:
    return next(base for base in kind.__mro__ if name in vars(base))


def _acts(host: Any, guidance: Guidance, begin: Callable[[Any], None]) -> Any:
    @functools.wraps(host)
    def act(policy: Any, batch: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        blank = batch.pop(BLANK, None)
        if blank is None and guidance.active:  # a chunk for select_action, or the one without words
            return host(policy, batch, *args, **kwargs)
        if blank is None:
            raise AptError(
                "Guidance needs an instruction, by the policy's own preprocessor: this batch holds none. Pass the "
                f"instruction as {TASK!r}, or drop --apt.guidance_scale."
            )
        begin(policy)
        with guidance.acting(lambda: policy.predict_action_chunk(blank())):
            return host(policy, batch, *args, **kwargs)

    return torch.compiler.disable(act)


def _with_blank(host: Any) -> Any:
    data = TransitionKey.COMPLEMENTARY_DATA

    @functools.wraps(host)
    def _forward(pipeline: Any, transition: Any) -> Any:
        given = transition.get(data) or {}
        task = given.get(TASK)
        if pipeline.name != POLICY_PREPROCESSOR_DEFAULT_NAME or task is None:
            return host(pipeline, transition)
        empty = "" if isinstance(task, str) else [""] * len(task)
        silent = {**transition, data: {**given, TASK: empty}}  # before the steps, which may write into what they get
        output = host(pipeline, transition)
        return {**output, data: {**(output.get(data) or {}), BLANK: lambda: pipeline.to_output(host(pipeline, silent))}}

    return _forward
