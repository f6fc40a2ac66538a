"""The gymnasium environment: what lerobot-eval sees must be what the world and the rollouts mean."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from apt_plugin.tabletop.env import TabletopEnv
from apt_plugin.tabletop.world import SPLITS, World


def oracle(env: TabletopEnv, seed: int) -> dict:
    env.reset(seed=seed)
    for action in env._episode.demonstrate()[0]:
        _, _, done, _, info = env.step(action)
    assert done
    return info


@pytest.mark.parametrize("split", [*SPLITS, "train"])
def test_oracle_succeeds_on_the_worlds_own_episodes(split):
    """Seed k must be episode k of the split, or lerobot-eval and the rollouts measure different things."""
    env, world = TabletopEnv(split), World()
    episodes = world.training(20) if split == "train" else world.tests(split, 20)
    for seed in (0, 7):
        observation, info = env.reset(seed=seed)
        assert env.task_description == episodes.instructions()[seed]
        assert np.array_equal(observation["agent_pos"], episodes.start[seed])
        assert np.array_equal(observation["pixels"]["top"], episodes.render(episodes.start)[seed])
        assert not info["is_success"]
        assert oracle(env, seed)["is_success"]


def test_gymnasium_accepts_it():
    """A wrong dtype or shape surfaces here instead of deep inside a vector environment."""
    from gymnasium.utils.env_checker import check_env

    check_env(TabletopEnv(), skip_render_check=True)


def test_told_instruction_is_obeyed_judged_and_not_remembered():
    """`--env.instruction` must change the judge with the words, and must not change the episode for the next
    reset."""
    env = TabletopEnv("seen")
    env.reset(seed=3)
    own, pairs = env.task_description, env._episode.pairs[0]
    from apt_plugin.tabletop.world import pair_name

    told = TabletopEnv("seen", instruction=f"grasp the {pair_name(pairs[2])}")
    assert oracle(told, 3)["is_success"]
    told._told = None  # back to the split's own: the pool must be untouched
    told.reset(seed=3)
    assert told.task_description == own
    both = TabletopEnv("chained", instruction="")
    both.reset(seed=3)
    first, second = both._episode.pairs[0, 2:]
    told = TabletopEnv("chained", instruction=f"please go to the {pair_name(first)} and the {pair_name(second)}")
    assert oracle(told, 3) == {"is_success": True, "where": "both"}
    with pytest.warns(UserWarning, match="outside the world's language"):  # one object where two are due
        assert not oracle(TabletopEnv("chained", instruction=f"reach the {pair_name(first)}"), 3)["is_success"]
    absent = next(p for p in ("red cube", "blue ring", "white cone") if p not in map(pair_name, pairs))
    assert not oracle(TabletopEnv("seen", instruction=f"reach the {absent}"), 3)["is_success"]
    with pytest.warns(UserWarning, match="outside the world's language"):
        assert not oracle(TabletopEnv("seen", instruction="dance"), 3)["is_success"]


def test_lerobot_config_selects_split_and_refuses_unknown_ones():
    """An unknown split must fail at parsing, not after the policy has loaded."""
    pytest.importorskip("lerobot")
    from lerobot.envs.factory import make_env, make_env_config

    import apt_plugin.tabletop.host.configuration_env  # noqa: F401

    with pytest.raises(ValueError, match="no such split"):
        make_env_config("tabletop", split="rares")
    envs = make_env(make_env_config("tabletop", split="rare"), n_envs=2)["tabletop"][0]
    observation, _ = envs.reset(seed=[4, 5])
    assert np.array_equal(observation["agent_pos"], World().tests("rare", 6).start[4:])
    assert list(envs.call("task_description")) == World().tests("rare", 6).instructions()[4:]
    for _ in range(envs.call("_max_episode_steps")[0]):
        *_, info = envs.step(np.zeros((2, 3), np.float32))
    assert "is_success" in info["final_info"]
