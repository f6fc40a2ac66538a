"""Which processes a GR00T command line becomes; no host is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin import launch as core
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import launch, versions
from apt_plugin.recipe import from_flat, load_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "gr00t"


@pytest.mark.parametrize(
    ("command", "before"),
    [
        (["gr00t/experiment/launch_finetune.py", "--a", "1"], []),
        (["python", "gr00t/experiment/launch_finetune.py", "--a", "1"], []),
        (["python", "-m", "gr00t.experiment.launch_finetune", "--a", "1"], []),
        (["torchrun", "--nproc-per-node", "2", "/x/gr00t/src/gr00t/experiment/launch_finetune.py", "--a", "1"],
         ["torchrun", "--nproc-per-node", "2"]),
    ],
)  # fmt: skip
def test_program_is_found_however_it_is_started(command, before):
    program = launch.find_program(command)
    assert (program.before, program.module, program.flags) == (before, launch.TRAIN, ["--a", "1"])
    child = program.child(program.flags)
    assert child[-4:] == ["apt_plugin.hosts.gr00t", launch.TRAIN, "--a", "1"]


def test_flags_of_the_host_are_edited_by_name_and_otherwise_left_alone():
    tokens = ["--color-jitter-params", "hue", "0.1", "saturation", "0.2", "--max_steps=5", "--use-wandb"]
    assert launch.value_of(tokens, "max-steps") == "5"
    assert launch.value_of(tokens, "use-wandb") == "true"
    edited = launch.with_flags(tokens, {"max_steps": "7", "use-wandb": "false"})
    assert edited == [*tokens[:5], "--max-steps", "7", "--no-use-wandb"]


def test_stage_commands_name_every_recipe_field(tmp_path):
    request = core.split(
        ["gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path), "--max-steps", "9", "--recipe", "apt",
         "--apt.stage1.max-steps", "4", "--apt.noise-draws", "2", "--apt.fusion.kind", "host"]
    )  # fmt: skip
    training = launch.Training(launch.find_program(request.command), request)
    first = training.command("1")
    assert launch.value_of(first, "max-steps") == "4"
    assert first[-1].startswith("--apt.")
    again = core.split(first[first.index("--output-dir") :])
    assert again.recipe == request.recipe
    assert again.stage == "1"
    with pytest.raises(AptError, match="holds none"):
        training.command("2")


def test_configs_are_views_of_the_recipe():
    loaded = {path.stem: from_flat(load_yaml(path)) for path in CONFIGS.glob("*.yaml")}
    assert loaded["strict"] == from_flat({})
    assert loaded["host"].fusion.kind == "host"
    assert loaded["export"].prefix == "native"
    assert (loaded["cached"].cache, loaded["cached"].cache_views) == ("apt-cache", 0)


def test_a_cache_is_made_by_the_stages_own_processes(tmp_path, monkeypatch):
    """The same command under the same torchrun, with a marker in the place of the host's module."""
    line = ["torchrun", "--nproc-per-node", "2", "gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path),
            "--recipe", "apt", "--apt.cache", "features", "--apt.vlm", "full"]  # fmt: skip
    asked = []
    monkeypatch.setattr(launch, "call", lambda command: asked.append(command) or 0)
    assert launch.cache(core.split(line), "build") == 0  # of both stages, only the one with a frozen VLM
    training = launch.Training(launch.find_program(core.split(line).command), core.split(line))
    assert (training.request.caches("1"), training.request.caches("2")) == (True, False)
    first = training.command("1")
    assert asked == [[part if part != launch.TRAIN else "apt-cache-build" for part in first]]
    assert asked[0][:3] == ["torchrun", "--nproc-per-node", "2"]
    with pytest.raises(AptError, match="Which cache"):
        launch.cache(core.split([*line[:7], "apt"]), "verify")
    with pytest.raises(AptError, match="Write the training command"):
        launch.cache(core.split(["gr00t/eval/run_gr00t_server.py", "--recipe", "apt"]), "build")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("gr00t.model.gr00t_n1d6", "text before the images"),
        ("gr00t.model.gr00t_n1", "plain DiT"),
        ("", "tested for N1.7"),
    ],
)
def test_other_versions_are_recognised_and_refused(monkeypatch, tmp_path, there, words):
    """By their folders: nothing of the host is imported to tell, which would cost a launcher 13 s."""
    folder = tmp_path.joinpath(*(there or "gr00t.model").split("."))
    folder.mkdir(parents=True)
    (tmp_path / "gr00t" / "__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert words in versions.reason()
    with pytest.raises(AptError, match=r"gr00t: "):
        versions.require()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("Gr00tN1d6", "text before the images"), ("gr00t_n1_5", "plain DiT"), ("Gr00tN1d7", None), (None, None)],
)
def test_checkpoints_of_other_versions_are_told_by_their_type(kind, words):
    why = versions.of_another_version(kind)
    assert (why is None) == (words is None)
    assert words is None or words in why


def test_a_prior_named_by_a_hub_id_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    import huggingface_hub

    def nothing(*_args, **_kwargs):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    request = core.split(
        ["gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path), "--recipe", "apt", "--apt.stage", "2",
         "--base-model-path", "someone/prior"]
    )  # fmt: skip
    with pytest.raises(AptError, match=r"someone/prior is neither a folder here .*offline.*Offline, download it"):
        launch.Training(launch.find_program(request.command), request).command("2")
