"""Which processes a GR00T command line becomes; no host is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from apt_plugin import launch as core
from apt_plugin.backends import groot_versions
from apt_plugin.cache.request import wanted
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.gr00t import data, names, programs
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.recipe import from_flat, load_yaml
from apt_plugin.run import staged

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
    program = programs.find_program(command)
    assert (program.before, program.module, program.flags) == (before, names.TRAIN, ["--a", "1"])
    child = program.child(program.flags)
    assert child[-4:] == ["apt_plugin.hosts.gr00t", names.TRAIN, "--a", "1"]


def test_flags_of_the_host_are_edited_by_name_and_otherwise_left_alone():
    tokens = ["--color-jitter-params", "hue", "0.1", "saturation", "0.2", "--max_steps=5", "--use-wandb"]
    edited = programs.switched(tokens).with_({"max-steps": "7", "use_wandb": "false"}).tokens()
    assert edited == [*tokens[:5], "--max-steps=7", "--no-use_wandb"]


def stages(request):
    return GrootAdapter().stages(request)


def test_stage_commands_name_every_recipe_field(tmp_path):
    request = core.split(
        ["gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path), "--max-steps", "9", "--recipe", "apt",
         "--apt.stage1.max-steps", "4", "--apt.noise-draws", "2", "--apt.fusion.kind", "host"]
    )  # fmt: skip
    training = stages(request)
    first = list(training.command("1").argv)
    flags = first[first.index(names.TRAIN) + 1 :]
    assert programs.switched(flags).get("max-steps") == "4"
    assert first[-1].startswith("--apt.")
    again = core.split(flags)
    assert again.recipe == training.recipe
    assert again.recipe.vlm == "frozen"  # what the command would have trained
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
    monkeypatch.setattr(staged, "call", lambda command: asked.append(list(command.argv)) or 0)
    # Of both stages, only the one with a frozen VLM.
    assert staged.make_cache(GrootAdapter(), core.split(line), "build") == 0
    training = stages(core.split(line))
    assert [wanted(training.recipe, stage) for stage in (1, 2)] == [True, False]
    first = list(training.command("1").argv)
    place = first.index(names.TRAIN)
    assert asked == [[*first[:place], "apt-cache-build", *first[place:]]]
    assert asked[0][:3] == ["torchrun", "--nproc-per-node", "2"]
    with pytest.raises(AptError, match="Which cache"):
        staged.make_cache(GrootAdapter(), core.split([*line[:7], "apt"]), "verify")
    with pytest.raises(AptError, match="Write a training command of gr00t"):
        staged.make_cache(GrootAdapter(), core.split(["gr00t/eval/run_gr00t_server.py", "--recipe", "apt"]), "build")


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
    assert words in HOSTS["gr00t"].standing().reason
    with pytest.raises(AptError, match=r"gr00t: "):
        HOSTS["gr00t"].require()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("Gr00tN1d6", "text before the images"), ("gr00t_n1_5", "plain DiT"), ("Gr00tN1d7", None), (None, None)],
)
def test_checkpoints_of_other_versions_are_told_by_their_type(kind, words):
    why = groot_versions.of_another_version(kind)
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
        stages(request).command("2")


def test_launch_train_takes_its_settings_from_its_config_file_and_its_flags(tmp_path, monkeypatch):
    """The recipe was dropped there without a word. A stage has its own data by a config file of its own."""
    training = {
        "output_dir": str(tmp_path / "out"),
        "experiment_name": "e1",
        "max_steps": 9,
        "start_from_checkpoint": "b",
    }
    sets = [{"dataset_paths": ["demo", "more"], "embodiment_tag": "libero_sim"}]
    config = tmp_path / "mixture.yaml"
    config.write_text(yaml.safe_dump({"training": training, "data": {"datasets": sets}}))
    line = ["gr00t/experiment/launch_train.py", f"--load_config_path={config}", "--recipe", "apt", "--apt.listen", "3",
            "--apt.stage1.load-config-path", "play.yaml", "--apt.stage2.training.max-steps", "5"]  # fmt: skip
    request = core.split(line)
    run = stages(request)
    assert run.folder("2") == tmp_path / "out" / "stage2" / "e1"
    assert (run.of("2").steps(), run.of("2").data()) == (5, ("demo", "libero_sim"))
    (tmp_path / "play.yaml").write_text("training: {}\n")
    monkeypatch.chdir(tmp_path)
    first = list(run.command("1").argv)
    assert first[1:4] == ["-m", names.CHILD, names.TRAIN_MIXTURE]
    given = programs.switched(first[4:])
    assert given.get("training.output-dir") == str(tmp_path / "out" / "stage1")
    assert given.get("load-config-path") == "play.yaml"
    assert "--training.no-resume-from-checkpoint" in first
    with pytest.raises(AptError, match=r"name one: --training\.start-from-checkpoint <Stage-1 run>"):
        run.command("2")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", None])
def test_a_config_file_that_cannot_be_read_is_refused_in_words(tmp_path, text):
    path = tmp_path / "mixture.yaml"
    if text is not None:
        path.write_text(text)
    request = core.split(["gr00t/experiment/launch_train.py", "--load-config-path", str(path), "--recipe", "apt"])
    with pytest.raises(AptError, match=r"--load-config-path .*mixture\.yaml"):
        stages(request)


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--apt.vlm", "lora"], "lora is not supported"),
     (["--apt.mix.repo_id", "a/b", "--apt.mix.share", "0.5"], "folders"),
     (["--apt.cache", "c", "--apt.cache_kind", "kv"], "GR00T stores backbone states")],
)  # fmt: skip
def test_what_the_host_cannot_do_is_said_before_a_process_is_started(flags, words):
    request = core.split(["gr00t/experiment/launch_finetune.py", "--output-dir", "x", "--recipe", "apt", *flags])
    with pytest.raises(AptError, match=words):
        stages(request)


def test_a_named_experiment_has_a_folder_of_its_own(tmp_path):
    """The host writes it there; all of Stage 1 was trained and then "holds none" was said."""
    line = ["gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path), "--experiment-name", "e1",
            "--recipe", "apt"]  # fmt: skip
    run = stages(core.split(line))
    assert run.folder("1") == tmp_path / "stage1" / "e1"


def test_the_hosts_steps_are_the_total_of_both_stages(tmp_path):
    line = ["gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path), "--recipe", "apt"]
    assert stages(core.split(line)).budget.steps == {"1": 1, "2": 9999}  # of the host's own 10000
    run = stages(core.split([*line, "--max-steps", "50", "--apt.stage1.share", "0.2"]))
    assert programs.switched(run.command("1").argv[4:]).get("max-steps") == "10"
    assert run.budget.says == "Of --max-steps 50, the total of both stages: Stage 1 10; Stage 2 40."
    assert stages(core.split([*line, "--max-steps", "50", "--apt.stage", "1"])).budget.steps == {"1": 50}


def test_a_stages_own_config_file_has_its_own_steps_and_a_warm_up_in_steps_is_divided(tmp_path):
    files = {"both.yaml": {"max_steps": 100, "warmup_steps": 20}, "play.yaml": {"max_steps": 30}}
    for name, training in files.items():
        (tmp_path / name).write_text(yaml.safe_dump({"training": training, "model": {"tune_llm": True}}))
    line = ["gr00t/experiment/launch_train.py", f"--load_config_path={tmp_path / 'both.yaml'}", "--recipe", "apt",
            "--apt.stage1.load-config-path", str(tmp_path / "play.yaml")]  # fmt: skip
    run = stages(core.split(line))
    assert run.budget.steps == {"1": 30, "2": 70}
    assert run.budget.flags == {
        "1": {"training.warmup-steps": "6"},
        "2": {"training.max-steps": "70", "training.warmup-steps": "14"},
    }
    assert (run.recipe.vlm, run.recipe.freeze) == ("full", [r"\.visual\."])
    assert "--model.no-tune-llm" in run.command("1").argv  # by the recipe from here on


@pytest.mark.parametrize(
    ("flags", "vlm", "freeze"),
    [([], "frozen", []), (["--tune-llm", "--tune-visual"], "full", []),
     (["--tune-visual"], "full", [r"\.language_model\.|\.lm_head\."]),
     (["--tune-llm", "--apt.vlm=frozen"], "frozen", [])],
)  # fmt: skip
def test_stage_2_trains_of_the_vlm_what_the_command_would_have(tmp_path, flags, vlm, freeze):
    line = ["gr00t/experiment/launch_finetune.py", "--output-dir", str(tmp_path), "--recipe", "apt", *flags]
    run = stages(core.split(line))
    assert (run.recipe.vlm, run.recipe.freeze) == (vlm, freeze)
    child = core.split(run.command("1").argv[4:])
    assert (child.recipe.vlm, child.recipe.freeze) == (vlm, freeze)


def test_a_path_that_is_no_data_set_is_refused_in_a_sentence():
    """`--dataset-path demo:play`, which the host splits in two, ended in its traceback; the pre-flight asks this."""
    with pytest.raises(AptError, match=r"There is no data set at demo .*; several are joined by ':'"):
        data.check_sets("demo:play".split(":"))
