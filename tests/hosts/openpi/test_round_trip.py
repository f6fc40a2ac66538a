"""Train, kill, resume, switch, serve, ask: by openpi's own scripts under the launcher, on a tiny model, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import openpi
import pytest

from apt_plugin.stages import read_record

SCRIPTS = Path(openpi.__file__).parents[2] / "scripts"
REPOSITORY = Path(__file__).parents[3]
FAMILY = "pi05"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not (SCRIPTS / "train.py").is_file(), reason="openpi is no checkout here: no scripts/train.py"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("openpi")


def start(root: Path, *command: str) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY), "APT_PRELOAD": "tests.hosts.openpi.preload", "APT_TEST_ROOT": str(root),
        "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu", "WANDB_MODE": "disabled",
    }  # fmt: skip
    log = open(root / "log.txt", "a")  # noqa: SIM115
    return subprocess.Popen(
        [sys.executable, "-m", "apt_plugin", "run", *command],
        cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def train(root: Path, stage: str, *more: str) -> subprocess.Popen:
    recipe = ["--recipe", "apt", "--apt.stage", stage, "--apt.noise_draws", "2", "--apt.gap_every", "1"]
    return start(root, str(SCRIPTS / "train.py"), f"tiny_{FAMILY}", *recipe, *more)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 1200) -> None:
    end = time.time() + seconds
    while not path.exists():
        assert process.poll() is None, "the process ended early, see log.txt"
        assert time.time() < end, f"{path} did not appear"
        time.sleep(0.2)


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)  # the group that start_new_session made: this process and its children
    process.wait()


@pytest.fixture(scope="module")
def first(root):
    """Stage 1, killed behind its first checkpoint and resumed."""
    run = root / f"checkpoints/tiny_{FAMILY}_apt1/e1"
    process = train(root, "1", "--num-train-steps=6")
    wait_for(run / "2" / "assets" / "apt.json", process)
    kill(process)
    half = read_record(run / "2" / "assets")
    assert train(root, "1", "--num-train-steps=6", "--resume").wait() == 0, (root / "log.txt").read_text()[-3000:]
    return run, half


@pytest.fixture(scope="module")
def second(root, first):
    assert train(root, "2", "--num-train-steps=3").wait() == 0, (root / "log.txt").read_text()[-3000:]
    return root / f"checkpoints/tiny_{FAMILY}_apt2/e1" / "2"


def test_a_killed_run_resumes_with_one_curve_and_an_untouched_vlm(first):
    run, half = first
    whole = read_record(run / "5" / "assets")
    assert (half.steps, whole.steps) == (3, 6)
    assert list(whole.curve.points("loss")[0]) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    # ema_decay is the host's 0.99: its average over bfloat16 leaves would have moved the VLM
    assert whole.vlm == whole.vlm_start == half.vlm


def test_stage_2_starts_from_it_and_says_so(first, second):
    run, _ = first
    record = read_record(second / "assets")
    assert record.stage == 2
    assert record.stage1["steps"] == 6
    assert record.vlm == read_record(run / "5" / "assets").vlm
    assert {"gate_mean", "blank_gap_train"} <= record.curve.sums.keys()


def test_a_stock_server_refuses_and_says_why(second):
    from openpi.training import checkpoints

    with pytest.raises(ValueError, match="checkpoint of apt-plugin"):
        checkpoints.load_norm_stats(second / "assets", "local/toy")


def test_the_server_answers_what_direct_inference_answers(root, second):
    from openpi_client import websocket_client_policy

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(
        root, str(SCRIPTS / "serve_policy.py"), f"--port={port}", "policy:checkpoint",
        f"--policy.config=tiny_{FAMILY}", f"--policy.dir={second}",
    )  # fmt: skip
    try:
        end = time.time() + 900
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (root / "log.txt").read_text()[-3000:]
                assert time.time() < end
                time.sleep(1)
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port)
        told = client.get_server_metadata()["apt"]
        served = client.infer(observation())["actions"]
    finally:
        kill(process)
    assert (told["stage"], told["config"]) == (2, f"tiny_{FAMILY}")
    assert told["recipe"]["noise_draws"] == 2
    np.testing.assert_allclose(served, direct(root, second), atol=1e-5)
    assert np.isfinite(served).all()


def observation() -> dict:
    rng = np.random.default_rng(0)
    return {
        "observation/state": rng.random(8).astype(np.float32),
        "observation/image": rng.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "prompt": "push the red cube",
    }


def direct(root: Path, folder: Path) -> np.ndarray:
    """The same checkpoint, opened without a server by a process that derives the config by hand."""
    code = (
        "import sys, numpy as np\n"
        "import tests.hosts.openpi.preload\n"
        "from openpi.policies import policy_config\n"
        "from openpi.training import config\n"
        "from apt_plugin.hosts.openpi.derive import derive\n"
        "from apt_plugin.stages import read_record\n"
        "from tests.hosts.openpi.test_round_trip import observation\n"
        "from pathlib import Path\n"
        "record = read_record(Path(sys.argv[1]) / 'assets')\n"
        f"made = derive(config.get_config('tiny_{FAMILY}'), record.stage, record.recipe)\n"
        "policy = policy_config.create_trained_policy(made, sys.argv[1])\n"
        "np.save(sys.argv[2], policy.infer(observation())['actions'])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "APT_TEST_ROOT": str(root)}
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(root / "a.npy")], env=environment, check=True, cwd=root
    )
    return np.load(root / "a.npy")
