"""Served as trained, at the action output: flags of the training command are not in the config that a server names.

Both trainers, the documented serve command, the run's folder instead of its step, and the entry point of the patches.
"""

from __future__ import annotations

import numpy as np
import pytest

from apt_plugin.stages import read_record
from tests.hosts.openpi import bases, tiny
from tests.hosts.openpi.test_round_trip import (
    SCRIPTS,
    kill,
    log_of,
    observation,
    pytestmark,  # noqa: F401
    start,
    stock_python,
    wait_for_server,
)
from tests.ports import free_port

NAME = "pi05_libero"  # its config: action_horizon 10, no state
FLAGS = ("--model.discrete-state-input", "--model.action-horizon=6")
FIXED = {"APT_TEST_FIXED": "1"}  # the port draws unseeded noise for each answer
STATES = (0.0, 0.5)

DIRECT = f"""
import dataclasses, sys
import numpy as np
import tests.hosts.openpi.preload
from openpi.policies import policy_config
from openpi.training import config
from apt_plugin.hosts.openpi import patched
from apt_plugin.hosts.openpi.derive import derive
from apt_plugin.recipe import from_flat
from tests.hosts.openpi.test_served import observations

stock = config.get_config("{NAME}")
model = dataclasses.replace(stock.model, discrete_state_input=True, action_horizon=6)
meant = derive(dataclasses.replace(stock, model=model), 1, from_flat({{}}))  # by hand, from the command's flags
for out, made in (("meant", meant), ("patched", patched.checkpoint(stock, sys.argv[1]))):
    policy = policy_config.create_trained_policy(made, sys.argv[1])
    np.save(out + ".npy", [policy.infer(frame)["actions"] for frame in observations()])
"""


def observations() -> list[dict]:
    return [{**observation(), "observation/state": np.full(8, value, np.float32)} for value in STATES]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("openpi_served")


@pytest.fixture(scope="module", params=["jax", "torch"])
def folder(root, request):
    """Stage 1 of one step: with openpi's PyTorch trainer alone that saves nothing."""
    more = [f"--exp-name={request.param}", "--num-train-steps=1", *FLAGS, "--recipe", "apt", "--apt.stage", "1"]
    script = SCRIPTS / "train.py"
    if request.param == "torch":
        script = SCRIPTS / "train_pytorch.py"
        model = tiny.stock("pi05", action_dim=32)
        base = bases.write_torch(bases.write_jax(root / "pi05_base", model), root / "base_pytorch", model)
        more.append(f"--pytorch-weight-path={base}")
    assert start(root, str(script), NAME, *more, **FIXED).wait() == 0, log_of(root)
    run = root / f"checkpoints/{NAME}_apt1/{request.param}"
    return run / ("0" if request.param == "jax" else "1")


def test_one_step_leaves_one_checkpoint(folder):
    record = read_record(folder / "assets")
    assert record.steps == 1
    assert "base" in str(record.base), "a card names what training began with"
    assert [path.name for path in folder.parent.iterdir() if path.name.isdigit()] == [folder.name]


@pytest.fixture(scope="module")
def direct(root, folder):
    """(actions of the config made by hand, of the one that the patches' entry point gives)"""
    done = stock_python(root, DIRECT, str(folder), **FIXED)
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.load(root / f"{name}.npy") for name in ("meant", "patched")]


@pytest.mark.parametrize("named", ["step", "run"])
def test_the_server_acts_as_the_policy_that_was_trained(root, folder, direct, named):
    from openpi_client import websocket_client_policy

    meant, patched = direct
    assert meant.shape == (len(STATES), 6, 7)
    assert np.abs(meant[0] - meant[1]).max() > 1e-3  # it reads its state
    np.testing.assert_array_equal(patched, meant)
    port, begin = free_port(), len((root / "log.txt").read_text())
    where = folder if named == "step" else folder.parent
    process = start(
        root, str(SCRIPTS / "serve_policy.py"), f"--port={port}", "policy:checkpoint",
        f"--policy.config={NAME}", f"--policy.dir={where}", **FIXED,
    )  # fmt: skip
    try:
        wait_for_server(process, port, root)
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port)
        served = np.stack([client.infer(frame)["actions"] for frame in observations()])
    finally:
        kill(process)
    np.testing.assert_allclose(served, meant, atol=1e-5)
    said = (root / "log.txt").read_text()[begin:]
    for line in ("action_horizon is 6, as", "discrete_state_input is True, as"):
        assert said.count(f"APT: {line} this checkpoint was trained ({NAME} says") == 1
