"""A reader of the documents, on a machine of their own: one process with lerobot imported does what is typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests import documents, processes
from tests.hosts.lerobot import datasets

REFUSED = {"apt-plugin export CHECKPOINT OUT": "cannot be exported"}  # what the page says of a π checkpoint
SERVER = 8080  # the host's own port


class Reader:
    """Types commands into one shell; `source`: with the plugin of this checkout, installed or not."""

    def __init__(self, root: Path, python: Path, source: bool = False):
        self.root, self.home, self.shell = root, root / "home", {}
        self.home.mkdir()
        env = {**datasets.ENVIRONMENT, "HF_HOME": str(root / "hf"), "HF_LEROBOT_HOME": str(root / "data")}
        here = [documents.ROOT, documents.ROOT / "lerobot_policy_apt/src"] if source else []
        env["PYTHONPATH"] = os.pathsep.join(map(str, [root / "tests_only", *here]))
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
