"""The documents' commands for Isaac GR00T, as they stand there: each page in a folder of its own.

Base, VLM and data lie where the commands look for them, tiny; small/sitecustomize.py makes the rest small. A
checkpoint's number is that of the full length, so a link with that number leads to the last one.
"""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import re
import sys
from pathlib import Path

import gr00t
import pytest

from apt_plugin.run.budget import ASKED, SHARE, divide
from tests import documents, installed
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_mixture import ROBOTS, config
from tests.hosts.reader import Reader

CHECKOUT = Path(gr00t.__file__).parents[1]
PAGES = documents.run_by(documents.GROOT)
ORDER = sorted(PAGES, key=lambda page: page != "examples/gr00t.md")  # the walk-through first: others name its results
BASE = "nvidia/GR00T-N1.7-3B"
STEPS = 10000  # the host's own
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6000)]


@pytest.fixture(scope="module")
def first(tmp_path_factory, where):
    """Where the walk-through is read; the other pages may name what it makes."""
    return tmp_path_factory.mktemp("pages")


def lay_out(folder: Path, where: Path, first: Path) -> None:
    folder.mkdir(parents=True)
    for name, target in (("gr00t", CHECKOUT / "gr00t"), ("demo", where / "data"), ("nvidia", first / "nvidia")):
        (folder / name).symlink_to(target)
    (folder / "data").mkdir()
    (folder / "data/libero").symlink_to(where / "data")


@pytest.fixture
def reader(request, first, where):
    folder = first / Path(request.getfixturevalue("page")).stem
    if not (first / "nvidia").exists():
        (first / "nvidia").mkdir()
        (first / tiny.VLM).symlink_to(where / tiny.VLM)
        tiny.published(first / BASE, where / "base2")
    lay_out(folder, where, first)
    config(folder, [(where / "data", ROBOTS[0])], output_dir=str(folder / "mixed"), start_from_checkpoint=BASE)
    python = f"#!/bin/sh\nexec {sys.executable}"
    env = tiny.environment()
    env["PYTHONPATH"] = f"{documents.ROOT / 'tests/hosts/small'}:{env['PYTHONPATH']}"
    found = Reader(folder, env, {
        "apt-plugin": f'{python} -m apt_plugin "$@"\n', "python": f'{python} "$@"\n',
        "torchrun": f'{python} -m torch.distributed.run "$@"\n',
    })  # fmt: skip
    yield found
    found.close()


def prepare(reader: Reader, first: Path, command: str) -> None:
    """What a command names and the page does not make: a policy of the host's own, or the walk-through's result."""
    folder = reader.folder
    if found := re.search(r"(?:--policy|--model-path) (\S*checkpoint-(\d+))", command):
        target = folder / found[1]
        if not target.parent.exists():
            reader.type(
                f"python -m gr00t.experiment.launch_finetune --base-model-path {BASE} --dataset-path demo "
                f"--embodiment-tag {tiny.TAG} --output-dir {target.parent.relative_to(folder)} --max-steps {found[2]}"
            )
        if not target.exists():
            last = max(target.parent.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
            target.symlink_to(last)
    elif "--model-path out " in command and not (folder / "out").exists():
        (folder / "out").symlink_to(first / "gr00t/out")


@pytest.mark.parametrize("page", ORDER)
def test_a_page_does_what_it_says(page, reader, first):
    for command in PAGES[page]:
        prepare(reader, first, command.text)
        reader.type(command.text)


def test_the_steps_that_the_documents_name_are_the_last_ones():
    """Of 10000 Stage 2 has all but one; nine tenths where Stage 1 has data of its own."""
    asks, text = ("examples/tabletop.md",), re.compile(r"stage2/checkpoint-(\d+)")
    named = {page: {m for c in listed for m in text.findall(c.text)} for page, listed in PAGES.items()}
    named = {page: steps for page, steps in named.items() if steps}
    assert {"examples/gr00t.md", *asks} <= named.keys()
    last = {share: str(divide(STEPS, share, {}, "max-steps")["2"]) for share in (SHARE, ASKED)}
    assert named == {page: {last[ASKED if page in asks else SHARE]} for page in named}


def test_the_host_has_what_the_plugin_needs():
    """Its pins stay as they are: the documents and containers/ install the plugin with --no-deps."""
    assert installed.unmet() == []
