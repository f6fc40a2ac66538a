"""The documents' commands for openpi, as they stand there, in a copy of its checkout, page after page.

The configs keep their names, data, transforms and base; sizes and steps come from preload.py. `uv run` is the Python
that runs these tests. A checkpoint's number is that of the full length: a link with that number leads to the last.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import openpi
import pytest

from apt_plugin.run.budget import ASKED, SHARE, divide
from tests import documents, installed, processes
from tests.hosts.openpi import bases, tiny
from tests.hosts.openpi.test_patched import matches
from tests.hosts.openpi.test_round_trip import environment
from tests.hosts.reader import Reader

CHECKOUT = Path(openpi.__file__).parents[2]
PAGES = documents.run_by(documents.OPENPI)
ORDER = sorted(PAGES, key=lambda page: page != "examples/openpi.md")  # the walk-through first: others name its results
UV = f"""#!{sys.executable}
# `uv run PROGRAM ...`: this Python, with small sizes in front of a script of the host's own
import os, runpy, sys
program = sys.argv[2:]
if program[0].endswith(".py"):
    sys.argv = program
    sys.path.insert(0, os.path.dirname(program[0]))
    import openpi
    from apt_plugin.hosts.openpi import preload
    preload()
    runpy.run_path(program[0], run_name="__main__")
else:
    os.execvp(program[0], program)
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(6000),
    pytest.mark.skipif(not matches(), reason="this openpi is not the commit that patches/openpi was made for"),
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    root = tmp_path_factory.mktemp("documented") / "openpi"
    for part in ("src", "scripts"):
        shutil.copytree(CHECKOUT / part, root / part)
    shutil.copy(CHECKOUT / "pyproject.toml", root)
    as_cloned(root)
    env = environment(root, HF_LEROBOT_HOME=str(root / "data"), APT_TEST_FRAMES="1", HF_HUB_OFFLINE="1")
    env["PYTHONPATH"] = (
        f"{documents.ROOT / 'tests/hosts/small'}:{root / 'src'}:{env['PYTHONPATH']}:{entry_points(root / 'site')}"
    )
    python = f"#!/bin/sh\nexec {sys.executable}"
    found = Reader(root, env, {
        "uv": UV, "apt-plugin": f'{python} -m apt_plugin "$@"\n', "python": f'{python} "$@"\n',
        "torchrun": f'{python} -m torch.distributed.run "$@"\n',
    })  # fmt: skip
    for data in ("physical-intelligence/libero", "your_hf_username/my_droid_dataset droid"):
        found.type(f"python -m tests.hosts.openpi.frames {data}")
    with tiny.small():
        source = bases.write_jax(root / "pi05_base", tiny.stock("pi05", action_dim=32))
        bases.write_torch(source, root / "pi05_base_pytorch", tiny.stock("pi05", action_dim=32))
    yield found
    found.close()


def as_cloned(root: Path) -> None:
    """A user's checkout: what the host holds is committed, what the commands make is nobody's."""
    own = ("-c", "user.name=A Reader", "-c", "user.email=reader@localhost")
    for command in (("init", "-q", "-b", "main"), ("add", "."), (*own, "commit", "-q", "-m", "The host")):
        done = processes.run(["git", *command], cwd=root)
        assert done.returncode == 0, done.stderr
    for name, value in (("user.name", "A Reader"), ("user.email", "reader@localhost")):
        assert processes.run(["git", "config", name, value], cwd=root).returncode == 0


def entry_points(site: Path) -> Path:
    """What an installation of the plugin leaves behind: entry points, by which a patched host finds the recipe."""
    info = site / "apt_plugin-0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apt-plugin\nVersion: 0.0\n")
    pairs = {"recipes": "recipe", "checkpoints": "checkpoint"}
    text = "".join(f"[openpi.{g}]\napt = apt_plugin.hosts.openpi.patched:{f}\n" for g, f in pairs.items())
    (info / "entry_points.txt").write_text(text)
    return site


def link(reader: Reader, command: str) -> None:
    """The step that a command names, where the run is shorter; it is the last one of the full length."""
    found = re.search(r"(checkpoints/\S+)/(\d+)(\s|$)", command)
    if found is None:
        return
    run = reader.folder / found[1]
    if not run.exists():  # `listen` of a policy of the host's own
        reader.type(f"uv run scripts/train.py pi05_libero --exp-name={run.name}")
    assert int(found[2]) == 20000 or "apt2" in found[1]
    if not (run / found[2]).exists():
        last = max(int(path.name) for path in run.iterdir() if path.name.isdigit())
        (run / found[2]).symlink_to(run / str(last))


@pytest.mark.parametrize("page", ORDER)
def test_a_page_does_what_it_says(page, reader):
    try:
        for command in PAGES[page]:
            link(reader, command.text)
            reader.type(command.text)
    finally:
        reader.close()


def test_the_steps_that_the_documents_name_are_the_last_ones():
    """pi05_libero has 30000 steps: Stage 2 has all but one and saves the one numbered one less; nine tenths where
    Stage 1 has data of its own."""
    asks = ("examples/tabletop.md",)
    named = {
        page: {m for c in listed for m in re.findall(r"_apt2/\w+/(\d+)", c.text)} for page, listed in PAGES.items()
    }
    named = {page: steps for page, steps in named.items() if steps}
    assert {"examples/openpi.md", *asks} <= named.keys()
    last = {share: str(divide(30000, share, {}, "num-train-steps")["2"] - 1) for share in (SHARE, ASKED)}
    assert named == {page: {last[ASKED if page in asks else SHARE]} for page in named}


def test_the_host_has_what_the_plugin_needs():
    """Its pins stay as they are: the documents and containers/ install the plugin with --no-deps."""
    assert installed.unmet() == []
