"""Every field of the recipe through every door of Isaac GR00T: it arrives and acts, or is refused in words."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import dataclasses
import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

from apt_plugin import proofs
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import __main__ as child
from apt_plugin.hosts.gr00t import acting, entry, names, prove, training
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.launch import split
from apt_plugin.run import staged
from tests.hosts.fields import ACTING, FIELDS, NO_GOALS, values_of
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_contracts import actions_of, stage1
from tests.hosts.gr00t.test_export import stage2

# Fields that this host refuses, at every door that trains, and what it says.
REFUSED = {"mix.repo_id": "reads data from folders", "cache_kind": "GR00T stores backbone states", **NO_GOALS}
TRAINING_FLAGS = {
    names.TRAIN: ["--base-model-path", "base2", "--dataset-path", "data", "--embodiment-tag", tiny.TAG],
    names.TRAIN_MIXTURE: ["--training.start-from-checkpoint", "base2", "--load-config-path", "soup.yaml"],
}


class StartedError(Exception):
    """The host's script would run now: what was installed for it is looked at."""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Each door claims the host's names in this process; they are put back."""
    argv = sys.argv

    def started(*_args, **_kwargs):
        raise StartedError

    monkeypatch.setattr(runpy, "run_module", started)
    yield
    training.uninstall()
    acting.install({})
    sys.argv = argv


def through_launcher(module, flags):
    """`apt-plugin run <the host's script> ... --recipe apt`: the process of Stage 1 that it would start."""
    request = split(["-m", module, *TRAINING_FLAGS[module], "--recipe", "apt", *flags])
    command = list(GrootAdapter().stages(request).command("1").argv)
    with pytest.raises(StartedError):
        child.main(command[command.index(names.CHILD) + 1 :])


def through_patch(flags):
    """The host's own command, which calls our entry when it imports its models."""
    argv = ["gr00t/experiment/launch_finetune.py", *TRAINING_FLAGS[names.TRAIN], "--recipe", "apt", "--apt.stage", "1"]
    argv += flags
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "exit", lambda words: (_ for _ in ()).throw(AptError(words)))
        entry.load(argv)
    assert not [token for token in argv if "apt" in token and token != names.TRAIN]


def through_hook(flags):
    """`--modality-config-path apt_hook.py`, loaded by the host's own function."""
    from gr00t.experiment.launch_finetune import load_modality_config

    sys.modules.pop("apt_hook", None)
    hook = Path(importlib.util.find_spec("apt_plugin.hosts.gr00t").submodule_search_locations[0]) / "apt_hook.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APT_FLAGS", " ".join(["--apt.stage 1", *(f"'{flag}'" for flag in flags)]))
        try:
            load_modality_config(str(hook))
        except SystemExit as error:
            raise AptError(error.code) from error


DOORS = {
    "launcher": lambda flags: through_launcher(names.TRAIN, flags),
    "mixture": lambda flags: through_launcher(names.TRAIN_MIXTURE, flags),
    "patch": through_patch,
    "hook": through_hook,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_arrives_at_the_trainer_or_is_refused(where, monkeypatch, name, door):
    monkeypatch.chdir(where)
    (where / "soup.yaml").write_text("training: {output_dir: soup}\ndata: {datasets: []}\n")
    chosen = FIELDS[name]
    if name in REFUSED:
        with pytest.raises(AptError, match=REFUSED[name]):
            DOORS[door](chosen.flags(name))
        return
    DOORS[door](chosen.flags(name))
    wanted = chosen.recipe(name)
    if wanted.vlm == "host" and door in ("launcher", "mixture"):  # it knows what the command itself would train
        wanted = dataclasses.replace(wanted, vlm="frozen")
    assert training._ACTIVE["recipe"] == wanted
    assert values_of(training._ACTIVE["recipe"])[name] == chosen.value


@pytest.fixture(scope="module")
def second(where, tmp_path_factory):
    """A Stage-2 checkpoint with open gates, and inputs for it."""
    folder, subject = stage2(where, tmp_path_factory.mktemp("second"), 2, {"fusion.kind": "host"})
    return folder, subject.make_batch(("stop", "go on and on"), 0, 0)


@pytest.mark.parametrize("program", ["launcher", "patch"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_server_applies_a_field_or_refuses_it(where, monkeypatch, second, name, program):
    """`--apt.guidance_scale 100` was dropped without a word, and so was any other."""
    from transformers import AutoModel

    folder, inputs = second
    flags, chosen = ["--model-path", str(folder), "--embodiment-tag", tiny.TAG], FIELDS[name].flags(name)
    calls = []
    monkeypatch.setattr(staged, "call", lambda command: calls.append(list(command.argv)) or 0)

    def serve():
        if program == "patch":
            argv = ["gr00t/eval/run_gr00t_server.py", *flags, "--recipe", "apt", *chosen]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "exit", lambda words: (_ for _ in ()).throw(AptError(words)))
                entry.load(argv)
            assert argv[1:] == flags
            return
        staged.carry_out(GrootAdapter(), split(["-m", names.SERVE, *flags, "--recipe", "apt", *chosen]))
        with pytest.raises(StartedError):
            child.main(calls[0][calls[0].index(names.CHILD) + 1 :])
        assert sys.argv[1:] == flags

    if name not in ACTING:
        with pytest.raises(AptError, match=r"--apt\.\S+ is settled when a policy is trained"):
            serve()
        assert not calls
        return
    plain = AutoModel.from_pretrained(folder).eval()
    serve()
    guided = AutoModel.from_pretrained(folder).eval()
    assert guided.apt_recipe.guidance_scale == FIELDS[name].value
    assert proofs.furthest(actions_of(plain, inputs), actions_of(guided, inputs)) > 1e-3


def test_guidance_is_refused_where_nothing_could_follow_it(where, tmp_path):
    guided = ["--recipe", "apt", "--apt.guidance_scale", "2"]
    with pytest.raises(AptError, match="on a stock checkpoint needs the launcher"):
        entry._take_over(["gr00t/eval/run_gr00t_server.py", "--model-path", str(where / "base2"), *guided])
    with pytest.raises(AptError, match="this command opens none"):
        staged.carry_out(GrootAdapter(), split(["-m", names.SERVE, "--dataset-path", "data", *guided]))
    acting.install({"guidance_scale": 2.0})
    with pytest.raises(AptError, match="which hears no instruction"):
        prove.load(stage1(where, tmp_path / "s1", 0, {}))
