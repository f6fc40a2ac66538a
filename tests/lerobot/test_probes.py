"""Each probe of lerobot fails when its host changes what it looks at, and no other does; and drift is not followed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from apt_plugin import hosts
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS, Host, Level
from apt_plugin.hosts.lerobot import probes
from apt_plugin.probes import Package, failed
from tests import doctored
from tests.lerobot import tiny

PI05, PI0 = "policies/pi05/modeling_pi05.py", "policies/pi0/modeling_pi0.py"
# Probe -> (file of the host, a pattern in it, what another release might have there).
CHANGES = {
    "imports": ("policies/utils.py", r"def get_device_from_parameters", "def device_of"),
    "training script": ("scripts/lerobot_train.py", r"\bEpisodeAwareSampler\b", "EpisodeSampler"),
    "checkpoint saving": ("common/train_utils.py", r"(def save_checkpoint\(\s*)checkpoint_dir", r"\1folder"),
    "checkpoint files": ("utils/constants.py", r"optimizer_state\.safetensors", "optimizer.safetensors"),
    "bfloat16 autocast": ("scripts/lerobot_train.py", r"bf16", "half"),
    "policy fields": ("policies/pi05/configuration_pi05.py", r"train_expert_only", "expert_only"),
    "π0.5 model": (PI05, r"def embed_prefix\(\s*self, images", "def embed_prefix(self, states, images"),
    "π0 model": (PI0, r"def embed_suffix\(self, state, noisy", "def embed_suffix(self, noisy"),
    "Euler loop": ("policies/common/flow_matching.py", r"inference_delay: ", "delay: "),
    "π0.5 prompt": ("policies/pi05/processor_pi05.py", r'f"Task: ', 'f"Instruction: '),
    "prompt steps": ("policies/pi0/processor_pi0.py", r"Pi0NewLineProcessor", "Pi0NewLine"),
    "GR00T model": ("policies/groot/modeling_groot.py", r"_filter_groot_inputs", "_filter_inputs"),
    "image reader": ("datasets/dataset_reader.py", r"_query_videos", "_read_videos"),
    "policy server": ("async_inference/constants.py", r"SUPPORTED_POLICIES", "POLICIES"),
    "LoRA hooks": ("policies/pretrained.py", r"_validate_peft_config", "_check_peft_config"),
}  # fmt: skip


@pytest.fixture(scope="module")
def lerobot() -> Package:
    package = Package.find("lerobot")
    assert package is not None
    return package


def test_each_probe_has_its_change_and_all_hold_here(lerobot: Package) -> None:
    assert list(CHANGES) == [probe.name for probe in probes.PROBES]
    assert failed(lerobot, probes.PROBES) == []


@pytest.mark.parametrize("name", CHANGES)
def test_another_release_fails_the_probe_of_what_it_changed(lerobot: Package, tmp_path: Path, name: str) -> None:
    file, old, new = CHANGES[name]
    if name == "bfloat16 autocast" and probes.takes_autocast(lerobot):
        file, old, new = "configs/accelerator.py", r"mixed_precision: str", "precision: str"
    told = failed(doctored.copy(lerobot, tmp_path, file, old, new), probes.PROBES)
    assert [line.partition(":")[0] for line in told] == [name], told


def test_the_rebound_names_are_those_that_are_probed() -> None:
    """A wrap without a probe would be found missing by a training process only."""
    from apt_plugin.hosts.lerobot import training
    from apt_plugin.run.replace import claimed

    training.install()
    try:
        found = {name.removeprefix("lerobot.scripts.lerobot_train.") for name in claimed()}
    finally:
        training.uninstall()
    assert found == set(probes.REBOUND) - {"make_optimizer_and_scheduler"}  # bound by a cache's builder


def test_a_version_number_alone_refuses_nothing(monkeypatch: pytest.MonkeyPatch, tok: str) -> None:
    monkeypatch.setattr(Host, "version", lambda self: "0.9.0")
    monkeypatch.delenv(hosts.UNTESTED, raising=False)
    assert HOSTS["lerobot"].standing().level is Level.UNTESTED
    tiny.config("pi05", tok)  # opened, proven, listened to
    with pytest.raises(AptError, match=r"0.9.0 is untested \(tested: >=0.6.1,<0.6.2\).*--apt.untested"):
        HOSTS["lerobot"].require_training()


def test_training_without_the_launcher_is_refused_on_an_untested_version(monkeypatch, data, tok: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies import make_policy

    monkeypatch.setattr(Host, "version", lambda self: "0.9.0")
    monkeypatch.delenv(hosts.UNTESTED, raising=False)
    meta = LeRobotDatasetMetadata("test/labelled", root=data["labelled"])
    with pytest.raises(AptError, match=r"0.9.0 is untested.*APT_UNTESTED=1"):
        make_policy(tiny.config("pi05", tok), ds_meta=meta)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rtc_training_max_delay", 2, "knows no given prefix"),
        ("use_visual_memory", True, "one moment per camera"),
        ("use_proprioceptive_memory", True, "one state per sample"),
    ],
)
def test_fields_that_the_recipe_does_not_follow_are_refused(tok: str, field: str, value, words: str) -> None:
    """Accepted and ignored on lerobot main: the checkpoint claimed a training that was not done."""
    config = tiny.config("pi05", tok)
    if field not in {f.name for f in dataclasses.fields(config)}:
        pytest.skip(f"this lerobot's PI05Config has no {field}")
    with pytest.raises(AptError, match=rf"--policy.{field}={value}: .*{words}.*Leave the flag out"):
        dataclasses.replace(config, **{field: value})
