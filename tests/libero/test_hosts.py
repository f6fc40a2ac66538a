"""The clients of openpi and Isaac GR00T, as they stand in their checkouts, are handed the sentence that is scored.

Skips where LIBERO or the host's client does not import. The policy that openpi's client asks answers zeros: what it is
told is what is looked at.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_plugin.libero import suites
from tests import processes
from tests.ports import free_port

pytest.importorskip("libero.libero.benchmark", reason="LIBERO does not import here")

BOTTOM = "open the bottom drawer of the cabinet"


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_openpis_own_client_tells_the_policy_what_is_scored(tmp_path: Path) -> None:
    """It knows five suites by name: another one stands under one of these. One decision an episode."""
    client = pytest.importorskip("openpi_client", reason="openpi's client does not import here")
    for module in ("imageio", "websockets", "robosuite"):
        pytest.importorskip(module, reason=f"{module}, which openpi's client needs, does not import here")
    if os.environ.get("MUJOCO_GL") != "egl":
        pytest.skip("nothing renders here: set MUJOCO_GL=egl PYOPENGL_PLATFORM=egl")
    script = Path(client.__file__).parents[4] / "examples" / "libero" / "main.py"
    if not script.is_file():
        pytest.skip("openpi is no checkout here: no examples/libero/main.py")
    heard, port, reached = Heard(), free_port(), tmp_path / "reached.jsonl"
    with heard.serving(port):
        process = processes.start([
            sys.executable, "-m", "apt_plugin.libero", "--as",
            "libero_object=libero_object_counterfactual", "--reached", reached,
            script, "--args.host=127.0.0.1", f"--args.port={port}", "--args.task-suite-name=libero_object",
            "--args.num-trials-per-task=1", "--args.num-steps-wait=-279", f"--args.video-out-path={tmp_path}",
        ])  # fmt: skip
        try:
            assert heard.two.wait(900), heard.prompts
        finally:
            processes.end(process)
    asked = [suites.of("libero_object_counterfactual").get_task(index).language for index in (0, 1)]
    assert heard.prompts[:2] == asked
    assert asked[0] == "pick up the cream cheese and place it in the basket", "in the scene of the alphabet soup"
    first = json.loads(reached.read_text().splitlines()[0])
    assert (first["suite"], first["task"], first["sentence"]) == ("libero_object_counterfactual", 0, asked[0])
    assert (first["named"], first["usual"]) == (["cream_cheese_1"], ["alphabet_soup_1"])


class Heard:
    """A policy behind openpi's wire format."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.two = threading.Event()

    def serving(self, port: int) -> Any:
        from websockets.sync.server import serve

        server = serve(self.answer, "127.0.0.1", port, compression=None, max_size=None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def answer(self, socket: Any) -> None:
        from openpi_client import msgpack_numpy

        socket.send(msgpack_numpy.packb({}))
        for message in socket:
            self.prompts.append(msgpack_numpy.unpackb(message)["prompt"])
            socket.send(msgpack_numpy.packb({"actions": np.full((5, 7), 0.1, np.float32)}))
            if len(self.prompts) == 2:
                self.two.set()


def test_isaac_gr00ts_own_environments_tell_what_is_scored(tmp_path: Path) -> None:
    """It registers an environment for each task of five suites, here in a process that its client spawns."""
    pytest.importorskip("gr00t.eval.rollout_policy", reason="Isaac GR00T does not import here")
    pytest.importorskip("robosuite", reason="LIBERO's simulator (robosuite, mujoco) does not import here")
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "def told(task):\n"
        "    import gymnasium\n    from gr00t.eval.sim.LIBERO.libero_env import register_libero_envs\n"
        "    register_libero_envs()\n    return gymnasium.spec(f'libero_sim/{task}').kwargs['task_description']\n"
        "if __name__ == '__main__':\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print('told', *pool.map(told, sys.argv[1:]), sep='|')\n"
    )
    soup, cream = (f"pick_up_the_{name}_and_place_it_in_the_basket" for name in ("alphabet_soup", "cream_cheese"))
    asked = ["open_the_middle_drawer_of_the_cabinet", f"{soup}__{cream}"]
    done = processes.run([
        sys.executable, "-m", "apt_plugin.libero", "--as", "libero_goal=libero_goal_task", "--as",
        "libero_object=libero_object_counterfactual", script, *asked,
    ])  # fmt: skip
    assert f"told|{BOTTOM}|{cream.replace('_', ' ')}" in done.stdout, done.stderr
