"""`import apt_plugin` for who writes code: every name there, nothing loaded before it is asked for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

import apt_plugin
from apt_plugin.hosts.lerobot.families import POLICIES
from apt_plugin.recipes import shipped

HEAVY = ("torch", "jax", "numpy", "yaml", "rich", "tyro", "transformers", "lerobot", "openpi", "gr00t")
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_policy.py"


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert fresh(f"import sys, apt_plugin; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_every_name_is_there_on_first_use_and_is_listed() -> None:
    for name in apt_plugin.__all__:
        assert getattr(apt_plugin, name) is not None
    assert set(apt_plugin.__all__) == set(dir(apt_plugin))
    with pytest.raises(AttributeError, match="no attribute 'recieve'"):
        _ = apt_plugin.recieve  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", ["", "import apt_plugin.listen.words, apt_plugin.listen; "])
def test_listen_is_the_function_and_the_package(before: str) -> None:
    """A submodule takes the name over as soon as anything imports it, in whatever order."""
    code = f"{before}import apt_plugin as apt; from apt_plugin.listen import Settings, listen; "
    code += "from apt_plugin import listen as l; print(callable(apt.listen), callable(l), Settings().draws)"
    assert fresh(code) == "True True 8"


def test_a_recipe_by_name_by_file_and_with_a_mistake(tmp_path: Path) -> None:
    for host, files in shipped().items():
        for name, path in files.items():
            assert apt_plugin.load_recipe(name, host) == apt_plugin.load_recipe(path)
    (tmp_path / "mine.yaml").write_text("noise_draws: 8\nfusion: {gate: head}\nstage1: {steps: 10}\n")
    recipe = apt_plugin.load_recipe(tmp_path / "mine.yaml")
    assert (recipe.noise_draws, recipe.fusion.gate) == (8, "head")
    (tmp_path / "mine.yaml").write_text("noise_draw: 8\n")
    with pytest.raises(apt_plugin.AptError, match="Did you mean 'noise_draws'"):
        apt_plugin.load_recipe(tmp_path / "mine.yaml")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_policy", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_policy_of_no_host_is_proven_and_listened_to(example) -> None:
    proofs, word = example.main()
    assert word == "listens"
    assert [proof.what for proof in proofs if proof.passed is False] == []
    assert {proof.contract for proof in proofs if proof.passed} == {1, 3, 4, 7}
    assert {proof.contract for proof in proofs if proof.passed is None} == {5, 6}  # there is no host to ask


def test_its_proofs_can_fail(example) -> None:
    """The same policy with a gate that does not close, and with a VLM that trains."""

    class Leaks(example.Policy):
        def act(self, side, state, texts, language=True):
            return super().act(side, state, texts, True) + self.words(texts).sum(1)

    class Moves(example.Policy):
        def train(self, instructions, steps):
            self.vlm = self.vlm + 1e-3
            return super().train(instructions, steps)

    frames = apt_plugin.Frames(*(np.zeros(1),) * 2, ("a",), np.zeros((1, 1, 1)), *(np.ones((1, 1), bool),) * 2, 1)
    for kind, contract in ((Leaks, 1), (Moves, 4)):
        failed = [proof.contract for proof in apt_plugin.prove(kind(frames, np.ones(1))) if proof.passed is False]
        assert set(failed) == {contract}


def test_the_version_is_said() -> None:
    assert fresh("import sys; sys.argv = ['apt-plugin', '--version']; from apt_plugin.cli import main; main()") == (
        f"apt-plugin {apt_plugin.__version__}"
    )


def test_bench_takes_every_family_that_a_host_has() -> None:
    """A family that only the host's table knew could not be named on the command line."""
    from apt_plugin.cli import Bench

    (names, _) = typing.get_args(typing.get_type_hints(Bench, include_extras=True)["family"])
    assert set(typing.get_args(names)) == set(POLICIES)  # lerobot has all of them
