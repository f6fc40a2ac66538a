"""A reader of the documents, at a shell: types the commands of a page as they stand there.

What a command exports or assigns the next one has. A server is started, waited for, and ended when the page is over or
the next server starts. For the hosts that run outside CI; lerobot's tests have a quicker one.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests import processes

# A command of a page may be a whole staged run: eight processes, one after the other. With a cache one took over 900 s
# beside seven other jobs on two cores, and was not hung.
HANG = 4 * processes.HANG
SERVERS = {"serve_policy.py": 8000, "run_gr00t_server.py": 5555}  # the hosts' own ports


class Reader:
    """One shell.

    Args:
        folder: where the commands are typed. programs: name -> script that stands for it on the PATH.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], programs: Mapping[str, str]):
        self.folder, self.server = folder, None
        self.own = folder / ".reader"
        (self.own / "bin").mkdir(parents=True)
        for name, script in programs.items():
            (self.own / "bin" / name).write_text(script)
            (self.own / "bin" / name).chmod(0o755)
        self.env = {**env, "PATH": f"{self.own / 'bin'}:{env['PATH']}"}

    def type(self, text: str) -> str:
        """One command to its end; what it printed.

        Raises:
            AssertionError: it failed, with the end of what it printed.
        """
        port = next((port for name, port in SERVERS.items() if name in text), None)
        if port is not None:
            return self._serve(text, int(found[1]) if (found := re.search(r"--port[ =](\d+)", text)) else port)
        done = processes.run(["bash", "-c", self._whole(text)], cwd=self.folder, env=self.env,
                             timeout=HANG, stderr=subprocess.STDOUT)  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout[-5000:]}"
        return done.stdout

    def _whole(self, text: str) -> str:
        state = self.own / "state"
        return f"set -a; [ -f {state} ] && . {state}\n{text}\nstatus=$?; export -p > {state}; exit $status"

    def _serve(self, text: str, port: int) -> str:
        self.close()
        log = self.own / "server.log"
        with open(log, "w") as file:
            self.server = processes.start(
                ["bash", "-c", self._whole(text)], cwd=self.folder, env=self.env, stdout=file, stderr=file
            )
        end = time.monotonic() + processes.HANG
        while True:
            with socket.socket() as asked:
                if not asked.connect_ex(("127.0.0.1", port)):
                    return log.read_text()
            assert self.server.poll() is None, f"{text}\n{log.read_text()[-5000:]}"
            assert time.monotonic() < end, f"{text}\n{log.read_text()[-5000:]}"
            time.sleep(0.5)

    def close(self) -> None:
        """End the server of the page, if there is one."""
        if self.server is not None:
            processes.end(self.server)
        self.server = None
