"""Policies behind the hosts' own servers, as actors of `tabletop.rollout`: asked in LIBERO's layout (`libero.py`).

Each leg of an episode (`arm.HORIZON` steps) is one question, of whose answer the first `arm.HORIZON` actions are done.

Shape legend: `B` episodes of a batch, `P` image side in pixels.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.tabletop import arm, libero

PATIENCE = 600.0  # seconds that a server may need to load a model
LANGUAGE = f"annotation.{libero.LANGUAGE}"


class Served:
    """What the servers have in common; a subclass says how one question is put."""

    def __init__(self) -> None:
        self._queue: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget the queued actions of the last episodes."""
        self._queue = []

    def act(self, images: np.ndarray, state: np.ndarray, tasks: list[str]) -> np.ndarray:
        """images uint8 (B, P, P, 3), state float32 (B, 3), tasks of length B -> action float32 (B, 3).

        Raises:
            AptError: the server's chunk is no (B, T >= `arm.HORIZON`, 7).
        """
        if not self._queue:
            chunk = self.ask(libero.pictures(images), libero.states(state), tasks)
            if chunk.ndim != 3 or chunk.shape[1] < arm.HORIZON or chunk.shape[2] < libero.ACTION:
                raise AptError(
                    f"The server's actions have shape {chunk.shape}; needed (episodes, {arm.HORIZON} or more, "
                    f"{libero.ACTION}): a policy trained on `apt-plugin tabletop data`, under a LIBERO config."
                )
            self._queue = list(libero.poses(chunk).swapaxes(0, 1)[: arm.HORIZON])
        return self._queue.pop(0)

    def ask(self, images: np.ndarray, states: np.ndarray, tasks: list[str]) -> np.ndarray:
        """uint8 (B, Q, Q, 3), float32 (B, 8), B texts -> float (B, T, 7)."""
        raise NotImplementedError


class Openpi(Served):
    """A running `scripts/serve_policy.py`, of any config with openpi's LIBERO transforms."""

    def __init__(self, host: str, port: int, patience: float = PATIENCE):
        super().__init__()
        with _client("openpi_client"):
            from openpi_client.websocket_client_policy import WebsocketClientPolicy
        end = time.monotonic() + patience  # the client itself would wait for ever
        while not _listens(host, port):
            if time.monotonic() > end:
                raise AptError(f"No openpi server answered at {host}:{port} within {patience:g} s.")
            time.sleep(1)
        self.client = WebsocketClientPolicy(host, port)

    def ask(self, images: np.ndarray, states: np.ndarray, tasks: list[str]) -> np.ndarray:
        answers = []
        for image, state, task in zip(images, states, tasks, strict=True):
            seen = {"observation/image": image, "observation/wrist_image": np.zeros_like(image)}
            answers.append(self.client.infer({**seen, "observation/state": state, "prompt": task})["actions"])
        return np.stack(answers)


class Gr00t(Served):
    """A running `gr00t/eval/run_gr00t_server.py` with a LIBERO embodiment."""

    def __init__(self, host: str, port: int, patience: float = PATIENCE):
        super().__init__()
        with _client("gr00t"):
            from gr00t.policy.server_client import PolicyClient
        self.client = PolicyClient(host=host, port=port, timeout_ms=int(1000 * patience))
        if not self.client.ping():
            raise AptError(f"No Isaac GR00T server answered at {host}:{port} within {patience:g} s.")

    def ask(self, images: np.ndarray, states: np.ndarray, tasks: list[str]) -> np.ndarray:
        parts = {name: states[:, None, at : at + 1] for at, name in enumerate(libero.AXES)}
        seen = {
            "video": {"image": images[:, None], "wrist_image": np.zeros_like(images[:, None])},
            "state": {**parts, "gripper": states[:, None, len(libero.AXES) :]},
            "language": {LANGUAGE: [[task] for task in tasks]},
        }
        answer, _ = self.client.get_action(seen)
        return np.concatenate([np.asarray(answer[name]) for name in libero.PARTS], axis=2)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def _client(name: str) -> Iterator[None]:
    """Around the import of a client."""
    try:
        yield
    except ImportError as error:
        raise AptError(
            f"{name} does not import here ({error}); run this where the client is installed: "
            "`pip install openpi-client` (from openpi's packages/), or Isaac GR00T's environment."
        ) from error


SERVERS = {"openpi": Openpi, "gr00t": Gr00t}


def connect(address: str) -> Served:
    """`openpi:HOST:PORT` or `gr00t:HOST:PORT`.

    Raises:
        AptError: another form, or no client here.
    """
    kind, _, rest = address.partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in SERVERS or not host or not port.isdecimal():
        raise AptError(f"--server is {address!r}; write openpi:127.0.0.1:8000 or gr00t:127.0.0.1:5555.")
    return SERVERS[kind](host, int(port))
