"""Guidance for a stock GR00T behind the host's server and evaluations.

The host's processor runs a second time on the same observation under an empty instruction: the words are taken out
where they still are words.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from gr00t.model.gr00t_n1d7.gr00t_n1d7 import Gr00tN1d7
from gr00t.policy.gr00t_policy import Gr00tPolicy

from apt_plugin.backends.torch_guidance import Guidance
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)
_INSTALLED = Replacements()


def install(scale: float) -> None:
    """For the life of this process: a stock policy that it acts with has this guidance. 1 is the policy itself, and
    replaces nothing."""
    if scale == 1:
        logger.info("APT: guidance 1 is the policy itself: nothing is replaced.")
        return
    guidance = Guidance(scale)
    _INSTALLED.wrap(Gr00tPolicy, "_get_action", lambda host: _acts(host, guidance))
    _INSTALLED.wrap(Gr00tN1d7, "get_action", guidance.chunk)
    logger.info(
        "APT: a stock GR00T acts with guidance %g here. A policy that was never trained under an empty instruction may "
        "get worse: apt-plugin listen ... --guidance 0 1 1.5 2 says what it does on your data.", scale,
    )  # fmt: skip


def uninstall() -> None:
    """Put the host's functions back."""
    _INSTALLED.restore()


def _acts(host: Any, guidance: Guidance) -> Any:
    @functools.wraps(host)
    def _get_action(policy: Any, observation: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        empty = {key: [[""] * len(texts) for texts in batch] for key, batch in observation["language"].items()}
        with guidance.acting(lambda: host(policy, {**observation, "language": empty}, *args, **kwargs)):
            return host(policy, observation, *args, **kwargs)

    return _get_action
