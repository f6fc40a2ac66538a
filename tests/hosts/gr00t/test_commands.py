"""The host's own commands under the recipe: both stages, resume, server and client, data without language, the hook."""

from __future__ import annotations

from tests import noise, processes

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import html
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from apt_plugin.hosts.gr00t.checkpoints import last_whole
from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny

pytestmark = pytest.mark.slow  # each starts real host processes

# Noise from zero, in the server's process as in ours, so that values can be compared.
ZEROS = """
import sys, torch
plain = torch.randn
torch.randn = lambda *a, size=None, **k: torch.zeros(size, **k) if size is not None else plain(*a, **k)
from apt_plugin.hosts.gr00t.__main__ import main
main(sys.argv[1:])
"""


def run(where, *command):
    return processes.run([sys.executable, *command], cwd=where, env=tiny.environment())


def test_both_stages_leave_records_and_an_untouched_vlm(run_of):
    first, second = (read_record(run_of / stage / "checkpoint-4") for stage in ("stage1", "stage2"))
    assert (first.stage, second.stage) == (1, 2)
    assert (first.steps, second.steps) == (4, 4)
    assert first.vlm_start == first.vlm == second.vlm_start == second.vlm
    assert second.stage1["weights"] == first.weights
    assert first.layout == second.layout
    assert first.base is not None  # what the command names; a card tells it
    assert first.base == second.base
    assert len(first.curve.points("loss")[1]) == 4
    assert second.curve.points("gate_mean")[1][0] == 0.0  # closed at the switch
    assert second.curve.points("gate_max")[1][-1] > 0.0  # and moving
    saved = json.loads((run_of / "stage1" / "checkpoint-4" / "processor_config.json").read_text())
    assert "blind" not in json.dumps(saved)


def test_the_run_says_each_fact_once(run_of):
    noise.check((run_of / "log.txt").read_text())


def test_the_run_leaves_a_report(run_of):
    """The same page as lerobot's: whether the prior was still improving, the VLM, proofs, curves, gates, settings."""
    page = (run_of / "apt_report.html").read_text()
    assert (run_of / "listen.json").is_file()  # and whether the result listens
    said = json.loads((run_of / "apt_report.json").read_text())["sections"]
    assert [part["kind"] for part in said] == [
        "title", "verdict", "curves", "proofs", "curves", "gates", "settings"
    ]  # fmt: skip
    first, second = (read_record(run_of / stage / "checkpoint-4") for stage in ("stage1", "stage2"))
    sentences = said[1]["sentences"]
    assert sentences[1] == first.trend().sentence()
    assert all(any(r.vlm[:12] in s and "bit for bit" in s for s in sentences) for r in (first, second))
    assert "blanked instruction" in sentences[0]
    assert "--dataset.eval_split" not in page  # lerobot's flag; this host has none
    assert sentences[0] in html.unescape(page)


def test_resume_goes_on_where_it_stopped(where, run_of):
    done = tiny.finetune(
        where, run_of, "--apt.fusion.kind", "host", "--apt.stage2.max-steps", "6", "--resume-from-checkpoint"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Stage 1 is finished" in done.stderr
    record = read_record(run_of / "stage2" / "checkpoint-6")
    assert record.steps == 6
    assert len(record.curve.points("loss")[1]) == 6  # one curve, no gap and no restart
    assert record.vlm == record.vlm_start


def test_server_gives_the_client_the_policys_own_actions(where, run_of):
    """Values, not shapes: the server process starts from zero noise, and so does the policy here."""
    from gr00t.policy.gr00t_policy import Gr00tPolicy
    from gr00t.policy.server_client import PolicyClient

    from apt_plugin.hosts.gr00t import register

    model = str(last_whole(run_of / "stage2"))  # the resumed one, where the test before this one ran
    server = processes.start(
        [sys.executable, "-c", ZEROS, "gr00t.eval.run_gr00t_server", "--model-path", model,
         "--embodiment-tag", tiny.TAG, "--device", "cpu", "--host", "127.0.0.1", "--port", "5673", "--recipe", "apt"],
        cwd=where, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        register()
        policy = Gr00tPolicy(tiny.TAG, model, device="cpu")
        client = PolicyClient(host="127.0.0.1", port=5673, timeout_ms=120_000)
        for _ in range(120):
            if client.ping():
                break
        plain = torch.randn
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch,
                "randn",
                lambda *a, size=None, **k: torch.zeros(size, **k) if size is not None else plain(*a, **k),
            )
            for words in ("move the block to the left", "stop"):
                seen = tiny.observation(where, words)
                theirs, _ = client.get_action(seen)
                ours, _ = policy.get_action(seen)
                assert theirs.keys() == ours.keys()
                for key in ours:
                    np.testing.assert_allclose(theirs[key], ours[key], atol=1e-6, rtol=0)
                    assert np.isfinite(ours[key]).all()
        client.kill_server()
        assert server.wait(60) == 0
    finally:
        processes.end(server)


def test_stock_server_refuses_our_checkpoint(where, run_of):
    done = run(where, "-m", "gr00t.eval.run_gr00t_server", "--model-path", str(run_of / "stage2" / "checkpoint-4"),
               "--embodiment-tag", tiny.TAG, "--device", "cpu", "--host", "127.0.0.1", "--port", "5674")  # fmt: skip
    assert done.returncode != 0
    assert "Gr00tN1d7Apt" in done.stderr


def test_the_gates_train_without_a_stage1(where, tmp_path):
    """A Stage 1 of one step, with the VLM trained: what the README advises first."""
    flags = ["--apt.preset", "listening", "--apt.stage1.max-steps", "1", "--apt.stage1.save-steps", "1"]
    done = tiny.finetune(where, tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_record(tmp_path / "out/stage1/checkpoint-1").steps == 1
    assert read_record(tmp_path / "out/stage2/checkpoint-4").stage == 2


def test_help_shows_the_hosts_flags_and_ours(where):
    done = run(where, "-m", "apt_plugin", "run", "-m", "gr00t.experiment.launch_finetune", "--recipe", "apt", "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    for flag in ("--base-model-path", "--max-steps", "--apt.noise_draws", "--apt.fusion.kind", "--apt.fusion.taps"):
        assert flag in done.stdout
    for flag in ("--apt.prove true|false", "--apt.listen FRAMES", "--apt.vlm host|frozen|lora|full"):
        assert flag in done.stdout  # the host's parser showed comments of our source, and no choices


def test_stage1_reads_data_without_any_language_and_stage2_refuses_it(where, tmp_path):
    play = tiny.dataset(tmp_path / "play", annotated=False)
    done = tiny.finetune(where, tmp_path / "out", "--apt.stage", "1", data=str(play))
    assert done.returncode == 0, done.stderr[-3000:]
    prior = tmp_path / "out" / "stage1" / "checkpoint-4"
    again = tiny.finetune(where, tmp_path / "out2", "--apt.stage", "2", base=str(prior), data=str(play))
    assert again.returncode != 0
    assert "learns from instructions" in again.stderr
    labelled = tiny.finetune(
        where,
        tmp_path / "out3",
        "--apt.stage",
        "2",
        "--apt.mix.root",
        str(play),
        "--apt.mix.share",
        "0.5",
        base=str(prior),
    )
    assert labelled.returncode == 0, labelled.stderr[-3000:]


def test_stage2_trains_the_vlm_at_its_own_rate(where, run_of, tmp_path):
    """Preset listening: the VLM moves, at half of the head's rate, and the record says that it did."""
    from safetensors.torch import load_file

    prior = run_of / "stage1" / "checkpoint-4"
    done = tiny.finetune(
        where, tmp_path, "--apt.stage", "2", "--apt.fusion.kind", "host", "--apt.preset", "listening",
        "--weight-decay", "0", base=str(prior),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "stage2" / "checkpoint-4"
    record, before = read_record(folder), load_file(prior / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert record.vlm != record.vlm_start == read_record(prior).vlm
    moved = {
        part: max(float((after[n] - before[n]).abs().max()) for n in before if part in n)
        for part in ("language_model.layers.", ".visual.", "action_head.")
    }
    kept = record.curve.points("retention")[1]  # at step 0, of a batch that has more than one instruction
    assert kept.tolist() == pytest.approx([1.0], abs=1e-6)
    # Adam's first steps move a parameter by about its rate: half of the head's here, all of it were the scale lost.
    assert 0 < moved["language_model.layers."] < 0.75 * moved["action_head."]
    assert 0 < moved[".visual."] < 0.75 * moved["action_head."]


def test_host_command_through_the_modality_flag(where, tmp_path):
    """The host's unmodified command; the user's own modality file is chained."""
    import importlib.util

    own = tmp_path / "my_modality.py"
    own.write_text("print('my own modality file was loaded')\n")
    hook = importlib.util.find_spec("apt_plugin.hosts.gr00t").submodule_search_locations[0] + "/apt_hook.py"
    environment = tiny.environment() | {
        "APT_FLAGS": "--apt.stage 1 --apt.noise_draws 2",
        "APT_MODALITY_CONFIG": str(own),
    }
    done = processes.run(
        [sys.executable, "-m", "gr00t.experiment.launch_finetune", "--base-model-path", "base2",
         "--dataset-path", "data", "--embodiment-tag", tiny.TAG, "--output-dir", str(tmp_path / "out"),
         "--max-steps", "2", "--save-steps", "2",
         "--global-batch-size", "4", "--dataloader-num-workers", "0", "--num-shards-per-epoch", "10",
         "--episode-sampling-rate", "1.0", "--modality-config-path", hook],
        cwd=where, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "my own modality file was loaded" in done.stdout
    assert read_record(tmp_path / "out" / "checkpoint-2").recipe.noise_draws == 2
