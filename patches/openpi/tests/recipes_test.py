import pathlib
import sys

import pytest

from openpi.policies import policy_config as _policy_config
from openpi.training import config as _config

RECIPE = """
def command_line(argv):
    if "--recipe" in argv:
        argv[1:] = ["debug", "--exp-name=taken-over"]

def checkpoint(config, folder):
    raise LookupError(f"asked for {config.name} in {folder}")
"""
ENTRY_POINTS = "[openpi.recipes]\na = a_recipe:command_line\n[openpi.checkpoints]\na = a_recipe:checkpoint\n"


@pytest.fixture
def recipe(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A package with entry points, as an installation leaves it."""
    (tmp_path / "a_recipe.py").write_text(RECIPE)
    info = tmp_path / "a_recipe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-recipe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("a_recipe", None)


def test_recipe_takes_over_a_command_line(recipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "pi05_libero", "--recipe", "mine"])
    config = _config.cli()
    assert (config.name, config.exp_name) == ("debug", "taken-over")


def test_recipe_leaves_other_command_lines_alone(recipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "debug", "--exp-name=mine"])
    assert _config.cli().exp_name == "mine"


def test_recipe_is_asked_for_the_config_of_a_checkpoint(recipe, tmp_path: pathlib.Path):
    with pytest.raises(LookupError, match="asked for debug in"):
        _policy_config.create_trained_policy(_config.get_config("debug"), tmp_path)
