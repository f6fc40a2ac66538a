"""Guidance for openpi's own policies behind its server, JAX and PyTorch.

The host's transforms run a second time on the same observation under an empty prompt: the words are taken out where
they still are words.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from openpi.models.pi0 import Pi0
from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
from openpi.policies.policy import Policy

from apt_plugin.backends.jax_guidance import guided_sampler
from apt_plugin.backends.torch_first_call import first_call
from apt_plugin.backends.torch_guidance import Guidance
from apt_plugin.errors import AptError
from apt_plugin.run.replace import Replacements, replaced

logger = logging.getLogger(__name__)
_INSTALLED = Replacements()


def install(scale: float) -> None:
    """For the life of this process: policies that it builds act with this guidance. 1 is the policy itself, and
    replaces nothing.

    Raises (when a policy is built):
        AptError: a model without flow matching (π0-FAST).
    """
    if scale == 1:
        logger.info("APT: guidance 1 is the policy itself: nothing is replaced.")
        return
    guidance = Guidance(scale)
    _INSTALLED.wrap(Policy, "__init__", lambda host: _built(host, scale))
    _INSTALLED.wrap(Policy, "infer", lambda host: _acts(host, guidance))
    _INSTALLED.wrap(PI0Pytorch, "denoise_step", guidance.step)


def uninstall() -> None:
    """Put the host's functions back."""
    _INSTALLED.restore()


def _built(host: Any, scale: float) -> Any:
    @functools.wraps(host)
    def __init__(policy: Any, model: Any, **given: Any) -> None:  # noqa: N807
        if not isinstance(model, Pi0 | PI0Pytorch):
            raise AptError(
                f"--apt.guidance_scale moves a velocity, and {type(model).__name__} has none: it writes actions token "
                "by token. Drop the flag."
            )
        if isinstance(model, PI0Pytorch) and vars(model).pop("sample_actions", None) is not None:
            logger.info("APT: the sampler is not compiled under guidance: each step is asked twice.")
        host(policy, model, **given)
        if isinstance(model, Pi0):
            policy.apt_sampler = guided_sampler(model, scale)
        logger.info(
            "APT: this policy acts with guidance %g. A policy that was never trained under an empty instruction may "
            "get worse: apt-plugin listen ... --guidance 0 1 1.5 2 says what it does on your data.", scale,
        )  # fmt: skip

    return __init__


def _acts(host: Any, guidance: Guidance) -> Any:
    @functools.wraps(host)
    def infer(policy: Any, obs: dict, **given: Any) -> dict:
        def blank() -> Any:
            return host(policy, {**obs, "prompt": ""}, **given)

        sampler = getattr(policy, "apt_sampler", None)
        if sampler is None:
            with guidance.acting(blank):
                return host(policy, obs, **given)
        key = policy._rng  # the second look draws nothing
        silent = first_call(policy, "_sample_actions", blank)["observation"]
        policy._rng = key
        with replaced(policy, "_sample_actions", lambda rng, seen, **more: sampler(rng, seen, silent, **more)):
            return host(policy, obs, **given)

    return infer
