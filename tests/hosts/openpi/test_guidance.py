"""Guidance for openpi's own policies: what it does to the actions of the host's Policy, and how it is undone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi.models.pi0_fast import Pi0FAST
from openpi.policies.policy import Policy

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import guidance
from apt_plugin.listen.subject import Beside, sample
from apt_plugin.run import replace
from tests.hosts.openpi.test_listen import TEXTS, data, folders, host_policy, opens  # noqa: F401

KINDS = ("pi05", "torch_pi05", "torch_pi0")


@pytest.fixture(autouse=True)
def undone():
    yield
    guidance.uninstall()


def acted(kind: str, folder: Path, listener: Any, noise: np.ndarray, text: str) -> np.ndarray:
    item = listener.items[3]
    request = {
        "observation/image": item["image"], "observation/wrist_image": item["wrist_image"],
        "observation/state": item["state"], "prompt": text,
    }  # fmt: skip
    return host_policy(kind, folder, listener).infer(request, noise=noise[0, 0])["actions"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_policy_goes_from_its_actions_without_words_toward_those_with_them(
    opens: Any,  # noqa: F811
    folders: dict[str, Path],  # noqa: F811
    kind: str,
    caplog: Any,
) -> None:
    """Against the velocities that `listen` asks for, integrated: v_blank + s (v_words - v_blank) at every step."""
    listener, claimed = opens(kind), replace.claimed()
    noise = np.random.default_rng(1).standard_normal((1, 1, *listener.frames.actions.shape[1:])).astype(np.float32)
    stock = acted(kind, folders[kind], listener, noise, TEXTS[0])
    guidance.install(1.0)
    np.testing.assert_array_equal(acted(kind, folders[kind], listener, noise, TEXTS[0]), stock)
    assert replace.claimed() == claimed  # 1 is the policy itself: nothing was replaced
    with caplog.at_level(logging.INFO):
        guidance.install(2.0)
        guided = acted(kind, folders[kind], listener, noise, TEXTS[0])
        silent = acted(kind, folders[kind], listener, noise, "")
    assert all(words in caplog.text for words in ("acts with guidance 2", "may get worse"))
    guidance.uninstall()
    both = Beside(listener.context([3], TEXTS[:1]), listener.context([3], [""]))
    np.testing.assert_allclose(guided, sample(both, noise, listener.steps, scale=2.0)[0, 0], atol=1e-4)
    assert np.abs(guided - stock).max() > 1e-3  # words matter here
    np.testing.assert_array_equal(acted(kind, folders[kind], listener, noise, TEXTS[0]), stock)  # as it was
    np.testing.assert_allclose(silent, acted(kind, folders[kind], listener, noise, ""), atol=1e-5)


def test_a_model_that_writes_tokens_is_refused() -> None:
    guidance.install(1.5)
    with pytest.raises(AptError, match=r"Pi0FAST has none: it writes actions token by token"):
        Policy(object.__new__(Pi0FAST))
