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

Everything is drawn from `numpy.random.default_rng([world.seed, stream, seed, block])`: equal numbers give
equal bits. Training and each split have a stream of their own. Only numpy is needed here.

Shape legend: `B` episodes, `O` = 4 objects, `T` control steps (`arm.HORIZON`).
"""

import difflib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.drawing import COLOURS, IMAGE_SIZE, SHAPES, draw

OBJECTS = 4
CELLS = 3  # the table is CELLS x CELLS; objects sit in cells, shifted by up to two pixels
SLOTS = ("usual", "rare", "elsewhere", "never")
#: verb -> does it end with closed jaws
VERBS: dict[str, bool] = {"reach": False, "grasp": True}
_TRAIN_STREAM, _FAMILY_STREAM = 1, 2
_BLOCK = 256


@dataclass(frozen=True)
class Split:
    """One test. To add one: a new stream number and a slot (or "any"); `World.tests` only if that is not enough."""

    stream: int
    slot: str
    new_background: bool
    says: str


SPLITS: dict[str, Split] = {
    "seen": Split(11, "usual", False, "trained family, its usual target"),
    "rare": Split(12, "rare", False, "trained family, its rare but trained target"),
    "task": Split(13, "elsewhere", False, "in view in this family, named only in another one"),
    "combination": Split(14, "never", False, "a colour-shape pair in view and named in no demonstration"),
    "environment": Split(15, "any", True, "new backgrounds, trained pairs in new company, any of them named"),
}


@dataclass(frozen=True)
class Episodes:
    """A batch of scenes with an instruction and a start each; arrays only, so slicing is cheap.

    `family` int (B,); `pairs` int (B, O, 2) colour and shape; `places` float32 (B, O, 2); `light` float32
    (B,); `start` float32 (B, 3); `verb` int (B,) into the world's verbs; `named` int (B,) the slot named;
    `usual` int (B,) the slot this family usually names, -1 where it has none; `bulge` float32 (B,) the
    demonstrator's swing.
    """

    family: np.ndarray
    pairs: np.ndarray
    places: np.ndarray
    light: np.ndarray
    start: np.ndarray
    verb: np.ndarray
    named: np.ndarray
    usual: np.ndarray
    bulge: np.ndarray
    verbs: tuple[str, ...] = field(default=tuple(VERBS))

    def __len__(self) -> int:
        return len(self.family)

    def __getitem__(self, index) -> "Episodes":
        """A sub-batch; an integer gives a batch of one."""
        index = slice(index, index + 1 or None) if isinstance(index, int | np.integer) else index
        return Episodes(**{name: getattr(self, name)[index] for name in _ARRAYS}, verbs=self.verbs)

    def about(self, named: np.ndarray) -> "Episodes":
        """The same scenes with other objects named: int (B,), slots."""
        return replace(self, named=np.asarray(named))

    def instructions(self) -> list[str]:
        """For example "grasp the red cube"; B strings."""
        rows = np.arange(len(self))
        pairs = self.pairs[rows, self.named]
        return [f"{self.verbs[v]} the {pair_name(p)}" for v, p in zip(self.verb, pairs, strict=True)]

    def render(self, state: np.ndarray) -> np.ndarray:
        """The camera image for gripper states (B, 3): uint8 (B, P, P, 3), P = `drawing.IMAGE_SIZE`."""
        return draw(self.family, self.pairs[..., 0], self.pairs[..., 1], self.places, self.light, state)

    def closes(self) -> np.ndarray:
        """Whether each instruction asks for closed jaws: bool (B,)."""
        return np.array([VERBS[verb] for verb in self.verbs])[self.verb]

    def demonstrate(self, slot: np.ndarray | None = None, closes: np.ndarray | None = None) -> np.ndarray:
        """The demonstrator's actions, float32 (B, T, 3); `slot`, `closes` replace what the instruction says."""
        slot = self.named if slot is None else slot
        goal = self.places[np.arange(len(self)), slot]
        return arm.demonstrate(self.start, goal, self.closes() if closes is None else closes, self.bulge)

    def outcome(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """Judge final gripper states (B, 3).

        Returns:
            `success` bool (B,): at the named object, jaws as the verb asks; `reached` int (B,): slot or -1;
            `where` str (B,): "named", "usual" (the habit, when something else was named), "other" or "none".
        """
        at = arm.reached(state, self.places)
        where = np.where(
            at < 0, "none", np.where(at == self.named, "named", np.where(at == self.usual, "usual", "other"))
        )
        closed = state[:, 2] <= 0.5
        return {"success": (at == self.named) & (closed == self.closes()), "reached": at, "where": where}


_ARRAYS = tuple(name for name in Episodes.__dataclass_fields__ if name != "verbs")


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
            (LIBERO is near 1).
    """

    seed: int = 0
    families: int = 8
    new_backgrounds: int = 4
    usual_share: float = 0.8
    verbs: tuple[str, ...] = tuple(VERBS)
    fixed_layouts: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "verbs", tuple(self.verbs))  # a list from a config file compares equal, too
        if not 2 <= self.families <= 10:
            raise ValueError(f"families must be 2 to 10 (there are 30 colour-shape pairs), got {self.families}.")
        if not 0.5 <= self.usual_share <= 1.0:
            raise ValueError(f"usual_share must be in [0.5, 1], got {self.usual_share}: below 0.5 the rare is usual.")
        if not 0.0 <= self.fixed_layouts <= 1.0:
            raise ValueError(f"fixed_layouts is a share, in [0, 1], got {self.fixed_layouts}.")
        if not self.verbs or not set(self.verbs) <= set(VERBS):
            raise ValueError(f"verbs must be some of {tuple(VERBS)}, got {self.verbs}.")

    @cached_property
    def slots(self) -> np.ndarray:
        """Objects of each family by slot: int (families, O, 2), colour and shape."""
        rng = np.random.default_rng([self.seed, _FAMILY_STREAM])
        # The never-named pairs are a random partial diagonal: each colour and each shape stays well
        # represented among the others.
        shape_of = rng.permutation(len(COLOURS)) % len(SHAPES)
        never = [(colour, int(shape_of[colour])) for colour in range(len(COLOURS))]
        others = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES)) if (c, s) not in never]
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
            named = (rng.random(size) >= self.usual_share).astype(
                int
            )  # slot 0 is the usual target, slot 1 the rare one
            fixed = rng.random(size) < self.fixed_layouts
            return self.stage(rng, family, self.slots[family], named, np.zeros(size, int), fixed)

        return self._blocks(block, _TRAIN_STREAM, seed, count)

    def tests(self, split: str, count: int, seed: int = 0) -> Episodes:
        """`count` episodes of a split of `SPLITS`; fewer are the first of more. Layouts are always random.

        Raises:
            KeyError: no such split.
        """
        if split not in SPLITS:
            near = difflib.get_close_matches(split, SPLITS, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"No split {split!r}.{hint} Splits: {', '.join(SPLITS)}.")
        rule = SPLITS[split]

        def block(rng, size: int) -> Episodes:
            named = rng.integers(OBJECTS, size=size)
            if rule.slot != "any":
                named = np.full(size, SLOTS.index(rule.slot))
            random_layout = np.zeros(size, bool)
            if not rule.new_background:
                family = rng.integers(self.families, size=size)
                return self.stage(rng, family, self.slots[family], named, np.zeros(size, int), random_layout)
            family = self.families + rng.integers(self.new_backgrounds, size=size)
            trained = self.slots[:, :2].reshape(-1, 2)
            pairs = trained[rng.random((size, len(trained))).argsort(axis=1)[:, :OBJECTS]]
            return self.stage(rng, family, pairs, named, np.full(size, -1), random_layout)

        return self._blocks(block, rule.stream, seed, count)

    def _blocks(self, block, stream: int, seed: int, count: int) -> Episodes:
        """Draw in blocks with a generator each, so that episode 17 is the same whether 20 or 2000 are asked
        for."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        parts = [block(np.random.default_rng([self.seed, stream, seed, k]), _BLOCK) for k in range(-(-count // _BLOCK))]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts])[:count] for name in _ARRAYS}
        return Episodes(**arrays, verbs=self.verbs)

    def stage(self, rng, family, pairs, named, usual, fixed) -> Episodes:
        """Lay out, light and start scenes whose content is given; for rules of your own about what to show
        and to name.

        `family` int (B,), `pairs` int (B, O, 2), `named` and `usual` int (B,), `fixed` bool (B,): use the
        family's fixed layout.
        """
        count = len(family)
        cells = rng.random((count, CELLS * CELLS)).argsort(axis=1)[:, :OBJECTS]
        if fixed.any():
            own = np.stack(
                [
                    np.random.default_rng([self.seed, _FAMILY_STREAM, int(k)]).permutation(CELLS**2)[:OBJECTS]
                    for k in family
                ]
            )
            cells = np.where(fixed[:, None], own, cells)
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
            verbs=self.verbs,
        )

    def entropy_bits(self) -> float:
        """What the scene leaves open about the instruction: H(instruction | scene) in bits, the most that
        listening can add."""
        shares = [share for share in (self.usual_share, 1 - self.usual_share) if share > 0]
        return -sum(share * math.log2(share) for share in shares) + math.log2(len(self.verbs))

    def blind_success(self, split: str) -> float:
        """Success, in [0, 1], of the best policy that never hears the instruction: it goes for the usual
        target with one verb.

        Where there is no usual target (`environment`) any object is as good as another.
        """
        share = {"usual": 1.0, "any": 1.0 / OBJECTS}.get(SPLITS[split].slot, 0.0)
        return share / len({VERBS[verb] for verb in self.verbs})


def pair_name(pair) -> str:
    """ "red cube" for a colour-shape pair of indices."""
    return f"{list(COLOURS)[int(pair[0])]} {SHAPES[int(pair[1])]}"
