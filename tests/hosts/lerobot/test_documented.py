"""The documents' commands for lerobot, as they stand there, on one small machine: a page after the other.

The plugin is installed there from its wheel, by the front page's first command, beside what it declares and nothing
else. A page may use what an earlier one made (`CHECKPOINT` is a result of the front page's training). shrunk.py says
what is smaller than on a reader's machine, warm.py how the processes are started.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from apt_plugin.hosts import HOSTS, Level
from apt_plugin.stages import read_record
from tests import documents, installed, processes
from tests.hosts.lerobot.reader import Reader

PAGES = documents.run_by(documents.LEROBOT)
FIRST = ("examples/label.md", "README.md", "examples/lerobot.md")  # whose results others name
ORDER = [*(page for page in FIRST if page in PAGES), *(page for page in PAGES if page not in FIRST)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    root = tmp_path_factory.mktemp("reader")
    wheels = installed.built(root)
    (command,) = (c.text for c in documents.run_by(documents.INSTALLED)["README.md"])
    if HOSTS["lerobot"].standing().level is Level.UNTESTED:  # the front page installs beside a tested release
        command = "pip install --no-deps apt-plugin lerobot_policy_apt"
    python = installed.environment(root / "env", wheels["apt_plugin"], "lerobot", ["lerobot[async]"])
    installed.install(python, command, wheels["apt_plugin"].parent)
    found = Reader(root, python)
    yield found
    processes.end(found.process)


@pytest.mark.slow
@pytest.mark.parametrize("page", ORDER)
def test_a_page_does_what_it_says(page: str, reader: Reader) -> None:
    last = "checkpoints/last/pretrained_model"
    reader.place("MY_CHECKPOINT", reader.home / "outputs/first" / last)
    reader.place("CHECKPOINT", reader.home / "outputs/mine/stage2" / last)
    reader.place("DIR", reader.home / "kitchen-cache")
    reader.place("DATA", reader.root / "data/me/labelled")
    reader.place("MORE", reader.root / "data/me/unlabelled")
    reader.place("configs", documents.ROOT / "configs")
    for command in PAGES[page]:
        reader.type(command.text)


def test_the_plugin_is_the_installed_one(reader: Reader) -> None:
    status, said = reader.run(["python", "-m", "tests.hosts.lerobot.where"])
    assert status == 0, said
    assert Path(said.split()[-1]).is_relative_to(reader.root / "env")


def test_the_front_pages_run_is_the_default_recipe(reader: Reader) -> None:
    """`--steps` is the total, the VLM trains as by the host's own command, and the rates follow each stage."""
    first, second = (reader.home / f"outputs/mine/stage{stage}/checkpoints/last/pretrained_model" for stage in (1, 2))
    one, two = read_record(first), read_record(second)
    assert (one.steps, two.steps) == (1, 3)  # of 2000 and 18000
    assert (one.recipe.vlm, two.recipe.vlm) == ("full", "full")
    assert one.vlm == one.vlm_start == two.vlm_start != two.vlm
    told = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert [config["scheduler_decay_steps"] for config in told] == [3000, 27000]
    # The same command goes on where it stopped: at the end. Its steps are what the shortened run took.
    command = next(c.text for c in PAGES["README.md"] if "apt-plugin run" in c.text)
    status, log = reader.run([*shlex.split(command.replace("--steps=20000", "--steps=4")), "--resume=true"])
    assert status == 0, log[-3000:]
    assert "Stage 1 is finished" in log
    assert "Stage 2 is finished" in log
