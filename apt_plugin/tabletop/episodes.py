"""A batch of episodes: scene, instruction and start; how it looks, what it says, how it is done and judged.

Shape legend: `B` episodes, `O` = 4 objects, `L` legs (1, or 2 where an instruction names two objects in turn),
`T` = L x `arm.HORIZON` control steps.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.drawing import COLOURS, SHAPES, draw
from apt_plugin.tabletop.words import VERBS, pair_name, say

#: Where an episode ended, see `Episodes.outcome`; with two legs, which of the two objects were reached when.
WHERE = ("named", "usual", "other", "none")
CHAINED_WHERE = ("both", "first only", "second only", "wrong order", "other", "none")


@dataclass(frozen=True)
class Episodes:
    """A batch of scenes with an instruction and a start each; arrays only, so slicing is cheap.

    `family` int (B,); `pairs` int (B, O, 2) colour and shape; `places` float32 (B, O, 2); `light` float32
    (B,); `start` float32 (B, 3); `verb` int (B,) into the world's verbs; `named` int (B,) the slot named;
    `usual` int (B,) the slot this family usually names, -1 where it has none; `bulge` float32 (B,) the
    demonstrator's swing; `form` int (B, 4) the wording (`words.FORMS`), 0 is plain; `then` int (B,) the slot
    named second, -1 where there is one object only.
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
    form: np.ndarray
    then: np.ndarray
    verbs: tuple[str, ...] = field(default=tuple(VERBS))

    def __len__(self) -> int:
        return len(self.family)

    def __getitem__(self, index) -> "Episodes":
        """A sub-batch; an integer gives a batch of one."""
        index = slice(index, index + 1 or None) if isinstance(index, int | np.integer) else index
        return Episodes(**{name: getattr(self, name)[index] for name in ARRAYS}, verbs=self.verbs)

    def about(self, named: np.ndarray) -> "Episodes":
        """The same scenes with other objects named: int (B,), slots."""
        return replace(self, named=np.asarray(named))

    @property
    def legs(self) -> int:
        """1, or 2 where every instruction names two objects.

        Raises:
            ValueError: the batch has both kinds, whose arrays differ in length; see `by_legs`.
        """
        chained = self.then >= 0
        if chained.any() and not chained.all():
            raise ValueError(
                f"{int(chained.sum())} of {len(self)} episodes have two legs, the others one: take them apart, "
                "for part in episodes.by_legs()."
            )
        return 2 if chained.any() else 1

    def by_legs(self) -> list["Episodes"]:
        """The episodes with one leg, then those with two; empty parts are left out."""
        parts = [np.flatnonzero(self.then < 0), np.flatnonzero(self.then >= 0)]
        return [self[rows] for rows in parts if len(rows)]

    def instructions(self) -> list[str]:
        """For example "grasp the red cube", or "grasp the red cube and the blue ring"; B strings."""
        texts = []
        for row in range(len(self)):
            colour, shape = self.pairs[row, self.named[row]]
            text = say(self.verbs[self.verb[row]], list(COLOURS)[colour], SHAPES[shape], self.form[row])
            second = f" and the {pair_name(self.pairs[row, self.then[row]])}" if self.then[row] >= 0 else ""
            texts.append(text + second)
        return texts

    def render(self, state: np.ndarray) -> np.ndarray:
        """The camera image for gripper states (B, 3): uint8 (B, P, P, 3), P = `drawing.IMAGE_SIZE`."""
        return draw(self.family, self.pairs[..., 0], self.pairs[..., 1], self.places, self.light, state)

    def closes(self) -> np.ndarray:
        """Whether each instruction asks for closed jaws: bool (B,)."""
        return np.array([VERBS[verb] for verb in self.verbs])[self.verb]

    def demonstrate(self, slot: np.ndarray | None = None, closes: np.ndarray | None = None) -> np.ndarray:
        """The demonstrator's actions, float32 (B, T, 3); `slot` (for every leg), `closes` replace what the
        instruction says."""
        closes, state, legs = self.closes() if closes is None else closes, self.start, []
        for leg in (self.named, self.then)[: self.legs]:
            goal = self.places[np.arange(len(self)), leg if slot is None else slot]
            legs.append(arm.demonstrate(state, goal, closes, self.bulge))
            for t in range(arm.HORIZON):
                state = arm.step(state, legs[-1][:, t])
        return np.concatenate(legs, axis=1)

    def outcome(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """Judge the gripper states at the end of each leg: (B, 3), or (B, L, 3).

        Returns:
            `success` bool (B,): at the named object, jaws as the verb asks, in every leg; `reached` int (B,) or
            (B, L): slot or -1; `where` str (B,): one of `WHERE` (usual: the habit, when something else was
            named), with two legs of `CHAINED_WHERE`.

        Raises:
            ValueError: states of another number of legs than the episodes have.
        """
        states = state[:, None] if state.ndim == 2 else state
        if states.shape[1] != self.legs:
            raise ValueError(f"these episodes have {self.legs} legs; got final states {state.shape}, one a leg needed.")
        at = np.stack([arm.reached(states[:, leg], self.places) for leg in range(self.legs)], axis=1)
        wanted = np.stack([self.named, self.then][: self.legs], axis=1)
        jaws = (states[..., 2] <= 0.5) == self.closes()[:, None]
        success = ((at == wanted) & jaws).all(axis=1)
        if self.legs == 1:
            at = at[:, 0]
            rest = np.where(at == self.usual, "usual", "other")
            where = np.where(at < 0, "none", np.where(at == self.named, "named", rest))
        else:
            where = self._where_in_turn(at)
        return {"success": success, "reached": at, "where": where}

    def _where_in_turn(self, at: np.ndarray) -> np.ndarray:
        first, second = (at == self.named[:, None]), (at == self.then[:, None])
        cases = {
            "both": first[:, 0] & second[:, 1],
            "wrong order": second[:, 0] & first[:, 1],
            "first only": first.any(axis=1),
            "second only": second.any(axis=1),
            "none": (at < 0).all(axis=1),
        }
        return np.select(list(cases.values()), list(cases), "other")


ARRAYS = tuple(name for name in Episodes.__dataclass_fields__ if name != "verbs")
