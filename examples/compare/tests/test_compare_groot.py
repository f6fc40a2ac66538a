"""The tiny grounded GR00T N1.7: its prompt is the host's, its VLM points, stock and APT policies start from it."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lerobot", reason="lerobot is not installed: its policies cannot run")
import torch

from apt_compare.groot import body as groot_body
from apt_compare.groot import grounding as groot_grounding
from apt_compare.groot import words as groot_words
from apt_plugin.errors import AptError
from apt_plugin.tabletop.data import write_training
from apt_plugin.tabletop.lessons import Lessons, scenes
from apt_plugin.tabletop.rollout import Actor, evaluate
from apt_plugin.tabletop.world import CELLS, World

TINY = groot_body.Sizes(
    vlm_width=32, vlm_mlp=32, vlm_layers=2, vlm_heads=2, kv_heads=1, head_dim=16, vision_width=16, vision_mlp=16,
    vision_heads=2, dit_width=32, dit_heads=2,
)  # fmt: skip
WORLD = World()


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Six labelled demonstrations as a LeRobotDataset."""
    return write_training(tmp_path_factory.mktemp("data") / "labelled", World(), 6, progress=False)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A complete checkpoint whose VLM has been grounded for two steps only: as good as random."""
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("groot")
    how = replace(groot_grounding.PLAIN, steps=2, batch=4, scenes=64, probe=32)
    groot_grounding.ground(directory, WORLD, how, TINY, progress=False)
    return directory


@pytest.fixture(scope="module")
def prior(body, tmp_path_factory):
    """A Stage-1 result after one step."""
    policy = groot_body.policy_of(body, "groot_apt", stage=1)
    fit(policy, processed(policy, body, 8), 1)
    folder = tmp_path_factory.mktemp("prior")
    policy.save_pretrained(folder)
    return folder


def processed(policy, body, count, words=None):
    """Training batch of first frames, by the host's own processors."""
    episodes = WORLD.training(count, seed=0)
    before, _ = groot_body.processors_of(body, policy.config)
    return before(
        {
            "observation.images.top": torch.from_numpy(episodes.render(episodes.start)).permute(0, 3, 1, 2) / 255,
            "observation.state": torch.from_numpy(episodes.start),
            "action": torch.from_numpy(episodes.demonstrate()),
            "task": words or episodes.instructions(),
        }
    )


def fit(policy, batch, steps, lr=3e-3):
    """Losses of AdamW steps on one batch."""
    optimiser, losses = torch.optim.AdamW(policy.get_optim_params(), lr=lr), []
    policy.train()
    for step in range(steps):
        torch.manual_seed(step)
        loss, _ = policy(dict(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def actions(policy, batch):
    policy.eval()
    torch.manual_seed(5)
    return policy.predict_action_chunk({k: v for k, v in batch.items() if k != "action"})


@pytest.mark.parametrize("language", ["plain", "full"])
def test_prompts_and_patches_are_the_hosts(body, language):
    """Grounding writes token ids and pixel patches itself, for speed; drifting from the host's processors it would
    ground another language."""
    episodes = scenes(WORLD, 40, seed=3, language=language)
    lessons = Lessons(WORLD, episodes, language=language)
    prompts = groot_grounding.Prompts.of(lessons)
    texts = episodes.instructions()
    actor = Actor.load(body)
    batch = actor.preprocessor(
        {
            "observation.images.top": lessons.images / 255,
            "observation.state": torch.from_numpy(episodes.start),
            "task": texts,
        }
    )
    for row, seen, mine in zip(batch["input_ids"], batch["attention_mask"], prompts.tokens, strict=True):
        valid = row[seen.bool()]  # the host pads in front, we behind
        assert torch.equal(valid, mine[: len(valid)])
        assert not mine[len(valid) :].any()
    words = groot_words.vocabulary()
    assert words.index("<unk>") not in prompts.tokens
    assert int((batch["input_ids"][0] == words.index(groot_words.IMAGE)).sum()) == CELLS**2
    # 8-bit values times 1/255, then (x - 0.5) / 0.5 there: the same numbers but for the last bits
    assert torch.allclose(batch["pixel_values"], groot_grounding.patches(lessons.images), atol=1e-5)
    ends = prompts.tokens[torch.arange(len(prompts)), prompts.asked[:, -1]]
    one = episodes.then < 0  # asked once: at the last word; two objects: the second answer is
    assert [words[i] for i in ends] == [text.split()[-1] for text in texts]
    assert one.all() == (language == "plain")
    # A token's meaning moved with it: "cube" and "block" mean the same wherever they stand.
    known = prompts.meaning >= 0
    assert known.any()
    ids = prompts.ids[lessons.lexicon.ids]
    means = dict(zip(ids.tolist(), lessons.lexicon.of.tolist(), strict=True))
    assert [means[int(t)] for t in prompts.tokens[known]] == prompts.meaning[known].tolist()


def test_no_instruction_is_in_the_vocabulary(body):
    """The host says something of its own where the task is empty; as <unk>s it could not be told from other words."""
    policy = Actor.load(body).policy
    rows = processed(policy, body, 2, ["", ""])["input_ids"]
    words = [groot_words.vocabulary()[i] for i in rows[0]]
    assert words[-5:-2] == groot_words.NO_INSTRUCTION.split()
    assert "<unk>" not in words


def test_grounded_states_are_what_the_head_reads(body):
    """Own padding, positions once a batch, no vocabulary head: the last states equal the host's backbone output."""
    policy = Actor.load(body).policy
    model = policy._groot_model
    words = ["reach the red cube", "reach the ball", "grasp the white ring", "reach"]
    batch = processed(policy, body, 4, words)
    with torch.no_grad():
        host = model.backbone(model.prepare_input(policy._filter_groot_inputs(batch, include_action=False))[0])
        tokens = torch.zeros_like(batch["input_ids"])
        for index, text in enumerate(words):
            row = groot_words.prompt(text, CELLS**2)
            tokens[index, : len(row)] = torch.tensor(row)
        episodes = WORLD.training(4, seed=0)
        images = torch.from_numpy(episodes.render(episodes.start)).permute(0, 3, 1, 2)
        with groot_grounding.one_grid(model):
            ours = groot_grounding.hidden_states(model, images, tokens)
        slow = groot_grounding.hidden_states(model, images, tokens)
    assert len(ours) == TINY.vlm_layers
    assert all(torch.equal(a, b) for a, b in zip(ours, slow, strict=True))
    for row, mask in enumerate(host["backbone_attention_mask"]):
        kept = host["backbone_features"][row][mask]
        assert torch.allclose(kept, ours[-1][row, : len(kept)], atol=1e-5)
    assert "rot_pos_emb" not in vars(model.backbone.visual)  # put back


def test_images_are_deaf_and_the_last_word_is_not(body):
    """Causal, images first: what makes one VLM pass serve both of APT's stages."""
    model = Actor.load(body).policy._groot_model
    episodes = scenes(WORLD, 8, seed=0)
    both = [
        groot_grounding.Prompts.of(Lessons(WORLD, part))
        for part in (episodes, episodes.about((episodes.named + 1) % 4))
    ]
    with torch.no_grad():
        a, b = (groot_grounding.hidden_states(model, p.lessons.images, p.tokens)[-1] for p in both)
    image = both[0].tokens == groot_words.vocabulary().index(groot_words.IMAGE)
    assert torch.equal(a[image], b[image])
    assert not torch.allclose(a[:, int(both[0].asked[0, 0])], b[:, int(both[1].asked[0, 0])], atol=1e-3)


@pytest.mark.slow
def test_grounding_points_at_what_is_named(tmp_path):
    """A model that does not hear points at some object in view: 25 %. Held-out pairs are put together by nobody."""
    torch.set_num_threads(1)
    how = replace(groot_grounding.PLAIN, steps=STEPS, scenes=8000, probe=1024)
    report = groot_grounding.ground(tmp_path, WORLD, how, progress=False)
    assert report["named pairs, pointing"] > 0.4
    assert json.loads((tmp_path / "grounding.json").read_text())["named pairs, pointing"] > 0.4
    # The VLM of the checkpoint is the trained one, and the head in it is not.
    fresh = groot_grounding.Prompts.of(Lessons(WORLD, scenes(WORLD, 256, seed=9)))
    model = Actor.load(tmp_path).policy._groot_model
    hits = groot_grounding.examine(model, fresh, groot_grounding.PLAIN)
    assert float(hits["pointing"].float().mean()) > 0.35


STEPS = 300


def test_stock_groot_trains_and_acts(body):
    """The plain baseline: `groot` itself, VLM frozen by the host's own flags, rollouts through the saved processors."""
    policy = groot_body.policy_of(body)
    assert type(policy).__name__ == "GrootPolicy"
    assert not any(p.requires_grad for n, p in policy.named_parameters() if ".backbone." in n)
    before = {n: p.clone() for n, p in policy.named_parameters()}
    losses = fit(policy, processed(policy, body, 16), 60)
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:5])
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any(".backbone." in n for n in moved)
    once, again = (evaluate(Actor.load(body), WORLD, ["seen"], episodes=20, progress=False)["seen"] for _ in range(2))
    assert np.array_equal(once.where, again.where)


def test_actor_sees_every_chunk_anew(body):
    """Chunk and execution horizon are the world's: a longer queue would act on an old image."""
    actor = Actor.load(body)
    assert actor.policy._action_queue_steps == groot_body.FIELDS["chunk_size"]
    episodes = WORLD.tests("seen", 4)
    actor.reset()
    action = actor.act(episodes.render(episodes.start), episodes.start, episodes.instructions())
    assert action.shape == (4, 3)
    assert (action >= -0.1).all()
    assert (action <= 1.1).all()


def test_stage1_is_deaf_stock_is_not(body):
    """The same body, two instructions: the prior's actions agree to the bit."""
    for kind, fields, deaf in (("groot", {}, False), ("groot_apt", {"stage": 1}, True)):
        policy = groot_body.policy_of(body, kind, **fields)
        one, other = (
            actions(policy, processed(policy, body, 4, [text] * 4))
            for text in ("reach the red cube", "grasp the blue ring")
        )
        assert torch.equal(one, other) == deaf


@pytest.mark.parametrize("kind", ["interleaved", "host"])
def test_stage2_starts_at_stage1(body, prior, kind):
    """Closed at the switch; opened by training, it listens."""
    from apt_plugin.recipe import from_flat

    first = groot_body.policy_of(body, "groot_apt", start=prior, stage=1)
    fields = {"recipe": from_flat({"fusion.kind": kind, "prior_loss": 0.0}), "optimizer_lr": 1e-2}
    second = groot_body.policy_of(body, "groot_apt", start=prior, stage=2, **fields)
    batch = processed(second, body, 4)
    # Stage 1 drops the instruction's tokens, so sums run over other lengths (contract 2: 1e-6)
    assert torch.allclose(actions(first, batch), actions(second, batch), atol=1e-6)
    assert [n for n, _ in second.named_parameters() if "apt_" in n]
    fit(second, batch, 10)  # gives the closed projections of `interleaved` a size
    with torch.no_grad():
        for name, gate in second.named_parameters():
            if name.endswith("gate.w"):
                gate.fill_(2.0)
    one, other = (
        actions(second, processed(second, body, 4, [text] * 4))
        for text in ("reach the red cube", "grasp the blue ring")
    )
    assert float((one - other).abs().max()) > 1e-4


@pytest.mark.slow
def test_lerobot_train_starts_from_it(body, demonstrations, tmp_path, monkeypatch):
    """The host's own command, stock and Stage 1, from a directory that has nothing to do with the body."""
    from tests.hosts.lerobot.datasets import lerobot_train

    monkeypatch.chdir(tmp_path)
    for kind, more in (("groot", []), ("groot_apt", ["--policy.stage=1"])):
        out = tmp_path / kind
        lerobot_train(
            *groot_body.host_flags(body, kind), *more, "--dataset.repo_id=tabletop/demonstrations",
            f"--dataset.root={demonstrations}", "--steps=2", "--batch_size=2", "--num_workers=0", "--save_freq=2",
            "--log_freq=1", "--policy.optimizer_lr=1e-3", "--env_eval_freq=0", f"--output_dir={out}",
        )  # fmt: skip
        actor = Actor.load(out / "checkpoints" / "last" / "pretrained_model")
        assert actor.policy.config.type == kind
        episodes = WORLD.tests("seen", 2)
        action = actor.act(episodes.render(episodes.start), episodes.start, episodes.instructions())
        assert action.shape == (2, 3)


def test_sizes_are_checked():
    with pytest.raises(AptError, match="vision_width is 30"):
        groot_body.Sizes(vision_width=30)
