"""`listen` on real openpi checkpoints, stock and ours, JAX and PyTorch: shared prefixes give the host's own actions,
each sample gets its own words, digests, refusals. The data set is a real LeRobot one, written here."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from openpi import transforms
from openpi.models import tokenizer as _tokenizer
from openpi.training import config as _config

from apt_plugin.errors import AptError
from apt_plugin.hosts import host_of
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.listen import open_base, open_listener
from apt_plugin.listen import Settings, listen
from apt_plugin.listen.causes import FOUND, NOT_KNOWN
from apt_plugin.listen.measure import draw, listen_in, noised
from apt_plugin.listen.run import quick
from apt_plugin.listen.subject import sample
from apt_plugin.listen_command import run
from apt_plugin.recipe import from_flat
from apt_plugin.stages import read_record
from tests.hosts.openpi import tiny
from tests.hosts.openpi.listened import TASKS, TEXTS, host_policy, save_jax, save_torch, train_config, write_data

QUIET = Settings(draws=2, batch=8, progress=False)
KINDS = ("pi05", "pi0_lora", "pi05_apt1", "pi0_apt2", "torch_pi05", "torch_pi0", "torch_apt2")
STOCK = ("pi05", "pi0_lora", "torch_pi05", "torch_pi0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, data: Path):
    """A checkpoint of each kind, and a tokeniser that needs no network."""

    def init(self: Any, max_len: int = 48) -> None:
        self._max_len, self._tokenizer = max_len, tiny.Pieces()

    home, out = tmp_path_factory.mktemp("openpi"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tokenizer.PaligemmaTokenizer, "__init__", init)
        patch.setattr(_config, "_CONFIGS_DICT", dict(_config._CONFIGS_DICT))
        stock = {family: train_config(family, home, data) for family in ("pi05", "pi0")}
        stock["pi0_lora"] = train_config("pi0", home, data, paligemma_variant="dummy_lora")
        for kind in KINDS:
            out[kind] = home / kind
            family = "pi05" if "pi05" in kind else "pi0"
            made = stock.get(kind, stock[family])
            ours = "apt" in kind
            recipe = from_flat({"fusion.kind": "host"} if kind == "pi0_apt2" else {})
            config = apt_config(made.model, int(kind[-1]), recipe) if ours else made.model
            (save_torch if "torch" in kind else save_jax)(out[kind], config, made, ours)
        yield out


@pytest.fixture(scope="module")
def opens(folders: dict[str, Path]):
    """A listener per kind, opened once."""
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            family = "pi05" if "pi05" in kind else "pi0"
            config = "listen_pi0dummy_lora" if "lora" in kind else f"listen_{family}"
            # A checkpoint of ours knows its own config
            made[kind] = open_listener(str(folders[kind]), config="" if "apt" in kind else config, frames=6)
            if made[kind].policy.framework == "JAX":
                made[kind].policy._largest = QUIET.batch  # one shape, compiled once
        return made[kind]

    return get


@pytest.mark.parametrize("kind", STOCK)
def test_the_shared_prefix_gives_the_hosts_own_actions(opens: Any, folders: dict[str, Path], kind: str) -> None:
    """Velocities on a shared prefix, integrated, are what the host's own Policy answers a client, request by request,
    through its own transforms, tokeniser and sampler."""
    listener = opens(kind)
    noise = np.random.default_rng(1).standard_normal((2, 2, *listener.frames.actions.shape[1:])).astype(np.float32)
    ours = sample(listener.context([0, 3], TEXTS), noise, listener.steps)
    host = host_policy(kind, folders[kind], listener)
    for k, (row, text) in enumerate(zip([0, 3], TEXTS, strict=True)):
        item = listener.items[row]
        request = {
            "observation/image": item["image"], "observation/wrist_image": item["wrist_image"],
            "observation/state": item["state"], "prompt": text,
        }  # fmt: skip
        theirs = host.infer(request, noise=noise[k, k])["actions"]
        np.testing.assert_allclose(ours[k, k], theirs, atol=1e-4)
        assert np.abs(theirs - noise[k, k]).max() > 0.1  # there is something to agree on


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "apt" in kind])
def test_our_own_sampler_agrees(opens: Any, kind: str) -> None:
    listener = opens(kind)
    noise = np.random.default_rng(1).standard_normal((2, 2, *listener.frames.actions.shape[1:])).astype(np.float32)
    ours = sample(listener.context([0, 3], TEXTS), noise, listener.steps)[:, 0]
    policy, rows = listener.policy, listener._rows([0, 3], TEXTS)
    if policy.framework == "JAX":
        act = jax.jit(lambda obs, start: policy.model.sample_actions(jax.random.key(0), obs, noise=start))
        theirs = act(policy._observation(rows, 2), noise[:, 0])
    else:
        theirs = policy.model.sample_actions("cpu", policy._observation(rows), noise=torch.from_numpy(noise[:, 0]))
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_which_instruction_reached_which_sample(opens: Any, kind: str) -> None:
    """A batch of pairs gives each frame its own words: alone or among others, the velocity is the same. On Stage 1
    no word reaches anything."""
    listener = opens(kind)
    rows, texts = [0, 0, 4], [*TEXTS, "lift green"]
    noise, times = draw(listener.frames, 2, 0)
    x, now, _ = noised(listener.frames.actions[rows], noise[rows], times[rows])
    together = listener.context(rows, texts).velocity(x, now)
    for k, (row, text) in enumerate(zip(rows, texts, strict=True)):
        alone = listener.context([row], [text]).velocity(x[k : k + 1], now[k : k + 1])
        np.testing.assert_allclose(together[k], alone[0], atol=3e-5)
    swapped = listener.context(rows, [texts[1], texts[0], texts[2]]).velocity(x, now)
    np.testing.assert_allclose(swapped[2], together[2], atol=3e-5)
    moved = np.abs(swapped[0] - together[0]).max()
    assert moved == 0 if kind.endswith("apt1") else moved > 1e-5
    if listener.gated:
        closed = [
            listener.context(rows, words).velocity(x, now, language=False) for words in (texts, ["a", "b", "c d e"])
        ]
        assert np.array_equal(*closed)
        assert np.abs(closed[0] - together).max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_measured_on_every_policy(opens: Any, kind: str) -> None:
    listener = opens(kind)
    result = listen(listener, QUIET)
    assert {"retrieval", "margin", "sensitivity", "blank gap"} <= result.scores.keys()
    deaf = kind.endswith("apt1")
    assert (result.scores["sensitivity"].value == 0) == deaf
    if deaf:
        assert result.verdict.word in ("deaf", "data cannot teach it")
    assert bool(result.gates) == ("prior gap" in result.scores) == kind.endswith("apt2")
    if kind in ("torch_pi05", "torch_pi0", "torch_apt2"):
        assert isinstance(result.attention, dict)
        assert result.attention
        assert all(0 < share.value < 1 for share in result.attention.values())
    else:
        assert result.attention


def test_frames_are_normalised_as_in_training(opens: Any, data: Path) -> None:
    """The host's own training loader, with the checkpoint's statistics, hands out the same actions and states."""
    from openpi.training import data_loader

    listener = opens("pi05")
    config = _config._CONFIGS_DICT["listen_pi05"]
    made = dataclasses.replace(listener.questions.data, repo_id=str(data))
    host = data_loader.transform_dataset(
        data_loader.create_torch_dataset(made, config.model.action_horizon, config.model), made
    )
    assert listener.frames.width == 7
    for f in range(len(listener.frames)):
        episode = listener.frames.episode[f]
        step = round(listener.frames.position[f] * 7)
        theirs = host[int(8 * episode + step)]
        np.testing.assert_allclose(listener.frames.actions[f], theirs["actions"], atol=1e-6)
        ours = listener._rows([f], [listener.frames.task[f]])[0]
        np.testing.assert_array_equal(ours["tokenized_prompt"], theirs["tokenized_prompt"])
        assert listener.frames.valid[f].sum() == min(5, 8 - step)
        assert listener.frames.task[f] == TASKS[episode % 3]


def test_questions_do_not_change_the_data(opens: Any) -> None:
    """DeltaActions writes into its input: asked twice, a frame must give the same actions twice."""
    listener = opens("pi0_lora")
    item = listener.items[0]
    delta = transforms.DeltaActions(transforms.make_bool_mask(7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener.questions, "_robot", [*listener.questions._robot, delta])
        first, second = (listener.questions.row(item, "push")["actions"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - listener.frames.actions[0]).max() > 1e-3


def test_the_last_batch_compiles_nothing(opens: Any) -> None:
    listener = opens("pi0_lora")
    rows = list(range(4))
    noise, times = draw(listener.frames, 2, 0)
    x, now, _ = noised(listener.frames.actions[rows], noise[rows], times[rows])
    texts = ["push"] * 4
    listener.context(rows, texts).velocity(x, now)
    programs = [f._cache_size() for f in (listener.policy.prefix, listener.policy.velocity)]
    listener.context(rows[:3], texts[:3]).velocity(x[:3], now[:3])
    assert programs == [f._cache_size() for f in (listener.policy.prefix, listener.policy.velocity)]


def test_digests_tell_a_frozen_vlm(opens: Any, folders: dict[str, Path]) -> None:
    """A base in float32 and a Stage 1 whose frozen VLM the host keeps in bfloat16 have one digest, the record's."""
    for kind in ("pi05_apt1", "pi0_apt2", "torch_apt2"):
        assert opens(kind).digest() == read_record(folders[kind] / "assets").vlm
    assert opens("pi05_apt1").digest() == open_base(str(folders["pi05"]), opens("pi05_apt1")).digest()
    state = opens("pi0_lora").policy.state
    img = state["PaliGemma"]["img"]["head"]["kernel"]
    kept, before = img.value, opens("pi0_lora").digest()
    img.value = kept + 0.01
    nnx.update(opens("pi0_lora").policy.model, state)
    changed = opens("pi0_lora").digest()
    img.value = kept
    nnx.update(opens("pi0_lora").policy.model, state)
    assert changed != before == opens("pi0_lora").digest()


@pytest.mark.parametrize("kind", ["pi05", "pi05_apt1", "torch_apt2"])
def test_cheap_causes_are_answered_from_facts(opens: Any, folders: dict[str, Path], kind: str) -> None:
    """Every fact is there; a policy beside itself has kept all its language, and not beside other weights."""
    causes = {cause.name: cause for cause in quick(opens(kind), open_base(str(folders[kind]), opens(kind)))}
    assert [name for name, cause in causes.items() if cause.state == NOT_KNOWN] == []
    assert {name for name, cause in causes.items() if cause.state == FOUND} <= {"weights"}, causes  # never trained
    assert "Retention is 1.00" in causes["retention"].evidence[0]


@pytest.mark.parametrize("kind", ["pi05", "torch_pi0"])
def test_guidance_is_swept_on_a_stock_policy_from_what_it_does_without_words(opens: Any, kind: str) -> None:
    result = listen(opens(kind), dataclasses.replace(QUIET, guidance=(0.0, 1.0)))
    assert result.guidance[0.0]["sensitivity"].value < 1e-5  # every instruction is the empty one
    assert result.guidance[1.0]["retrieval"].value == result.scores["retrieval"].value


def test_guidance_is_swept_on_stage_2_and_refused_on_stage_1(opens: Any) -> None:
    result = listen(opens("pi0_apt2"), dataclasses.replace(QUIET, guidance=(0.0, 1.0)))
    assert result.guidance[0.0]["sensitivity"].value == 0  # the prior hears nothing
    assert result.guidance[1.0]["retrieval"].value == result.scores["retrieval"].value
    with pytest.raises(AptError, match="this is Stage 1, which hears none"):
        listen(opens("pi05_apt1"), dataclasses.replace(QUIET, guidance=(1.0, 2.0)))


def test_the_command_writes_page_and_numbers(folders: dict[str, Path], tmp_path: Path) -> None:
    policy, base = folders["torch_apt2"], folders["torch_pi0"]
    assert host_of(str(policy)) == host_of(str(base)) == "openpi"
    result = run(
        str(policy), "", "", QUIET, (), None, str(base), tmp_path / "out", frames=6, device="", config="listen_pi0"
    )
    assert "unchanged from the base" in result.vlm
    numbers = json.loads((tmp_path / "out" / "listen.json").read_text())
    table = next(s for s in numbers["sections"] if s.get("title") == "The numbers")
    assert next(row for row in table["rows"] if row[0] == "retrieval")[1] == result.scores["retrieval"].value
    drawn = "data:image/png" in (tmp_path / "out" / "listen.html").read_text()
    assert drawn == (importlib.util.find_spec("matplotlib") is not None)  # openpi's environment need not have it


def test_bad_input_is_refused_with_the_reason(folders: dict[str, Path], tmp_path: Path) -> None:
    pi0, ours = str(folders["pi0_lora"]), str(folders["torch_apt2"])
    with pytest.raises(AptError, match="add --config"):
        open_listener(pi0, frames=2)
    with pytest.raises(AptError, match="Did you mean 'listen_pi0'"):
        open_listener(pi0, config="listen_pi", frames=2)
    with pytest.raises(AptError, match="do not fit the config"):
        open_listener(str(folders["pi05"]), config="listen_pi0", frames=2)
    with pytest.raises(AptError, match="holds LoRA factors"):
        open_listener(pi0, config="listen_pi0", frames=2)
    with pytest.raises(AptError, match="FAST"):
        open_listener(pi0, config="pi0_fast_libero", frames=2)
    with pytest.raises(AptError, match="holds no checkpoint"):
        open_listener(str(tmp_path), config="listen_pi0", frames=2)
    with pytest.raises(AptError, match="--frames is 0"):
        open_listener(pi0, config="listen_pi0", frames=0)
    with pytest.raises(AptError, match="could not open the data set"):
        open_listener(ours, dataset=str(tmp_path / "nothing"), frames=2)
    one = write_data(tmp_path / "one", ("push the red cube",), 2)
    with pytest.raises(AptError, match="one instruction only"):
        listen(open_listener(ours, dataset=str(one), frames=2), QUIET)
    renamed = write_data(tmp_path / "renamed", episodes=2, wrist="gripper_image")
    with pytest.raises(AptError, match=r"reads 'wrist_image', which .* lacks; it has .*gripper_image"):
        open_listener(ours, dataset=str(renamed), frames=2)


def test_nan_actions_name_frame_and_instruction(opens: Any) -> None:
    listener = opens("torch_pi0")
    weight = listener.policy.model.action_out_proj.weight
    kept = weight.detach().clone()
    weight.data[0, 0] = float("nan")
    from apt_plugin.listen.instructions import Variant

    try:
        with pytest.raises(AptError, match=r"frame 0 \(episode \d+\) under .* are not finite"):
            listen_in(listener, [[Variant(t, "true"), Variant("", "blank")] for t in listener.frames.task], 2)
    finally:
        weight.data.copy_(kept)
