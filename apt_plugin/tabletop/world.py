"""A tabletop world that separates *seeing* from *listening*: scene families, instructions, test splits.

Why it looks like this. A scene family (its background and its four objects) has a usual target, named in most
of its demonstrations. A policy can therefore earn a good training loss from the image alone, and the splits
ask what it does when the instruction disagrees with that habit. How much the image leaves open is a knob:
`World.usual_share` and the number of verbs (`World.entropy_bits`).

Each family shows four objects, in slots:

    usual      named in `usual_share` of the family's demonstrations
    rare       named in the rest
    elsewhere  in view in every demonstration here, named only in another family (there as its usual target)
    never      in view in every demonstration here, named in none anywhere

The `object` split puts an object into the last slot that no demonstration shows at all (`splits.UNSEEN_PAIRS`).

Everything is drawn from `numpy.random.default_rng([world.seed, stream, seed, block])`: equal numbers give
equal bits. Training and each split have a stream of their own. Only numpy is needed here.

Shape legend: `B` episodes, `O` = 4 objects, `T` control steps (`arm.HORIZON`).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.episodes import ARRAYS, Episodes
from apt_plugin.tabletop.splits import (
    OBJECTS,
    SLOTS,
    SPLITS,
    TRAINED_COLOURS,
    TRAINED_SHAPES,
    UNSEEN_PAIRS,
    Split,
    split_rule,
)
from apt_plugin.tabletop.words import PLAIN, VERBS, other_forms, pair_name

__all__ = ["CELLS", "OBJECTS", "SLOTS", "SPLITS", "VERBS", "Episodes", "Split", "World", "pair_name"]

CELLS = 3  # the table is CELLS x CELLS; objects sit in cells, shifted by up to two pixels
_TRAIN_STREAM, _FAMILY_STREAM, _PLAY_STREAM = 1, 2, 3
_BLOCK = 256


@dataclass(frozen=True)
class World:
    """The world's knobs. Two worlds that compare equal are the same world, bit for bit.

    Args:
        seed: which objects share a family.
        families: trained families, 2 to 10.
        new_backgrounds: backgrounds kept for the `environment` split.
        usual_share: share of a family's demonstrations that name its usual target, [0.5, 1].
        verbs: a subset of `VERBS`, each equally frequent.
        fixed_layouts: share of training episodes with the family's one fixed layout instead of a random one
            (LIBERO is near 1); the splits have it in the same share, `position` and `environment` never.
        chained: share of training episodes that name both trained targets, to be done in turn; they have two
            legs of `arm.HORIZON` steps.
    """

    seed: int = 0
    families: int = 8
    new_backgrounds: int = 4
    usual_share: float = 0.8
    verbs: tuple[str, ...] = tuple(VERBS)
    fixed_layouts: float = 0.0
    chained: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "verbs", tuple(self.verbs))  # a list from a config file compares equal, too
        if not 2 <= self.families <= 10:
            raise ValueError(f"families must be 2 to 10 (there are 30 colour-shape pairs), got {self.families}.")
        if not 0.5 <= self.usual_share <= 1.0:
            raise ValueError(f"usual_share must be in [0.5, 1], got {self.usual_share}: below 0.5 the rare is usual.")
        for knob in ("fixed_layouts", "chained"):
            if not 0.0 <= getattr(self, knob) <= 1.0:
                raise ValueError(f"{knob} is a share, in [0, 1], got {getattr(self, knob)}.")
        if not self.verbs or not set(self.verbs) <= set(VERBS):
            raise ValueError(f"verbs must be some of {tuple(VERBS)}, got {self.verbs}.")

    @cached_property
    def slots(self) -> np.ndarray:
        """Objects of each family by slot: int (families, O, 2), colour and shape."""
        rng = np.random.default_rng([self.seed, _FAMILY_STREAM])
        # The never-named pairs are a random partial diagonal: each colour and each shape stays well
        # represented among the others.
        shape_of = rng.permutation(TRAINED_COLOURS) % TRAINED_SHAPES
        never = [(colour, int(shape_of[colour])) for colour in range(TRAINED_COLOURS)]
        others = [(c, s) for c in range(TRAINED_COLOURS) for s in range(TRAINED_SHAPES) if (c, s) not in never]
        order = rng.permutation(len(others))
        usual = [others[i] for i in order[: self.families]]
        rare = [others[i] for i in order[self.families : 2 * self.families]]
        shift = 1 + int(rng.integers(self.families - 1))
        turn = int(rng.integers(len(never)))
        rows = [
            (usual[k], rare[k], usual[(k + shift) % self.families], never[(k + turn) % len(never)])
            for k in range(self.families)
        ]
        return np.array(rows)

    @property
    def never_named(self) -> list[tuple[int, int]]:
        """Colour-shape pairs that no demonstration names (the `combination` split names them)."""
        return sorted({(int(pair[0]), int(pair[1])) for pair in self.slots[:, SLOTS.index("never")]})

    def training(self, count: int, seed: int = 0) -> Episodes:
        """`count` training episodes; those of seed 1 are others than those of seed 0. Fewer are the first of
        more."""

        def block(rng, size: int) -> Episodes:
            family = rng.integers(self.families, size=size)
            named = (rng.random(size) >= self.usual_share).astype(int)  # slot 0 is the usual target, 1 the rare one
            fixed = rng.random(size) < self.fixed_layouts
            # Drawn only where asked for: worlds without it keep the bits that they had before the knob.
            then = np.where(rng.random(size) < self.chained, 1 - named, -1) if self.chained else None
            return self.stage(rng, family, self.slots[family], named, np.zeros(size, int), fixed, then=then)

        return self._blocks(block, _TRAIN_STREAM, seed, count)

    def play(self, count: int, seed: int = 0) -> Episodes:
        """`count` episodes of play: training scenes, any object in view gone for, each as often. Their instructions say
        what happens and are nobody's: half are about objects that no demonstration names here or anywhere."""

        def block(rng, size: int) -> Episodes:
            family, named = rng.integers(self.families, size=size), rng.integers(OBJECTS, size=size)
            fixed = rng.random(size) < self.fixed_layouts
            return self.stage(rng, family, self.slots[family], named, np.zeros(size, int), fixed)

        return self._blocks(block, _PLAY_STREAM, seed, count)

    def tests(self, split: str, count: int, seed: int = 0) -> Episodes:
        """`count` episodes of a split of `SPLITS`; fewer are the first of more.

        Raises:
            KeyError: no such split.
        """
        rule = split_rule(split)

        def block(rng, size: int) -> Episodes:
            named, then, form = rng.integers(OBJECTS, size=size), None, None
            if rule.slot != "any":
                named = np.full(size, SLOTS.index(rule.slot))
            if rule.new_background:
                family = self.families + rng.integers(self.new_backgrounds, size=size)
                trained = self.slots[:, :2].reshape(-1, 2)
                pairs = trained[rng.random((size, len(trained))).argsort(axis=1)[:, :OBJECTS]]
                return self.stage(rng, family, pairs, named, np.full(size, -1), np.zeros(size, bool))
            family = rng.integers(self.families, size=size)
            pairs = self.slots[family]
            if rule.unseen:
                pairs[np.arange(size), named] = np.array(UNSEEN_PAIRS)[rng.integers(len(UNSEEN_PAIRS), size=size)]
            if rule.worded:
                form = other_forms(rng, size)
            if rule.chained:
                named = rng.integers(2, size=size)
                then = 1 - named
            fixed = np.zeros(size, bool)
            if self.fixed_layouts and not rule.shuffled:
                fixed = rng.random(size) < self.fixed_layouts
            return self.stage(rng, family, pairs, named, np.zeros(size, int), fixed, form, then)

        return self._blocks(block, rule.stream, seed, count)

    def _blocks(self, block, stream: int, seed: int, count: int) -> Episodes:
        """Draw in blocks with a generator each, so that episode 17 is the same whether 20 or 2000 are asked
        for."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        parts = [block(np.random.default_rng([self.seed, stream, seed, k]), _BLOCK) for k in range(-(-count // _BLOCK))]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts])[:count] for name in ARRAYS}
        return Episodes(**arrays, verbs=self.verbs)

    def stage(self, rng, family, pairs, named, usual, fixed, form=None, then=None) -> Episodes:
        """Lay out, light and start scenes whose content is given; for rules of your own about what to show
        and to name.

        `family` int (B,), `pairs` int (B, O, 2), `named` and `usual` int (B,), `fixed` bool (B,): use the
        family's fixed layout. `form` int (B, 4), the wording, and `then` int (B,), the second slot named or -1;
        None is plain words and one object.
        """
        count = len(family)
        cells = rng.random((count, CELLS * CELLS)).argsort(axis=1)[:, :OBJECTS]
        if fixed.any():
            kinds, which = np.unique(family, return_inverse=True)
            streams = (np.random.default_rng([self.seed, _FAMILY_STREAM, int(k)]) for k in kinds)
            own = np.stack([rng.permutation(CELLS**2)[:OBJECTS] for rng in streams])
            cells = np.where(fixed[:, None], own[which], cells)
        shift = rng.integers(-2, 3, size=(count, OBJECTS, 2))
        places = (np.stack([cells % CELLS, cells // CELLS], axis=2) + 0.5) / CELLS + shift / IMAGE_SIZE
        start = np.concatenate([rng.uniform(0.1, 0.9, size=(count, 2)), np.ones((count, 1))], axis=1)
        return Episodes(
            family=family,
            pairs=pairs,
            places=places.astype(np.float32),
            light=rng.uniform(0.92, 1.08, size=count).astype(np.float32),
            start=start.astype(np.float32),
            verb=rng.integers(len(self.verbs), size=count),
            named=named,
            usual=usual,
            bulge=(rng.choice([-1.0, 1.0], size=count) * rng.uniform(0.08, 0.2, size=count)).astype(np.float32),
            form=np.tile(PLAIN, (count, 1)) if form is None else form,
            then=np.full(count, -1) if then is None else then,
            verbs=self.verbs,
        )

    def entropy_bits(self) -> float:
        """What the scene leaves open about the instruction: H(instruction | scene) in bits, the most that
        listening can add."""

        def bits(share: float) -> float:
            return -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)

        return bits(self.usual_share) + bits(self.chained) + math.log2(len(self.verbs))

    def blind_success(self, split: str) -> float:
        """Success, in [0, 1], of the best policy that never hears the instruction: it goes for the usual
        target with one verb.

        Where there is no usual target (`environment`) any object is as good as another. Where demonstrations
        chain, it knows which two objects `chained` names and guesses the order; where none does, nothing has
        ever moved it on from the first.
        """
        if SPLITS[split].chained:
            return 0.5 / len({VERBS[verb] for verb in self.verbs}) if self.chained else 0.0
        share = {"usual": 1.0, "any": 1.0 / OBJECTS}.get(SPLITS[split].slot, 0.0)
        return share / len({VERBS[verb] for verb in self.verbs})
