"""Each probe of lerobot fails when its host changes what it looks at, and no other does; and drift is not followed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from apt_plugin import files, hosts
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS, Host, Level
from apt_plugin.hosts.lerobot import probes, renaming
from apt_plugin.hosts.lerobot.flags import autocast_flags
from apt_plugin.hosts.lerobot.private import PRIVATE
from apt_plugin.probes import Package, Private, failed
from apt_plugin.run.flags import Flags
from tests import doctored, private
from tests.hosts.lerobot import tiny

PI05, PI0 = "policies/pi05/modeling_pi05.py", "policies/pi0/modeling_pi0.py"
SMOLVLA = "policies/smolvla/modeling_smolvla.py"
# Probe -> (file of the host, a pattern in it, what another release might have there).
CHANGES = {
    "imports": ("policies/utils.py", r"def get_device_from_parameters", "def device_of"),
    "private names": ("policies/groot/modeling_groot.py", r"_filter_groot_inputs", "_filter_inputs"),
    "training script": ("scripts/lerobot_train.py", r"\bEpisodeAwareSampler\b", "EpisodeSampler"),
    "warm-up": ("scripts/lerobot_train.py", r"\bupdate_policy\b", "one_update"),
    "checkpoint saving": ("common/train_utils.py", r"(def save_checkpoint\(\s*)checkpoint_dir", r"\1folder"),
    "checkpoint files": ("utils/constants.py", r"optimizer_state\.safetensors", "optimizer.safetensors"),
    "bfloat16 autocast": ("scripts/lerobot_train.py", r"bf16", "half"),
    "Euler loop": ("policies/common/flow_matching.py", r"inference_delay: ", "delay: "),
    "image reader": ("datasets/dataset_reader.py", r"\bhf_dataset\b", "table"),
    "registered steps": ("policies/smolvla/__init__.py", r"make_smolvla_pre_post_processors", "make_processors"),
    "policy server": ("async_inference/constants.py", r"SUPPORTED_POLICIES", "POLICIES"),
    "model cards": ("policies/pretrained.py", r"def generate_model_card", "def model_card"),
    "LoRA": ("policies/pretrained.py", r"wrap_with_peft", "wrap_peft"),
    "policy fields": ("policies/pi05/configuration_pi05.py", r"train_expert_only", "expert_only"),
    "π0.5 model": (PI05, r"def embed_prefix\(\s*self, images", "def embed_prefix(self, states, images"),
    "π0 model": (PI0, r"def embed_suffix\(self, state, noisy", "def embed_suffix(self, noisy"),
    "π0.5 prompt": ("policies/pi05/processor_pi05.py", r'f"Task: ', 'f"Instruction: '),
    "prompt steps": ("policies/pi0/processor_pi0.py", r"Pi0NewLineProcessor", "Pi0NewLine"),
    "GR00T model": ("policies/groot/modeling_groot.py", r"def predict_action_chunk", "def predict_chunk"),
    "SmolVLA model": (SMOLVLA, r"def embed_suffix\(self, noisy_actions", "def embed_suffix(self, noisy"),
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
    if name == "model cards" and probes.card_by_config(lerobot):
        file, old, new = "common/train_utils.py", r"(def generate_model_card\(\s*)model_cfg", r"\1model"
    told = failed(doctored.copy(lerobot, tmp_path, file, old, new), probes.PROBES)
    assert [line.partition(":")[0] for line in told] == [name], told


def test_the_rebound_names_are_those_that_are_probed() -> None:
    """A wrap without a probe would be found missing by a training process only."""
    from lerobot.scripts import lerobot_train

    from apt_plugin.hosts.lerobot import training
    from apt_plugin.hosts.lerobot.warmup import InStage, steps_of
    from apt_plugin.run.replace import claimed

    training.install()
    try:
        found = {name.removeprefix("lerobot.scripts.lerobot_train.") for name in claimed()}
    finally:
        training.uninstall()
    found.discard("lerobot.common.train_utils.generate_model_card")  # main's; the probe "model cards" has it
    assert found == set(probes.REBOUND) | steps_of(lerobot_train, InStage()).keys()  # the probe "warm-up" has these


def test_a_version_number_alone_refuses_nothing(monkeypatch: pytest.MonkeyPatch, tok: str) -> None:
    monkeypatch.setattr(Host, "version", lambda self: "0.9.0")
    monkeypatch.delenv(hosts.UNTESTED, raising=False)
    monkeypatch.setenv(hosts.TRIED, "lerobot 0.9.0")  # what trying finds: tests/hosts/lerobot/test_canaries.py
    assert HOSTS["lerobot"].standing().level is Level.UNTESTED
    tiny.config("pi05", tok)  # opened, proven, listened to
    with pytest.raises(AptError, match=r"0.9.0 is untested \(tested: >=0.6.1,<0.6.2\).*--apt.untested"):
        HOSTS["lerobot"].require_training()


def test_training_without_the_launcher_is_refused_on_an_untested_version(monkeypatch, data, tok: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies import make_policy

    monkeypatch.setattr(Host, "version", lambda self: "0.9.0")
    monkeypatch.delenv(hosts.UNTESTED, raising=False)
    monkeypatch.setenv(hosts.TRIED, "lerobot 0.9.0")
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
    kind, given = type(config), {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
    if field not in given:  # 0.6.1 has none of them: as a release that has
        more = {"type": property(lambda self: "pi05_apt")}  # the registry knows the name by its class
        kind = dataclasses.make_dataclass("Newer", [(field, type(value), type(value)())], bases=(kind,), namespace=more)
    with pytest.raises(AptError, match=rf"--policy.{field}={value}: .*{words}.*Leave the flag out"):
        kind(**{**given, field: value})
    assert getattr(kind(**{**given, field: type(value)()}), field) == type(value)()


@pytest.mark.parametrize(
    ("sharded", "format_", "words"),
    [
        (True, "dcp", r"--parallelism.dp_shard=2 .*\(FSDP2\)"),
        (False, "dcp", r"--checkpoint_format=dcp leaves no"),
    ],
)
def test_what_leaves_no_whole_checkpoint_is_refused_before_the_first_step(
    sharded: bool, format_: str, words: str
) -> None:
    """Such a run would resume from nothing: no checkpoint of it counts as whole."""
    from apt_plugin.hosts.lerobot.shards import check

    parallelism = SimpleNamespace(is_sharded=sharded, dp_shard=2)
    with pytest.raises(AptError, match=words):
        check(SimpleNamespace(parallelism=parallelism, checkpoint_format=SimpleNamespace(value=format_)))
    check(SimpleNamespace())  # 0.6.1
    whole = SimpleNamespace(value="safetensors")
    check(SimpleNamespace(parallelism=SimpleNamespace(is_sharded=False), checkpoint_format=whole))


def test_a_run_in_shards_without_the_launcher_is_refused_where_the_policy_is_built(tok: str, plain) -> None:
    """The host's own lerobot-train shows us no training config: its accelerator, made before the policy, tells."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    accelerator = Accelerator(cpu=True)
    try:
        tiny.stage1("pi05", plain["pi05"], tok)  # no shards: built
        accelerator.state.fsdp_plugin = object()
        with pytest.raises(AptError, match=r"--parallelism.dp_shard .*\(FSDP2\).*Leave the flag out"):
            tiny.stage1("pi05", plain["pi05"], tok)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def newer(lerobot: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose train config has `accelerator`, as main has; 0.6.1 with the field added where this is one."""
    package = lerobot
    if not probes.takes_autocast(lerobot):
        field = "    accelerator: str = ''\n    rename_map:"
        package = doctored.copy(lerobot, tmp_path, "configs/train.py", r"    rename_map:", field)
    monkeypatch.setattr(Package, "find", lambda name: package)


BF16 = {"accelerator.mixed_precision": "bf16"}


@pytest.mark.parametrize(
    ("flags", "config", "run", "added"),
    [
        (["--policy.dtype=bfloat16"], {}, {}, BF16),
        (["--policy.dtype=float32"], {"dtype": "bfloat16"}, {}, {}),
        ([], {"dtype": "bfloat16"}, {}, BF16),  # Stage 2 from this prior
        ([], {"dtype": "float32"}, {}, {}),
        ([], {}, {}, {}),  # GR00T has no such field, and its own autocast
        (["--policy.dtype=bfloat16", "--accelerator.mixed_precision=no"], {}, {}, {}),
        (["--resume=true"], {}, {"policy": {"dtype": "bfloat16"}}, BF16),  # a run that 0.6.1 began
        (["--resume=true"], {}, {"policy": {"dtype": "bfloat16"}, "accelerator": {"mixed_precision": "no"}}, {}),
    ],
)
def test_bfloat16_keeps_its_autocast_where_that_is_a_flag(newer, tmp_path, flags, config, run, added) -> None:
    """lerobot main no longer reads it off policy.dtype: no test failed, and three steps ended 4e-3 away."""
    checkpoint = tmp_path / "checkpoint"
    files.write_json(checkpoint / "config.json", config)
    files.write_json(checkpoint / "train_config.json", run)
    assert autocast_flags(Flags.read(flags), checkpoint) == added


def test_a_host_that_reads_it_off_the_dtype_gets_no_such_flag(lerobot, tmp_path, monkeypatch) -> None:
    package = lerobot
    if probes.takes_autocast(lerobot):
        package = doctored.copy(lerobot, tmp_path, "configs/train.py", r"    accelerator:", "    other:")
    monkeypatch.setattr(Package, "find", lambda name: package)
    assert autocast_flags(Flags.read(["--policy.dtype=bfloat16"]), None) == {}


def test_a_renamed_action_is_cut_into_chunks_where_the_host_renames_it(data, tok: str) -> None:
    """The unlabelled set of a mix would have come without chunks."""
    import inspect

    from lerobot.datasets.factory import resolve_delta_timestamps
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata

    meta = LeRobotDatasetMetadata("test/labelled", root=data["labelled"])
    features = meta.info["features"] if isinstance(meta.info, dict) else meta.info.features
    features["act"] = features.pop("action")
    found = renaming.chunks(tiny.config("pi05", tok), meta, {"act": "action"}) or {}
    assert ("act" in found) == ("rename_map" in inspect.signature(resolve_delta_timestamps).parameters)


@pytest.mark.parametrize("entry", [entry for entry in PRIVATE if not entry.package], ids=lambda entry: entry.name)
def test_each_private_name_is_missed(entry: Private, lerobot: Package, tmp_path: Path) -> None:
    (told,) = doctored.without(lerobot, tmp_path, entry)
    assert told.startswith(f"private names: lerobot.{entry.module} has no {entry.name} (private: ")


def test_no_private_method_of_a_host_is_overridden_unlisted(lerobot: Package) -> None:
    """A hook of the host's own that it renamed would never be called again, and nobody would notice."""
    known = {entry.last for entry in PRIVATE}
    found = private.overrides(Path(probes.__file__).parent, lerobot)
    assert not {name: place for name, place in found.items() if name not in known}
