"""The documents' commands for lerobot, as they stand there, on one small machine: a page after the other.

The plugin is installed there from its wheel, by the front page's first command, beside what it declares and nothing
else. A page may use what an earlier one made (`CHECKPOINT` is a result of the front page's training). shrunk.py says
what is smaller than on a reader's machine, warm.py how the processes are started.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apt_plugin.hosts import HOSTS, Level
from apt_plugin.stages import read_record
from tests import documents, installed, noise, processes
from tests.hosts.lerobot import datasets

PAGES = documents.run_by(documents.LEROBOT)
FIRST = ("examples/label.md", "README.md", "examples/lerobot.md")  # whose results others name
ORDER = [*(page for page in FIRST if page in PAGES), *(page for page in PAGES if page not in FIRST)]
REFUSED = {"apt-plugin export CHECKPOINT OUT": "cannot be exported"}  # what the page says of a π checkpoint
SERVER = 8080  # the host's own port


class Reader:
    """Types commands into one shell."""

    def __init__(self, root: Path, python: Path):
        self.root, self.home, self.shell = root, root / "home", {}
        self.home.mkdir()
        env = {**datasets.ENVIRONMENT, "HF_HOME": str(root / "hf"), "HF_LEROBOT_HOME": str(root / "data")}
        env["PYTHONPATH"] = str(root / "tests_only")
        (root / "tests_only").mkdir()
        (root / "tests_only/tests").symlink_to(documents.ROOT / "tests")
        self.process = processes.start(
            [python, "-m", "tests.hosts.lerobot.warm"], cwd=self.home, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        processes.keep(self.process)
        self.number = 0
        status, log = self.run(["python", "-m", "tests.hosts.lerobot.published", str(root)])
        assert status == 0, log

    def run(self, argv: list[str], background: bool = False) -> tuple[int, str]:
        """(exit status, or the pid of what goes on; what it printed)."""
        self.number += 1
        log = self.root / f"{self.number}.log"
        asked = {"argv": argv, "cwd": str(self.home), "log": str(log), "background": background}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if not background:
            answer = json.loads(self.process.stdout.readline())
        return answer["pid" if background else "status"], log.read_text() if log.is_file() else ""

    def type(self, text: str) -> None:
        if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', text):
            self.shell[assigned[1]] = self.filled(assigned[2])
            return
        argv = shlex.split(self.filled(text))
        if any("policy_server" in word for word in argv):
            self.serve(argv)
            return
        status, log = self.run(argv)
        if text in REFUSED:
            assert status
            assert REFUSED[text] in log
        else:
            assert status == 0, f"{text}\n{log[-5000:]}"
            if "apt-plugin run lerobot-train" in text and "--recipe apt" in text:
                noise.check(log)

    def filled(self, text: str) -> str:
        return re.sub(r"\$([A-Z]+)", lambda found: self.shell[found[1]], text)

    def serve(self, argv: list[str]) -> None:
        pid, _ = self.run(argv, background=True)
        end = time.monotonic() + processes.HANG
        try:
            while socket.socket().connect_ex(("127.0.0.1", SERVER)):
                assert Path(f"/proc/{pid}").exists(), (self.root / f"{self.number}.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.2)
        finally:
            os.kill(pid, signal.SIGTERM)

    def place(self, name: str, target: Path) -> None:
        """What a page calls by a name in capitals."""
        if not (self.home / name).is_symlink():
            (self.home / name).symlink_to(target)


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


def test_the_trial_of_its_page_asked_every_way_on_what_none_was_trained_on(reader: Reader) -> None:
    """And the same command goes on with what was lost, also where it was killed and its training outlived it."""
    trial = reader.home / "apt-trial"
    plan = json.loads((trial / "plan.json").read_text())
    assert plan["steps"] == 10_000
    assert len(plan["held_out"]) == 3
    assert sorted(plan["train"] + plan["held_out"]) == list(range(6))
    ways = ("own", "warm-up", "two-stage")
    for way in ways:
        answer = json.loads((trial / f"{way}-0/answer.json").read_text())
        assert set(answer["episode"]) == set(plan["held_out"])
        assert not (trial / f"{way}-0/run").exists()
    assert "This pick is a hint" in (trial / "trial.html").read_text()
    data = (reader.root / "data/me/kitchen").rglob("*")
    assert max(path.lstat().st_mtime for path in data) < (trial / "plan.json").stat().st_mtime
    command = PAGES["examples/trial.md"][0].text
    (trial / "own-0/answer.json").unlink()
    (trial / "own-0/trained.json").unlink()
    pid, _ = reader.run(shlex.split(command), background=True)
    end = time.monotonic() + processes.HANG
    while not (trial / "own-0/run").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    assert not (trial / "own-0/answer.json").exists()
    status, log = reader.run(shlex.split(command))
    assert status == 0, log[-5000:]
    assert log.count(": done.") == 2
    assert "1 of 3, your own training" in log
    assert shlex.split(log.partition("The command to take")[2].replace("\\\n", ""))[:1] in (
        ["lerobot-train"],
        ["apt-plugin"],
    )
    mute = command.replace("me/kitchen", "me/kitchen-play") + " --trial.output=mute"
    status, log = reader.run(shlex.split(mute))
    assert status
    assert "The data cannot teach it" in log
    assert sorted(path.name for path in (reader.home / "mute").iterdir()) == ["data.job.json", "data.json"]


def test_the_plugin_is_the_installed_one(reader: Reader) -> None:
    status, said = reader.run(["python", "-m", "tests.hosts.lerobot.where"])
    assert status == 0, said
    assert Path(said.split()[-1]).is_relative_to(reader.root / "env")


def test_the_front_pages_run_is_the_default_recipe(reader: Reader) -> None:
    """`--steps` is the total, the VLM trains as by the host's own command, and the rates follow each stage."""
    first, second = (reader.home / f"outputs/mine/stage{stage}/checkpoints/last/pretrained_model" for stage in (1, 2))
    one, two = read_record(first), read_record(second)
    assert (one.steps, two.steps) == (1, 3)  # of 1 and 19999
    assert (one.recipe.vlm, two.recipe.vlm) == ("full", "full")
    assert one.vlm == one.vlm_start == two.vlm_start != two.vlm
    told = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert [config["scheduler_decay_steps"] for config in told] == [2, 29998]
    # The same command goes on where it stopped: at the end. Its steps are what the shortened run took.
    command = next(c.text for c in PAGES["README.md"] if "apt-plugin run" in c.text)
    status, log = reader.run([*shlex.split(command.replace("--steps=20000", "--steps=4")), "--resume=true"])
    assert status == 0, log[-3000:]
    assert "Stage 1 is finished" in log
    assert "Stage 2 is finished" in log
