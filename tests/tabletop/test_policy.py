"""The tiny stock policy, its tokenizer and its checkpoints."""

import json

import numpy as np
import pytest

pytest.importorskip("lerobot")
import torch

from apt_plugin.errors import AptError
from apt_plugin.tabletop import checkpoint, tokenizer
from apt_plugin.tabletop.lessons import PROMPT_LENGTH, Lessons, Meanings, scenes, spoken
from apt_plugin.tabletop.rollout import Actor, wilson
from apt_plugin.tabletop.world import World


def test_tokenizer_splits_the_hosts_prompt(tmp_path):
    """A state number cut into digits or an <unk> instruction word would make every prompt unreadable,
    silently."""
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(tokenizer.save(tmp_path))
    text = "Task: grasp the red cube, State: -1 200 255;\nAction: "
    ids = fast(text)["input_ids"]
    words = fast.convert_ids_to_tokens(ids)
    assert words == "<bos> Task : grasp the red cube , State : -1 200 255 ; Action :".split()
    assert len(ids) == PROMPT_LENGTH
    assert fast.is_fast
    assert fast.pad_token_id == 0
    assert fast("fetch")["input_ids"][-1] == fast.unk_token_id


def test_grounding_prompts_equal_the_hosts(grounded):
    """Grounding writes token ids itself, for speed; if they drifted from the host's processors it would
    ground another language."""
    world = World()
    episodes = scenes(world, 40, seed=3)
    lessons = Lessons(world, episodes)
    actor = Actor.load(grounded)
    batch = {
        "observation.images.top": lessons.images / 255,
        "observation.state": torch.from_numpy(episodes.start),
        "task": episodes.instructions(),
    }
    assert torch.equal(actor.preprocessor(batch)["observation.language.tokens"], lessons.tokens)


def test_full_language_prompts_equal_the_hosts(fluent):
    """Other words, two objects and unseen ones make prompts of many lengths; the answers' places move with them."""
    world = World()
    episodes = scenes(world, 200, seed=3, language="full")
    lessons = Lessons(world, episodes, language="full")
    actor = Actor.load(fluent)
    batch = {
        "observation.images.top": lessons.images / 255,
        "observation.state": torch.from_numpy(episodes.start),
        "task": episodes.instructions(),
    }
    assert torch.equal(actor.preprocessor(batch)["observation.language.tokens"], lessons.tokens)
    words = tokenizer.vocabulary("full")
    short = lessons.prompts(torch.arange(len(lessons)), short=True)
    for row, text in enumerate(episodes.instructions()):
        said = [words[i] for i in lessons.tokens[row][spoken(lessons.tokens)[row]]]
        assert said == text.split()
        assert words[lessons.tokens[row, lessons.asked[row].max()]] == said[-1]
        first = said.index("and") if "and" in said else len(said)
        assert words[lessons.tokens[row, lessons.asked[row, 0]]] == said[first - 1]
        assert [words[i] for i in short[row] if i] == ["<bos>", "Task", ":", *said]
        assert (lessons.answer[row].sum(1) == torch.tensor([1.0, float("and" in said)])).all()
    assert {len(text.split()) for text in episodes.instructions()} >= {4, 5, 6, 7, 8}


def test_a_plain_tokenizer_has_not_heard_of_the_other_words(grounded, fluent):
    """A word beyond a plain model's vocabulary must be <unk>, not an index error or a random embedding."""
    plain, full = (Actor.load(folder).policy.config for folder in (grounded, fluent))
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(plain.tokenizer_name)("azure")["input_ids"][-1] == 3
    fast = AutoTokenizer.from_pretrained(full.tokenizer_name)
    assert 3 not in fast("please pick up the azure dish")["input_ids"]
    assert len(fast) == len(tokenizer.vocabulary("full")) <= full.sizes["vocab"]
    assert tokenizer.vocabulary("full")[: len(tokenizer.vocabulary())] == tokenizer.vocabulary()


def test_synonyms_count_as_right_and_the_table_does_not():
    """Wrong bookkeeping here would report a VLM that knows its synonyms as one that does not, or the reverse."""
    known = Meanings(
        [("red", "crimson"), ("blue", "azure"), ("table",)],
        {w: i for i, w in enumerate(["red", "crimson", "blue", "azure", "table"])},
    )
    logits = torch.tensor([[2.0, 0, 1, 0, 0], [0, 2, 3, 0, 0], [0, 0, 0, 0, 9]])
    assert known.told(logits).tolist() == [0, 1, 2]
    assert known.told(logits, synonyms=True).tolist() == [0, 0, 2]
    assert known.share.tolist() == [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1]]


def test_prefix_mask_isolated_keeps_images_deaf(grounded):
    """In the isolated prefix an image token must not change with the words, in the native one it must."""
    from apt_plugin.tabletop.grounding import hidden_states

    world = World()
    episodes = scenes(world, 8, seed=0)
    model = Actor.load(grounded).policy.model.paligemma_with_expert
    own, other = Lessons(world, episodes), Lessons(world, episodes.about((episodes.named + 1) % 4))
    for mode, deaf in (("isolated", True), ("native", False)):
        with torch.no_grad():
            a, b = (hidden_states(model, le.images, le.tokens, mode)[-1][:, :9] for le in (own, other))
        assert torch.equal(a, b) == deaf


def test_loading_a_wrong_checkpoint_raises(grounded, tmp_path):
    """lerobot's PI05Policy.from_pretrained prints the error and returns random weights; ours must not."""
    import shutil

    from safetensors.torch import load_file, save_file

    from apt_plugin.tabletop.host.modeling_pi05_tiny import PI05TinyPolicy

    broken = tmp_path / "broken"
    shutil.copytree(grounded, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(key for key in weights if "gemma_expert" in key))
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        PI05TinyPolicy.from_pretrained(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        PI05TinyPolicy.from_pretrained(broken)


def test_checkpoint_keys_are_the_hosts(grounded):
    """Any π0.5 policy type must be able to start from it: exactly the host's keys, at these sizes."""
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy
    from safetensors import safe_open

    from apt_plugin.hosts.lerobot.sizes import sized

    config = Actor.load(grounded).policy.config
    with sized(config.sizes):
        host = PI05Policy(config)
    with safe_open(grounded / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(host.state_dict())


def test_forward_is_the_hosts_own():
    """`pi05_tiny` is the stock baseline; an override creeping in would make it something else."""
    from apt_plugin.tabletop.host.modeling_pi05_tiny import PI05TinyPolicy

    own = set(vars(PI05TinyPolicy)) - {"__module__", "__doc__", "__firstlineno__", "__static_attributes__"}
    assert own <= {
        "config_class",
        "name",
        "__init__",
        "from_pretrained",
        "__abstractmethods__",
        "_abc_impl",
        "__annotations__",
    }


def test_host_flags_name_every_shared_field(grounded):
    """A policy type started with other sizes than its weights fails late and confusingly."""
    flags = checkpoint.host_flags(grounded, "pi05_apt")
    assert "--policy.type=pi05_apt" in flags
    assert f"--policy.pretrained_path={grounded}" in flags
    sizes = next(flag for flag in flags if flag.startswith("--policy.sizes="))
    assert json.loads(sizes.split("=", 1)[1]) == json.loads((grounded / "config.json").read_text())["sizes"]


@pytest.mark.parametrize("split", ["task", "chained"])
def test_rollouts_match_the_hosts_own(fluent, split):
    """The batched rollouts replace lerobot-eval in the demo; both must run the same episodes through the same
    pipeline."""
    from lerobot.envs.utils import preprocess_observation

    from apt_plugin.tabletop.env import TabletopEnv
    from apt_plugin.tabletop.rollout import play

    actor = Actor.load(fluent)
    episodes = World().tests(split, 3)
    torch.manual_seed(0)
    final, _ = play(actor, episodes)
    torch.manual_seed(0)
    actor.reset()
    envs = [TabletopEnv(split) for _ in range(3)]
    seen = [env.reset(seed=k)[0] for k, env in enumerate(envs)]
    for _ in range(envs[0]._max_episode_steps):
        stacked = {
            "pixels": {"top": np.stack([o["pixels"]["top"] for o in seen])},
            "agent_pos": np.stack([o["agent_pos"] for o in seen]),
        }
        batch = preprocess_observation(stacked) | {"task": [env.task_description for env in envs]}
        with torch.inference_mode():
            action = actor.postprocessor(actor.policy.select_action(actor.preprocessor(batch))).numpy()
        seen = [env.step(a)[0] for env, a in zip(envs, action, strict=True)]
    final = final[:, -1] if split == "chained" else final
    assert np.allclose(final, np.stack([o["agent_pos"] for o in seen]), atol=1e-6)


def test_missing_checkpoint_says_where_to_look(tmp_path):
    """The commonest slip: naming lerobot's output directory instead of the policy inside it."""
    with pytest.raises(AptError, match="checkpoints/last/pretrained_model"):
        Actor.load(tmp_path)


def test_wilson():
    """Reference values (Wilson 1927, 95 %): 0 of 10 is not certainty."""
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-3)
