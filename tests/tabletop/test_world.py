"""The world: each test names the mistake that would make the benchmark lie."""

import sys

import numpy as np
import pytest

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.drawing import draw
from apt_plugin.tabletop.world import SLOTS, SPLITS, Episodes, World, pair_name
from tests import processes


def run(episodes: Episodes, actions: np.ndarray) -> dict:
    state, ends = episodes.start, []
    for t in range(actions.shape[1]):
        state = arm.step(state, actions[:, t])
        ends.append(state)
    return episodes.outcome(np.stack(ends[arm.HORIZON - 1 :: arm.HORIZON], axis=1))


def named_pairs(episodes: Episodes) -> set:
    """(family, colour, shape) of every instruction."""
    pairs = episodes.pairs[np.arange(len(episodes)), episodes.named]
    return {(int(f), int(c), int(s)) for f, (c, s) in zip(episodes.family, pairs, strict=True)}


def test_importing_the_world_needs_no_framework():
    """A scripted check of the world must not cost torch's import; a stray import at module level would."""
    code = "import sys, apt_plugin.tabletop.world; assert not {'torch', 'jax', 'lerobot'} & set(sys.modules)"
    done = processes.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("split", SPLITS)
def test_demonstrator_always_succeeds(split):
    """A success rule that the demonstrator itself fails would cap every policy below 100 %."""
    episodes = World().tests(split, 500)
    outcome = run(episodes, episodes.demonstrate())
    assert outcome["success"].all()
    assert (outcome["where"] == ("both" if SPLITS[split].chained else "named")).all()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("verbs", [("reach", "grasp"), ("reach",)])
def test_blind_policy_scores_what_the_formula_says(split, verbs):
    """If a policy without language could do better than `blind_success`, the splits would not measure
    listening."""
    world = World(verbs=verbs)
    episodes = world.tests(split, 2000)
    usual = np.maximum(episodes.usual, 0)
    outcome = run(episodes, episodes.demonstrate(slot=usual, closes=np.zeros(len(episodes), bool)))
    assert outcome["success"].mean() == pytest.approx(world.blind_success(split), abs=0.035)


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not():
    """An unseeded draw anywhere would make two runs of a benchmark incomparable."""
    first, again, other = World().training(300, 5), World().training(300, 5), World().training(300, 6)
    for name in ("family", "pairs", "places", "light", "start", "verb", "named", "bulge", "form", "then"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.start, other.start)
    assert np.array_equal(first.render(first.start), again.render(again.start))
    assert not np.array_equal(World(seed=0).slots, World(seed=1).slots)


def test_fewer_episodes_are_the_first_of_more():
    """lerobot-eval and the batched rollouts must run the same episodes although they ask for different
    numbers."""
    few, many = World().tests("rare", 10), World().tests("rare", 700)
    assert np.array_equal(few.start, many.start[:10])
    assert few.instructions() == many.instructions()[:10]


@pytest.mark.parametrize("seed", range(5))
def test_no_split_leaks_into_training(seed):
    """A held-out pair that training names even once turns a generalisation score into a memory score."""
    world = World(seed=seed, families=10)
    training = world.training(5000)
    trained = named_pairs(training)
    assert {row[0] for row in trained} == set(range(world.families))
    for split in ("seen", "rare"):
        assert named_pairs(world.tests(split, 1000)) <= trained
    trained_pairs = {row[1:] for row in trained}
    task = named_pairs(world.tests("task", 1000))
    assert not task & trained
    assert {row[1:] for row in task} <= trained_pairs
    combination = {row[1:] for row in named_pairs(world.tests("combination", 1000))}
    assert not combination & trained_pairs
    assert combination == set(world.never_named)
    # each word of a never-named pair was heard, in other pairs: otherwise nobody could know it
    assert {c for c, _ in combination} <= {c for c, _ in trained_pairs}
    assert {s for _, s in combination} <= {s for _, s in trained_pairs}
    environment = world.tests("environment", 1000)
    assert not set(environment.family) & set(training.family)
    assert {row[1:] for row in named_pairs(environment)} <= trained_pairs
    # and no test episode is a training episode: their random streams differ
    assert not set(map(bytes, world.tests("seen", 1000).start)) & set(map(bytes, training.start))


def test_all_four_objects_are_in_view_in_training():
    """`task` and `combination` ask about objects the policy has always seen; a new object would be another
    question."""
    world = World()
    training = world.training(200)
    assert np.array_equal(training.pairs, world.slots[training.family])
    for row in world.slots:
        assert len({tuple(pair) for pair in row}) == len(SLOTS)


def test_usual_share_sets_the_entropy():
    """The knob must mean what it says: it is the x-axis of any study of vision shortcuts."""
    world = World(usual_share=0.9)
    assert (world.training(8000).named == 0).mean() == pytest.approx(0.9, abs=0.015)
    assert world.entropy_bits() == pytest.approx(0.469 + 1.0, abs=1e-3)
    assert World(usual_share=1.0, verbs=("reach",)).entropy_bits() == 0.0


def test_play_goes_for_any_object_in_the_scenes_of_training_and_repeats_no_other_episode():
    """Were play drawn from training's stream, a Stage 1 on it would have seen the labelled demonstrations; were a slot
    favoured, it would hold the habit that it is there to lack."""
    world = World()
    play = world.play(8000)
    shares = np.bincount(play.named, minlength=len(SLOTS)) / len(play)
    assert shares == pytest.approx([0.25] * len(SLOTS), abs=0.02)
    assert np.array_equal(play.pairs, world.slots[play.family])
    starts = set(map(bytes, play.start))
    assert not starts & set(map(bytes, world.training(8000).start))
    assert not any(starts & set(map(bytes, world.tests(split, 1000).start)) for split in SPLITS)
    assert np.array_equal(world.play(10).start, world.play(700).start[:10])


def test_layouts_are_random_unless_asked_for():
    """Fixed layouts make language pointless; they must not slip in."""
    world = World(fixed_layouts=1.0)
    fixed, free = world.training(500), World().training(500)
    cells = lambda e: np.floor(e.places[e.family == 0] * 3).astype(int)  # noqa: E731
    assert len(np.unique(cells(fixed), axis=0)) == 1
    assert len(np.unique(cells(free), axis=0)) > 20


def test_every_object_is_visible_in_its_own_colour():
    """An object hidden by another, by the border or by the gripper would make an instruction impossible."""
    episodes = World().training(40)
    away = np.tile(np.float32([0.5, 0.5, 1.0]), (40, 1))
    with_all = episodes.render(away).astype(int)
    for slot in range(4):
        places = episodes.places.copy()
        places[:, slot] = -1.0  # drawn into the corner instead
        without = draw(episodes.family, episodes.pairs[..., 0], episodes.pairs[..., 1], places, episodes.light, away)
        row, column = np.floor(episodes.places[:, slot, ::-1] * 48).astype(int).T
        patch = [
            abs(with_all - without)[i, r - 4 : r + 5, c - 4 : c + 5].max()
            for i, (r, c) in enumerate(zip(row, column, strict=True))
        ]
        assert min(patch) > 40


def test_wrong_verb_and_wrong_object_fail():
    """A success rule that looks at the place only would credit a policy that ignores the verb."""
    episodes = World().tests("rare", 300)
    assert not run(episodes, episodes.demonstrate(closes=~episodes.closes()))["success"].any()
    other = run(episodes, episodes.demonstrate(slot=np.zeros(300, int)))
    assert not other["success"].any()
    assert (other["where"] == "usual").all()


def test_arm_survives_absurd_actions():
    """A policy early in training may output NaN or 1e9: the score should be zero, not a crash or a
    teleport."""
    state = np.float32([[0.2, 0.2, 1.0]])
    for action in ([np.nan, 0.5, 0.0], [1e9, -1e9, 7.0]):
        after = arm.step(state, np.float32([action]))
        assert np.isfinite(after).all()
        assert (after >= 0).all()
        assert (after <= 1).all()
        assert np.linalg.norm(after[0, :2] - state[0, :2]) <= arm.MAX_TRAVEL + 1e-6


def test_errors_teach():
    """A mistyped split must not fall through to some default."""
    with pytest.raises(KeyError, match="Did you mean 'combination'"):
        World().tests("combinations", 3)
    with pytest.raises(ValueError, match="usual_share"):
        World(usual_share=0.2)
    with pytest.raises(ValueError, match="families"):
        World(families=40)
    assert pair_name((0, 0)) == "red cube"
