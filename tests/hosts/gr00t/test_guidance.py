"""Guidance for a stock GR00T: what it does to the actions of the host's policy, through the server's own process."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import logging
import sys

import numpy as np
import pytest
import torch

from apt_plugin.hosts.gr00t import __main__ as child
from apt_plugin.hosts.gr00t import guidance, names, register
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.hosts.gr00t.listen import open_listener
from apt_plugin.launch import split
from apt_plugin.listen.subject import Beside, sample
from apt_plugin.run import replace, staged
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_listen import stock  # noqa: F401

WORDS = "move the block to the left"


@pytest.fixture(autouse=True)
def undone():
    yield
    guidance.uninstall()


def acted(folder, where, words=WORDS):
    from gr00t.policy.gr00t_policy import Gr00tPolicy

    register()
    policy = Gr00tPolicy(tiny.TAG, str(folder), device="cpu")
    torch.manual_seed(3)
    actions, _ = policy.get_action(tiny.observation(where, words))
    return np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in actions.values()])


def serve(folder, scale, monkeypatch):
    """The server's process up to the point where it would listen, by our command."""
    calls = []
    monkeypatch.setattr(staged, "call", lambda command: calls.append(list(command.argv)) or 0)
    monkeypatch.setattr(child.runpy, "run_module", lambda *_, **__: None)
    line = ["-m", names.SERVE, "--model-path", str(folder), "--embodiment-tag", tiny.TAG]
    staged.carry_out(GrootAdapter(), split([*line, f"--apt.guidance_scale={scale}"]))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [])
        child.main(calls[0][calls[0].index(names.CHILD) + 1 :])


def test_guidance_acts_behind_the_server_and_is_undone(where, stock, monkeypatch, caplog):  # noqa: F811
    plain, silent, claimed = acted(stock, where), acted(stock, where, ""), replace.claimed()
    serve(stock, 1, monkeypatch)
    np.testing.assert_array_equal(acted(stock, where), plain)
    assert replace.claimed() == claimed  # 1 is the policy itself: nothing was replaced
    with caplog.at_level(logging.INFO):
        serve(stock, 2.5, monkeypatch)
    assert all(words in caplog.text for words in ("acts with guidance 2.5", "may get worse", "replaced gr00t.policy"))
    assert np.abs(acted(stock, where) - plain).max() > 1e-4
    np.testing.assert_allclose(acted(stock, where, ""), silent, atol=1e-5)  # no words, nothing to go toward
    guidance.uninstall()
    np.testing.assert_array_equal(acted(stock, where), plain)


def test_the_model_goes_from_its_velocity_without_words_toward_the_one_with_them(where, stock):  # noqa: F811
    """Against the velocities that `listen` asks for, integrated: v_blank + s (v_words - v_blank) at every step."""
    from apt_plugin.backends.torch_guidance import Guidance

    listener = open_listener(str(stock), str(where / "data"), frames=4, config=tiny.TAG)
    noise = np.random.default_rng(0).standard_normal((1, 1, *listener.frames.actions.shape[1:])).astype(np.float32)
    asked = [listener._observed([listener._steps[1]], [text]) for text in (WORDS, "")]
    guided, model = Guidance(2.5), listener.model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *a, **k: torch.from_numpy(noise[:, 0]))
        patch.setattr(type(model), "get_action", guided.chunk(type(model).get_action))
        with guided.acting(lambda: model.get_action(asked[1])):
            theirs = model.get_action(asked[0])["action_pred"]
    both = Beside(listener.context([1], [WORDS]), listener.context([1], [""]))
    ours = sample(both, noise, listener.steps, scale=2.5)[:, 0]
    np.testing.assert_allclose(ours, theirs.float().numpy(), atol=2e-5)
