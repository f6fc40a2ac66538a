"""A prompt that cannot be read is an error answer, and the connection stays: openpi's own server and client."""

from __future__ import annotations

import asyncio
import socket
import threading

import numpy as np
import pytest
import websockets.asyncio.server as ws
from openpi.serving.websocket_policy_server import WebsocketPolicyServer
from openpi_client.base_policy import BasePolicy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from apt_plugin.hosts.openpi import serving
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt, kept_bound
from tests.hosts.openpi import tiny


class Policy(BasePolicy):
    """Answers with the number of tokens; a robot's observation goes through our own transform."""

    def __init__(self):
        self.step = AptTokenizePrompt(tiny.Tokenizer(), 24, False, kept_bound(24, 7, False), require_prompt=True)

    def infer(self, obs: dict) -> dict:
        if obs.get("broken"):
            raise KeyError("an error of the host's own")
        return {"tokens": int(self.step(obs)["tokenized_prompt_mask"].sum()), "actions": np.zeros((5, 7))}


@pytest.fixture
def client():
    serving.keep_connections()
    server, ready, loop = WebsocketPolicyServer(Policy(), metadata={"name": "toy"}), threading.Event(), None
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    async def run() -> None:
        nonlocal loop
        loop = asyncio.Event(), asyncio.get_running_loop()
        async with ws.serve(server._handler, "localhost", port, compression=None, max_size=None):
            ready.set()
            await loop[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(60)
    yield WebsocketClientPolicy("localhost", port)
    loop[1].call_soon_threadsafe(loop[0].set)
    thread.join(60)
    serving._REPLACED.restore()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("pick the cup " * 20, r"tokens.*24"),
        (b"\xff\xfe", "no UTF-8"),
        (np.arange(3), "Send one text"),
        (None, "has no prompt"),
    ],
    ids=["too long", "no text", "no text either", "none"],
)
def test_a_prompt_that_cannot_be_read_is_answered_and_the_connection_stays(client, prompt, words):
    """The server sent a traceback and closed: the robot's next request failed, too."""
    assert client.get_server_metadata() == {"name": "toy"}
    good = client.infer({"prompt": "pick the cup"})["tokens"]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=words) as caught:
            client.infer({"prompt": prompt} if prompt is not None else {})
        assert "Traceback" not in str(caught.value)
        assert client.infer({"prompt": b"pick the cup"})["tokens"] == good  # bytes of a text are a text


def test_an_error_of_the_hosts_own_still_closes(client):
    with pytest.raises(RuntimeError, match="Traceback"):
        client.infer({"broken": True})
    with pytest.raises(Exception, match=r"1011|Internal server error"):
        client.infer({"prompt": "pick the cup"})
