"""Train, kill, resume, switch, serve, ask: by openpi's own scripts under the launcher, on a tiny model, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import openpi
import pytest

from apt_plugin.stages import read_record
from tests import processes
from tests.ports import free_port

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


def environment(root: Path, **more: str) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(REPOSITORY), "APT_PRELOAD": "tests.hosts.openpi.preload", "APT_TEST_ROOT": str(root),
        "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu", "WANDB_MODE": "disabled",
    } | more  # fmt: skip


def start(root: Path, *command: str, plain: bool = False, **more: str) -> subprocess.Popen:
    """`apt-plugin run <command>`, or `apt-plugin <command>` where plain."""
    log = open(root / "log.txt", "a")  # noqa: SIM115
    command = command if plain else ("run", *command)
    return processes.start(
        [sys.executable, "-m", "apt_plugin", *command],
        cwd=root, env=environment(root, **more), stdout=log, stderr=log,
    )  # fmt: skip


def stock_python(root: Path, code: str, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    """A process of openpi in which nothing of the plugin was named (the preload brings configs and sizes)."""
    command = [sys.executable, "-c", code, *arguments]
    return processes.run(command, cwd=root, env=environment(root, **more))


def log_of(root: Path) -> str:
    return (root / "log.txt").read_text()[-3000:]


def train(root: Path, stage: str, *more: str, **env: str) -> subprocess.Popen:
    recipe = ["--recipe", "apt", "--apt.stage", stage, "--apt.noise_draws", "2", "--apt.gap_every", "1"]
    recipe += ["--apt.listen", "0"]
    return start(root, str(SCRIPTS / "train.py"), f"tiny_{FAMILY}", *recipe, *more, **env)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 1200) -> None:
    end = time.time() + seconds
    while not path.exists():
        assert process.poll() is None, "the process ended early, see log.txt"
        assert time.time() < end, f"{path} did not appear"
        time.sleep(0.2)


def kill(process: subprocess.Popen) -> None:
    processes.end(process)


@pytest.fixture(scope="module")
def first(root):
    """Stage 1, killed behind its first checkpoint and resumed."""
    run = root / f"checkpoints/tiny_{FAMILY}_apt1/e1"
    process = train(root, "1", "--num-train-steps=6")
    wait_for(run / "2" / "assets" / "apt.json", process)
    kill(process)
    half = read_record(run / "2" / "assets")
    assert train(root, "1", "--num-train-steps=6", "--resume").wait() == 0, log_of(root)
    return run, half


@pytest.fixture(scope="module")
def second(root, first):
    assert train(root, "2", "--num-train-steps=3", "--apt.vlm", "frozen").wait() == 0, log_of(root)
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


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stock_config_refuses_to_serve_it_or_to_train_from_it(root, first, second, stage):
    """Neither the gates dropped in silence nor a prior served as if it listened: openpi stops, in words."""
    folder = second if stage == 2 else first[0] / "5"
    load = (
        "import sys, tests.hosts.openpi.preload\n"
        "from openpi.training import config, weight_loaders\n"
        f"stock = config.get_config('tiny_{FAMILY}')\n"
    )
    serve = (
        load + "from openpi.policies import policy_config\npolicy_config.create_trained_policy(stock, sys.argv[1])\n"
    )
    train_from = load + (
        "import jax\n"
        "from flax import nnx\n"
        "shapes = nnx.state(nnx.eval_shape(stock.model.create, jax.random.key(0))).to_pure_dict()\n"
        "weight_loaders.CheckpointWeightLoader(sys.argv[1] + '/params').load(shapes)\n"
    )
    for code in (serve, train_from):
        done = stock_python(root, code, str(folder))
        assert done.returncode != 0
        assert "checkpoint of apt-plugin" in done.stderr


def test_stage_1_may_start_from_stage_1_and_not_from_stage_2(first, second, monkeypatch):
    from openpi.training import weight_loaders

    from apt_plugin.errors import AptError
    from apt_plugin.hosts.openpi import loading

    loading.check_base(weight_loaders.CheckpointWeightLoader(str(first[0] / "5" / "params")))
    with pytest.raises(AptError, match="Stage-2 result"):
        loading.check_base(weight_loaders.CheckpointWeightLoader(str(second / "params")))


def test_stage_2_with_a_trained_vlm_takes_it_from_the_base_in_full_precision(root, first):
    """Stage 1 keeps the VLM in bfloat16; a Stage 2 that trains it must not start from rounded values."""
    more = ["--exp-name=full", "--num-train-steps=2", "--apt.preset", "listening", "--apt.stage2.from", str(first[0])]
    assert train(root, "2", *more).wait() == 0, log_of(root)
    record = read_record(root / f"checkpoints/tiny_{FAMILY}_apt2/full/1/assets")
    assert record.vlm != record.vlm_start  # it trains
    code = (
        "import sys, jax, numpy as np, tests.hosts.openpi.preload as preload\n"
        "from flax import nnx\n"
        "from openpi.training import config\n"
        "from apt_plugin.hosts.openpi import loading\n"
        "from apt_plugin.hosts.openpi.derive import derive\n"
        "from apt_plugin.hosts.openpi.optim import part_of\n"
        "from apt_plugin.recipe import from_flat\n"
        f"stock = config.get_config('tiny_{FAMILY}')\n"
        "made = derive(stock, 2, from_flat({'vlm': 'full'}), sys.argv[1])\n"
        "shapes = nnx.state(nnx.eval_shape(made.model.create, jax.random.key(0)), nnx.Param).to_pure_dict()\n"
        "loaded = loading.flat(made.weight_loader.load(shapes))\n"
        "base = loading.flat(preload.Opened().load({n: v for n, v in shapes.items() if n != 'apt_fusion'}))\n"
        "stored = loading.flat(loading.read_params(sys.argv[1] + '/5/params', restore_type=np.ndarray))\n"
        "rounded = 0\n"
        "for name, value in stored.items():\n"
        "    if part_of(name) == 'vlm':\n"
        "        assert loaded[name].dtype == np.float32\n"
        "        np.testing.assert_array_equal(loaded[name], base[name])\n"
        "        rounded += bool((value.astype(np.float32) != base[name]).any())\n"
        "    else:\n"
        "        np.testing.assert_array_equal(loaded[name], value)\n"
        "assert rounded > 10, rounded\n"
    )
    done = stock_python(root, code, str(first[0]))
    assert done.returncode == 0, done.stderr[-3000:]


def ask_server(root: Path, family: str, folder: Path, **more: str) -> tuple[dict, np.ndarray]:
    """(metadata, actions) from the host's server under the launcher, by an unmodified client."""
    port = free_port()
    process = start(
        root, str(SCRIPTS / "serve_policy.py"), f"--port={port}", "policy:checkpoint",
        f"--policy.config=tiny_{family}", f"--policy.dir={folder}", **more,
    )  # fmt: skip
    return ask(process, port, root)


def wait_for_server(process: subprocess.Popen, port: int, root: Path) -> None:
    end = time.time() + 900
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5)
            return
        except OSError:
            assert process.poll() is None, log_of(root)
            assert time.time() < end
            time.sleep(1)


def ask(process: subprocess.Popen, port: int, root: Path) -> tuple[dict, np.ndarray]:
    """What a server that is starting says to openpi-client; the server is ended."""
    from openpi_client import websocket_client_policy

    try:
        wait_for_server(process, port, root)
        client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port)
        return client.get_server_metadata()["apt"], client.infer(observation())["actions"]
    finally:
        kill(process)


def test_the_server_answers_what_direct_inference_answers(root, second):
    told, served = ask_server(root, FAMILY, second)
    assert (told["stage"], told["config"]) == (2, f"tiny_{FAMILY}")
    assert told["recipe"]["noise_draws"] == 2
    assert told["versions"].keys() == {"apt-plugin", "openpi"}
    np.testing.assert_allclose(served, direct(root, FAMILY, second), atol=1e-5)
    assert np.isfinite(served).all()


def observation() -> dict:
    rng = np.random.default_rng(0)
    return {
        "observation/state": rng.random(8).astype(np.float32),
        "observation/image": rng.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "prompt": "push the red cube",
    }


def direct(root: Path, family: str, folder: Path, **more: str) -> np.ndarray:
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
        f"made = derive(config.get_config('tiny_{family}'), record.stage, record.recipe)\n"
        "policy = policy_config.create_trained_policy(made, sys.argv[1])\n"
        "np.save(sys.argv[2], policy.infer(observation())['actions'])\n"
    )
    done = stock_python(root, code, str(folder), str(root / "a.npy"), **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(root / "a.npy")
