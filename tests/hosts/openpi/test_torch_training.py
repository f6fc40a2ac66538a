"""openpi's own scripts/train_pytorch.py and serve_policy.py under the launcher: train, kill, resume, prove, switch,
serve, refuse; and two gloo processes against one. Tiny model, loopback."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from apt_plugin.stages import read_record
from tests.hosts.openpi.test_round_trip import (
    SCRIPTS,
    ask_server,
    direct,
    kill,
    log_of,
    pytestmark,  # noqa: F401
    start,
    stock_python,
    wait_for,
)

FAMILY = "pi05"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("openpi_torch")


def train(root, stage, *more, launcher=(), **environment):
    recipe = ["--recipe", "apt", "--apt.stage", stage, "--apt.noise_draws", "2", "--apt.gap_every", "1"]
    recipe += ["--apt.listen", "0"]
    command = [*launcher, str(SCRIPTS / "train_pytorch.py"), f"tiny_{FAMILY}", *recipe, *more]
    return start(root, *command, **environment)


@pytest.fixture(scope="module")
def first(root):
    """Stage 1, killed behind its first checkpoint and resumed."""
    run = root / f"checkpoints/tiny_{FAMILY}_apt1/e1"
    process = train(root, "1", "--num-train-steps=4")
    wait_for(run / "2" / "assets" / "apt.json", process)
    kill(process)
    assert train(root, "1", "--num-train-steps=4", "--resume").wait() == 0, log_of(root)
    return run


@pytest.fixture(scope="module")
def second(root, first):
    assert train(root, "2", "--num-train-steps=4", "--apt.vlm", "frozen").wait() == 0, log_of(root)
    return root / f"checkpoints/tiny_{FAMILY}_apt2/e1" / "4"


def test_a_killed_run_resumes_with_one_curve_and_an_untouched_vlm(first):
    whole = read_record(first / "4" / "assets")
    assert whole.steps == 4
    assert list(whole.curve.points("loss")[0]) == [0.5, 1.5, 2.5, 3.5]
    assert whole.vlm == whole.vlm_start == read_record(first / "2" / "assets").vlm
    moved = [load_file(first / step / "model.safetensors")["action_in_proj.weight"] for step in ("2", "4")]
    assert not torch.equal(*moved)


def test_the_contracts_hold_on_the_checkpoint(root, first):
    """`apt-plugin prove` on what train_pytorch.py wrote; --apt.stage both runs the same between its stages."""
    done = start(root, "prove", str(first / "4"), plain=True).wait()
    assert done == 0, log_of(root)


def test_stage_2_starts_from_it_and_tells_the_gap(first, second):
    record = read_record(second / "assets")
    assert (record.stage, record.stage1["steps"]) == (2, 4)
    assert record.vlm == read_record(first / "4" / "assets").vlm
    assert {"loss", "gate_mean", "blank_gap_train"} <= record.curve.sums.keys()
    gaps = record.curve.points("blank_gap_train")[1]
    assert gaps[0] == 0  # closed at the switch
    assert np.abs(gaps[1:]).max() > 0


@pytest.mark.parametrize("stage", [1, 2])
def test_stock_pytorch_refuses_it_in_words(root, first, second, stage):
    folder = second if stage == 2 else first / "4"
    load = (
        "import sys, tests.hosts.openpi.preload\n"
        "from openpi.training import config\n"
        f"stock = config.get_config('tiny_{FAMILY}')\n"
    )
    serve = (
        load + "from openpi.policies import policy_config\npolicy_config.create_trained_policy(stock, sys.argv[1])\n"
    )
    train_from = load + (
        f"sys.path.insert(0, {str(SCRIPTS.parent)!r})\n"
        "import dataclasses\n"
        "from scripts import train_pytorch\n"
        "stock = dataclasses.replace(stock, exp_name='stock', overwrite=True, pytorch_weight_path=sys.argv[1])\n"
        "train_pytorch.train_loop(stock)\n"
    )
    for code in (serve, train_from):
        done = stock_python(root, code, str(folder))
        assert done.returncode != 0
        assert "apt_plugin_checkpoint" in done.stderr


def test_the_server_answers_what_direct_inference_answers(root, second):
    fixed = {"APT_TEST_FIXED": "1"}  # the port draws unseeded noise for each answer
    told, served = ask_server(root, FAMILY, second, **fixed)
    assert (told["stage"], told["config"]) == (2, f"tiny_{FAMILY}")
    assert np.isfinite(served).all()
    np.testing.assert_allclose(served, direct(root, FAMILY, second, **fixed), atol=1e-5)


def test_two_gloo_processes_take_the_steps_of_one(root):
    """torchrun with the host's own trainer: same losses and weights as one process, since noise belongs to a frame."""
    launchers = {"one": (), "two": ("torchrun", "--standalone", "--nproc_per_node=2")}
    found = {}
    for name, launcher in launchers.items():
        flags = [f"--exp-name={name}", "--num-train-steps=4", "--save-interval=4"]
        process = train(root, "1", *flags, launcher=launcher, APT_TEST_FIXED="1", OMP_NUM_THREADS="1")
        assert process.wait() == 0, log_of(root)
        folder = root / f"checkpoints/tiny_{FAMILY}_apt1/{name}/4"
        found[name] = read_record(folder / "assets"), load_file(folder / "model.safetensors")
    losses = [np.array(record.curve.points("loss")[1]) for record, _ in found.values()]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(set(losses[0])) == 4  # every step has noise of its own
    one, two = (weights for _, weights in found.values())
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name].float(), two[name].float(), atol=1e-5, err_msg=name)
