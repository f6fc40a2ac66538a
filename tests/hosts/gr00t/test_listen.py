"""`listen` on real Isaac GR00T checkpoints: a stock one and what the recipe made of it."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.listen import open_base, open_listener
from apt_plugin.listen import Settings
from apt_plugin.listen.causes import FOUND, NOT_KNOWN
from apt_plugin.listen.run import quick
from apt_plugin.listen.subject import sample
from apt_plugin.listen_command import run
from tests.hosts.gr00t import tiny

QUIET = Settings(instructions=4, draws=2, progress=False)


@pytest.fixture(scope="module")
def stock(where, run_of):
    """The base weights with the processor of a fine-tune on this data, as a stock fine-tune would leave them."""
    folder = where / "stock"
    shutil.copytree(where / "base2", folder)
    first = run_of / "stage1" / "checkpoint-4"
    source = first if (first / "processor_config.json").is_file() else first / "processor"
    for file in source.iterdir():
        if file.name not in ("config.json", "apt.json") and file.suffix == ".json" and "index" not in file.name:
            shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def checkpoints(stock, run_of):
    return {"stock": stock, "ours": run_of / "stage2" / "checkpoint-4"}


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_the_shared_prefix_gives_the_hosts_own_actions(where, checkpoints, kind):
    listener = open_listener(str(checkpoints[kind]), str(where / "data"), frames=4, config=tiny.TAG)
    noise = np.random.default_rng(0).standard_normal((1, 1, *listener.frames.actions.shape[1:])).astype(np.float32)
    text = "move the block to the left"
    ours = sample(listener.context([1], [text]), noise, listener.steps)[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *a, **k: torch.from_numpy(noise[:, 0]))
        theirs = listener.model.get_action(listener._observed([listener.items[1]], [text]))["action_pred"]
    np.testing.assert_allclose(ours, theirs.float().numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_words_reach_their_own_frame(where, checkpoints, kind):
    """A stock GR00T's adapter attends to padding: beside a longer prompt a frame's velocity would change."""
    listener = open_listener(str(checkpoints[kind]), str(where / "data"), frames=4, config=tiny.TAG)
    x = np.random.default_rng(0).standard_normal((2, 2, *listener.frames.actions.shape[1:])).astype(np.float32)
    time = np.full((2, 2), 0.5, np.float32)
    short, long = "move the block to the left", "move the block to the right and then once more to the left"
    together = listener.context([0, 1], [short, long]).velocity(x, time)
    alone = listener.context([0], [short]).velocity(x[:1], time[:1])
    np.testing.assert_allclose(together[0], alone[0], atol=2e-5)
    other = listener.context([0], [long]).velocity(x[:1], time[:1])
    assert np.abs(other - alone).max() > 1e-6


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_the_command_measures_and_writes(where, checkpoints, kind, tmp_path):
    result = run(
        str(checkpoints[kind]), str(where / "data"), "gr00t", QUIET, (), None, str(where / "base2"), tmp_path,
        frames=6, device="", config=tiny.TAG,
    )  # fmt: skip
    assert {"retrieval", "margin", "sensitivity", "blank gap"} <= result.scores.keys()
    assert ("prior gap" in result.scores) == (kind == "ours")
    assert bool(result.gates) == (kind == "ours")
    assert "unchanged from the base" in result.vlm
    assert result.heard.frames.width == 7  # the robot's dimensions, not the model's padding
    assert (tmp_path / "listen.html").is_file()


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_cheap_causes_are_answered_from_facts(where, checkpoints, kind):
    """Every fact is there; a policy beside itself has kept all its language."""
    listener = open_listener(str(checkpoints[kind]), str(where / "data"), frames=4, config=tiny.TAG)
    causes = {cause.name: cause for cause in quick(listener, open_base(str(checkpoints[kind]), listener))}
    assert [name for name, cause in causes.items() if cause.state == NOT_KNOWN] == []
    assert {name for name, cause in causes.items() if cause.state == FOUND} <= {"weights"}, causes  # never trained
    assert "Retention is 1.00" in causes["retention"].evidence[0]


def test_weights_that_the_host_did_not_load_are_not_judged(where, checkpoints, tmp_path):
    """transformers starts what a file lacks at random and warns; listen called the result deaf."""
    folder = shutil.copytree(checkpoints["stock"], tmp_path / "stock")
    index = folder / "model.safetensors.index.json"
    weights = folder / "model.safetensors"
    if index.is_file():
        weights = folder / json.loads(index.read_text())["weight_map"]["action_head.action_decoder.layer1.W"]
    state = load_file(weights)
    state.pop("action_head.action_decoder.layer1.W")
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(AptError, match=r"^1 of \d+ tensors of this checkpoint were not loaded: .*random"):
        open_listener(str(folder), str(where / "data"), frames=6, config=tiny.TAG)


def test_what_it_refuses(where, checkpoints):
    with pytest.raises(AptError, match="no LeRobot data set"):
        open_listener(str(checkpoints["stock"]), str(where / "nothing"))
    with pytest.raises(AptError, match="--frames is 0"):
        open_listener(str(checkpoints["stock"]), str(where / "data"), frames=0)
    for tag in ("GR1", "XDOF"):  # no such robot; a robot that this checkpoint does not know
        with pytest.raises(AptError, match=rf"Which embodiment\?.*not '{tag}'.*--config"):
            open_listener(str(checkpoints["stock"]), str(where / "data"), config=tag)
    one = tiny.dataset(where / "one", episodes=1)
    for stats in (where / "data" / "meta").glob("*stats*.json"):  # the fine-tune made them for its own data
        shutil.copy(stats, one / "meta")
    with pytest.raises(AptError, match="one instruction only"):
        run(
            str(checkpoints["stock"]), str(one), "gr00t", QUIET, (), None, "", where / "out", frames=4, device="",
            config=tiny.TAG,
        )  # fmt: skip
