# SPDX-License-Identifier: Apache-2.0

"""An installed recipe is called with the command line when `gr00t.model` is imported."""

import os
from pathlib import Path
import subprocess
import sys

import gr00t


RECIPE = """
def load(argv):
    print("RECIPE", argv[1:])
"""


def _imported(folder: Path) -> str:
    path = os.pathsep.join([str(folder), str(Path(gr00t.__file__).parents[1])])
    command = [sys.executable, "-c", "import gr00t.model", "--recipe", "mine"]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_recipe_is_called_with_the_command_line(tmp_path):
    (tmp_path / "a_recipe.py").write_text(RECIPE)
    info = tmp_path / "a_recipe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-recipe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gr00t.recipes]\nmine = a_recipe:load\n")
    assert "RECIPE ['--recipe', 'mine']" in _imported(tmp_path)


def test_nothing_happens_without_one(tmp_path):
    assert "RECIPE" not in _imported(tmp_path)
