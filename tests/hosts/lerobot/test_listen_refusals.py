"""What `listen` refuses on lerobot, and that the message says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import save_torch_state_dict
from rich.console import Console
from safetensors.torch import load_file, save_file

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts import host_of
from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.opening import open_policy
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.listen import Settings, listen
from apt_plugin.listen.instructions import Variant
from apt_plugin.listen.measure import listen_in
from apt_plugin.listen.pages import console
from apt_plugin.listen.verdict import TOO_FEW
from apt_plugin.listen_command import run
from tests.hosts.lerobot import datasets, tiny_smolvla
from tests.hosts.lerobot.test_layouts_as_published import LAYOUTS, WEIGHTS, tied
from tests.hosts.lerobot.test_listen import stock_folder

QUIET = Settings(draws=2, progress=False)


def test_bad_input_is_refused_with_the_reason(likelihood: Path, data: dict[str, Path], tmp_path: Path) -> None:
    listener = open_listener(str(likelihood), str(data["labelled"]), frames=4)
    one = datasets.write(tmp_path / "one", ["pick up the red cup"], episodes=2)
    with pytest.raises(AptError, match=r"one instruction only.*pick up the red cup.*--instructions"):
        listen(open_listener(str(likelihood), str(one), frames=4), QUIET)
    with pytest.raises(AptError, match="no instruction in any episode"):
        open_listener(str(likelihood), str(data["unlabelled"]), frames=4)
    with pytest.raises(AptError, match="--frames is 0"):
        open_listener(str(likelihood), str(data["labelled"]), frames=0)
    with pytest.raises(AptError, match="no data set folder"):
        open_listener(str(likelihood), str(tmp_path / "nothing"), frames=4)
    with pytest.raises(AptError, match="no checkpoint of"):
        host_of(str(tmp_path))
    with pytest.raises(AptError, match=r"\./none is no folder here.*--host"):
        host_of("./none")
    assert host_of("lerobot/smolvla_base") == "lerobot"  # of the hub: one host is installed, so it is that one's
    with pytest.raises(AptError, match=r"None of your 1 instructions.*`of` names e.g. 'fly'"):
        listen(listener, QUIET, [Variant("soar", "paraphrase", "fly")])
    with pytest.raises(AptError, match="--draws is 1"):
        listen(listener, Settings(draws=1, progress=False))


def test_other_data_keys_are_named_on_both_sides(likelihood: Path, data: dict[str, Path], tmp_path: Path) -> None:
    """GR00T's issues 64 and 92: a policy that got none of its cameras looks like a deaf one."""
    renamed = datasets.write(tmp_path / "renamed", ["a", "b"], episodes=2)
    info = renamed / "meta" / "info.json"
    info.write_text(info.read_text().replace("observation.images.top", "observation.images.front"))
    with pytest.raises(AptError, match=r"reads observation\.images\.top.*lacks.*observation\.images\.front"):
        open_listener(str(likelihood), str(renamed), frames=4)


def test_nan_actions_name_frame_and_instruction(likelihood: Path, data: dict[str, Path]) -> None:
    class Broken:
        def __init__(self, inner: Any):
            self.inner = inner

        def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
            return self.inner.velocity(x, time, language) * np.nan

    listener = open_listener(str(likelihood), str(data["labelled"]), frames=4)
    real = listener.context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "context", lambda frames, texts: Broken(real(frames, texts)))
        with pytest.raises(AptError, match=r"frame 0 \(episode \d+\) under .* are not finite"):
            listen_in(listener, [[Variant(t, "true"), Variant("", "blank")] for t in listener.frames.task], 2)


@pytest.mark.parametrize("frames", [1, 5])
def test_too_few_frames_are_no_evidence(
    likelihood: Path, data: dict[str, Path], tmp_path: Path, frames: int, capsys: Any
) -> None:
    """Below six frames there is not one number, and a policy without a number was called deaf."""
    result = run(str(likelihood), str(data["labelled"]), "", QUIET, (), None, "", tmp_path, frames=frames)
    assert not result.scores
    assert result.verdict.word == TOO_FEW
    console([result], Console(width=200))
    said = capsys.readouterr().out
    assert f"{frames} frames were asked about; a number takes 6" in said
    assert "--frames 64" in said
    assert "nan" not in said
    json.loads((tmp_path / "listen.json").read_text(), parse_constant=lambda value: pytest.fail(value))
    assert "nan" not in " ".join(result.verdict.sentences())


def lose(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state.pop("model.action_out_proj.bias")
    save_file(state, folder / WEIGHTS)


def reshape(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["model.action_out_proj.bias"] = torch.zeros(3)
    save_file(state, folder / WEIGHTS)


def split(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    save_torch_state_dict(state, str(folder), max_shard_size=200_000)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, tok: str) -> Path:
    with sized(TINY):
        return stock_folder(tmp_path_factory.mktemp("stock") / "pi05", "pi05", tok)


@pytest.mark.parametrize("harm", [lose, reshape, split], ids=lambda harm: harm.__name__)
def test_weights_that_the_host_did_not_load_are_not_judged(
    stock: Path, data: dict[str, Path], tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """lerobot's loader prints the error and returns a random model (its issue 4577), which listen called deaf."""
    folder = Path(shutil.copytree(stock, tmp_path / "pi05"))
    harm(folder)
    with sized(TINY), pytest.raises(AptError, match=r"\d+ of 117 tensors of this checkpoint were not loaded: .*random"):
        open_listener(str(folder), str(data["labelled"]), frames=6)


def test_weights_that_a_lenient_loader_lacks_are_not_judged(data: dict[str, Path], tmp_path: Path) -> None:
    """SmolVLA's loader takes what is there and logs the rest."""
    folder = tiny_smolvla.checkpoint(tmp_path / "smolvla", tiny_smolvla.vlm_folder(tmp_path / "vlm"))
    open_listener(str(folder), str(data["labelled"]), frames=6)
    lose(folder)
    with pytest.raises(AptError, match=r"^1 of \d+ tensors of this checkpoint were not loaded"):
        open_listener(str(folder), str(data["labelled"]), frames=6)


def test_adapters_that_the_host_did_not_load_are_not_judged(
    trained: Path, data: dict[str, Path], tok: str, tmp_path: Path
) -> None:
    """PEFT takes the adapters that it finds and leaves the others at their random start."""
    flags = datasets.stage2(data["labelled"], trained / "last/pretrained_model", tok, tmp_path / "a", steps=1)
    datasets.lerobot_train(*flags, "--policy.recipe.vlm=lora", "--peft.method_type=LORA", "--peft.r=2")
    folder = tmp_path / "a/checkpoints/last/pretrained_model"
    open_policy(folder)
    adapters = folder / "adapter_model.safetensors"
    state = load_file(adapters)
    state.pop(next(name for name in state if name.endswith("lora_B.weight")))
    save_file(state, adapters)
    with pytest.raises(AptError, match=r"adapter_model\.safetensors was changed after it was written"):
        open_policy(folder)
    record = json.loads((folder / "apt.json").read_text())  # as if it had been written so
    (folder / "apt.json").write_text(json.dumps(record | {"weights": files.sha256_of(adapters)}))
    with pytest.raises(AptError, match=r"^1 of \d+ tensors of this checkpoint were not loaded"):
        open_policy(folder)


@pytest.mark.parametrize("write", LAYOUTS[:3], ids=lambda write: write.__name__)
def test_bases_as_published_count_as_loaded(stock: Path, tmp_path: Path, write: Any) -> None:
    """A tied tensor under its twin's name, names without the prefix, and bfloat16 are no loss."""
    folder = Path(shutil.copytree(stock, tmp_path / "pi05"))
    with sized(TINY):
        write(tied("pi05").to(torch.bfloat16), folder)
        assert open_policy(folder).policy.config.type == "pi05"
