"""The splits beyond seen, rare, task, combination and environment: what each must show, name, say and accept."""

import hashlib

import numpy as np
import pytest

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.drawing import COLOURS, SHAPES, draw
from apt_plugin.tabletop.episodes import CHAINED_WHERE
from apt_plugin.tabletop.splits import SPLITS, TRAINED_COLOURS, TRAINED_SHAPES, UNSEEN_PAIRS
from apt_plugin.tabletop.words import FORMS, LONGEST, SYNONYMS, parse, ways
from apt_plugin.tabletop.world import World
from tests.tabletop.test_world import run

OLD = ("family", "pairs", "places", "light", "start", "verb", "named", "usual", "bulge")
#: sha256 over the arrays `OLD` and the instructions of 64 episodes, from before the other splits existed.
BITS = {
    "train": "e847473638c99994",
    "seen": "07d9b4373b7f4bf0",
    "rare": "271efe1c3b758634",
    "task": "4de02dc779b016b8",
    "combination": "cd000e7116bac393",
    "environment": "20c3e035dd842fec",
}


def digest(episodes) -> str:
    found = hashlib.sha256()
    for name in OLD:
        found.update(np.ascontiguousarray(getattr(episodes, name)).tobytes())
    found.update("|".join(episodes.instructions()).encode())
    return found.hexdigest()[:16]


def cells(episodes) -> np.ndarray:
    return np.floor(episodes.places * 3).astype(int)


@pytest.mark.parametrize("name", BITS)
def test_earlier_streams_keep_their_bits(name):
    """The demo's and `listen`'s published numbers were measured on these episodes."""
    episodes = World().training(64) if name == "train" else World().tests(name, 64)
    assert digest(episodes) == BITS[name]


def test_streams_are_distinct():
    """Two splits on one stream would share their scenes, and their luck."""
    assert len({rule.stream for rule in SPLITS.values()}) == len(SPLITS)
    starts = [bytes(World().tests(split, 5).start) for split in SPLITS]
    assert len(set(starts)) == len(SPLITS)


def test_position_differs_from_seen_only_under_fixed_layouts():
    """Were `seen` shuffled in a fixed world, or `position` not, the split would measure nothing."""
    world = World(fixed_layouts=1.0)
    training = world.training(500)
    for k in range(world.families):
        own = cells(training)[training.family == k][0]
        for split in ("seen", "rare", "task", "combination", "object", "wording", "chained"):
            tested = world.tests(split, 300)
            assert (cells(tested)[tested.family == k] == own).all(), split
        moved = world.tests("position", 300)
        assert len(np.unique(cells(moved)[moved.family == k], axis=0)) > 10
        assert (moved.named == 0).all()
    free = World().tests("seen", 400)
    assert len(np.unique(cells(free)[free.family == 0], axis=0)) > 20


@pytest.mark.parametrize("seed", range(3))
def test_an_unseen_object_is_in_no_demonstration_and_always_named_in_its_split(seed):
    """One glimpse of it in training, and the vision side has seen it."""
    world = World(seed=seed, families=10)
    for shown in (world.training(3000), *(world.tests(split, 500) for split in SPLITS if split != "object")):
        assert (shown.pairs < (TRAINED_COLOURS, TRAINED_SHAPES)).all()
    episodes = world.tests("object", 1000)
    new = (episodes.pairs >= (TRAINED_COLOURS, TRAINED_SHAPES)).any(axis=2)
    assert (new.sum(axis=1) == 1).all()
    assert new[np.arange(1000), episodes.named].all()
    named = {tuple(map(int, pair)) for pair in episodes.pairs[np.arange(1000), episodes.named]}
    assert named == set(UNSEEN_PAIRS)
    assert len(UNSEEN_PAIRS) == TRAINED_COLOURS + TRAINED_SHAPES + 1
    # the family's other objects are as in training
    assert np.array_equal(episodes.pairs[:, :3], world.slots[episodes.family][:, :3])


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_unseen_objects_are_drawn_unlike_any_other(kind):
    """An unseen thing that looks like a trained one is no unseen thing."""
    count = len(COLOURS) if kind == "colour" else len(SHAPES)
    which, same = np.arange(count)[:, None], np.zeros((count, 1), int)
    colours, shapes = (which, same) if kind == "colour" else (same, which)
    away = np.tile(np.float32([0.95, 0.95, 1.0]), (count, 1))
    places = np.full((count, 1, 2), 0.5)
    pictures = draw(np.zeros(count, int), colours, shapes, places, np.ones(count), away).astype(int)
    patch = pictures[:, 18:30, 18:30]
    differ = (abs(patch[-1] - patch[:-1]).max(axis=-1) > 60).mean(axis=(1, 2))
    assert (differ > 0.1).all()


def test_wording_says_the_rare_target_in_words_no_demonstration_has():
    """A plain sentence slipping in would score memory as understanding of other words."""
    world = World()
    episodes = world.tests("wording", 2000)
    heard = set(world.training(3000).instructions())
    texts = episodes.instructions()
    assert not heard & set(texts)
    assert (episodes.named == 1).all()
    for text, verb, pair in zip(texts, episodes.verb, episodes.pairs[:, 1], strict=True):
        assert parse(text) == (world.verbs[verb], [tuple(pair)])
    assert max(len(text.split()) for text in texts) <= LONGEST["full"]
    words = {word for text in texts for word in text.split()}
    assert {"please", "could", "that", "approach", "to", "up", "grab"} <= words
    for part, size in enumerate(FORMS):
        assert set(episodes.form[:, part]) == set(range(size))


def test_no_word_means_two_things():
    """An ambiguous synonym would cap every policy on `wording`."""
    every = [way.split()[-1] for word in SYNONYMS for way in ways(word)]
    assert len(every) == len(set(every))
    assert set(COLOURS) | set(SHAPES) <= set(SYNONYMS)
    assert parse("reach the red cube and the dish that is cyan") == ("reach", [(0, 0), (6, 5)])
    for nonsense in ("", "dance", "reach red cube", "reach the cube red", "reach the red cube and", "red the red cube"):
        assert parse(nonsense) is None


def test_chained_names_both_trained_targets_in_both_orders():
    """With one order only, doing both in habit's order would pass for listening."""
    episodes = World().tests("chained", 1000)
    assert {frozenset(pair) for pair in zip(episodes.named, episodes.then, strict=True)} == {frozenset((0, 1))}
    assert (episodes.named == 0).mean() == pytest.approx(0.5, abs=0.05)
    text = episodes.instructions()[0]
    assert parse(text) == (
        episodes.verbs[episodes.verb[0]],
        [tuple(episodes.pairs[0, episodes.named[0]]), tuple(episodes.pairs[0, episodes.then[0]])],
    )
    assert episodes.demonstrate().shape == (1000, 2 * arm.HORIZON, 3)


def test_chained_is_judged_in_order_and_says_where_it_went():
    """Either object alone, or both in the wrong order, is not what was asked."""
    episodes = World().tests("chained", 50)
    rows = np.arange(50)
    opening = np.where(episodes.closes(), 0.0, 1.0)
    empty = np.array(
        [next(c for c in np.ndindex(3, 3) if not (place == c).all(axis=1).any()) for place in cells(episodes)]
    )
    at = {slot: episodes.places[rows, slot] for slot in range(4)}
    at[-1] = ((empty + 0.5) / 3).astype(np.float32)

    def outcome(first, second, jaws=opening):
        ends = [np.concatenate([place, jaws[:, None]], axis=1) for place in (first, second)]
        return episodes.outcome(np.stack(ends, axis=1))

    one, two = episodes.places[rows, episodes.named], episodes.places[rows, episodes.then]
    cases = {
        "both": (one, two),
        "first only": (one, one),
        "second only": (two, two),
        "wrong order": (two, one),
        "other": (at[2], at[3]),
    }
    for where, (first, second) in cases.items():
        found = outcome(first, second)
        assert (found["where"] == where).all(), where
        assert found["success"].all() == (where == "both")
    assert set(cases) | {"none"} == set(CHAINED_WHERE)
    wrong_jaws = outcome(one, two, 1 - opening)
    assert not wrong_jaws["success"].any()
    assert (wrong_jaws["where"] == "both").all()
    with pytest.raises(ValueError, match="2 legs"):
        episodes.outcome(np.zeros((50, 3)))


def test_no_demonstration_chains_unless_asked_for():
    """`chained` is a test of what was never shown, until the knob says otherwise."""
    assert (World().training(2000).then == -1).all()
    world = World(chained=0.3)
    mixed = world.training(3000)
    assert (mixed.then >= 0).mean() == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(mixed.family, World().training(3000).family)
    single, double = mixed.by_legs()
    assert (single.legs, double.legs) == (1, 2)
    assert set(double.named) == {0, 1}
    assert run(double, double.demonstrate())["success"].all()
    with pytest.raises(ValueError, match="by_legs"):
        mixed.demonstrate()
    assert world.entropy_bits() == pytest.approx(World().entropy_bits() + 0.8813, abs=1e-3)


@pytest.mark.parametrize("verbs", [("reach", "grasp"), ("grasp",)])
def test_blind_guess_of_the_order_scores_what_the_formula_says(verbs):
    """Where demonstrations chain, a deaf policy knows which two objects come up."""
    world = World(chained=0.5, verbs=verbs)
    episodes = world.tests("chained", 2000)
    guess = episodes.about(np.zeros(2000, int))
    guess = type(guess)(**{**vars(guess), "then": np.ones(2000, int), "verb": np.zeros(2000, int)})
    ends, state = [], episodes.start
    for t, action in enumerate(np.moveaxis(guess.demonstrate(), 1, 0)):
        state = arm.step(state, action)
        ends += [state] if t % arm.HORIZON else []
    found = episodes.outcome(np.stack(ends, axis=1))
    assert found["success"].mean() == pytest.approx(world.blind_success("chained"), abs=0.035)
