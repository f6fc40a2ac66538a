"""The test splits: what each shows, names and says that training does not, and the objects kept out of training."""

import difflib
from dataclasses import dataclass

from apt_plugin.tabletop.drawing import COLOURS, SHAPES

OBJECTS = 4
SLOTS = ("usual", "rare", "elsewhere", "never")
#: In no demonstration, neither named nor in view; drawable, and known to a VLM grounded in the full language.
UNSEEN_COLOURS, UNSEEN_SHAPES = ("cyan",), ("bowl",)
#: What demonstrations show: the first so many of `drawing.COLOURS` and `drawing.SHAPES`.
TRAINED_COLOURS, TRAINED_SHAPES = len(COLOURS) - len(UNSEEN_COLOURS), len(SHAPES) - len(UNSEEN_SHAPES)
#: Colour-shape pairs with an unseen colour, an unseen shape, or both.
UNSEEN_PAIRS = tuple(
    (c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES)) if c >= TRAINED_COLOURS or s >= TRAINED_SHAPES
)


@dataclass(frozen=True)
class Split:
    """One test. To add one: a new stream number and a slot (or "any"); `World.tests` only if that is not enough.

    `slot` is what the instruction names, `says` the line for a report. `shuffled` ignores `World.fixed_layouts`;
    `unseen` puts an unseen object into the slot; `worded` says it in other words; `chained` names two trained
    objects of the scene, to be reached in that order.
    """

    stream: int
    slot: str
    says: str
    new_background: bool = False
    shuffled: bool = False
    unseen: bool = False
    worded: bool = False
    chained: bool = False


#: Scenes come from trained families and, with `World.fixed_layouts`, in their layout, unless a line says otherwise.
SPLITS: dict[str, Split] = {
    "seen": Split(11, "usual", "trained family, its usual target"),
    "rare": Split(12, "rare", "trained family, its rare but trained target"),
    "task": Split(13, "elsewhere", "in view in this family, named only in another one"),
    "position": Split(16, "usual", "seen, but the layout is always shuffled", shuffled=True),
    "combination": Split(14, "never", "a colour-shape pair in view and named in no demonstration"),
    "object": Split(17, "never", "a colour or shape that no demonstration shows, known to the VLM", unseen=True),
    "environment": Split(
        15, "any", "new backgrounds, trained pairs in new company, any of them named", True, shuffled=True
    ),
    "wording": Split(18, "rare", "the rare target in words known to the VLM and new to the robot", worded=True),
    "chained": Split(19, "any", "both trained targets in one instruction, to be done in order", chained=True),
}


def split_rule(split: str) -> Split:
    """The rule of a split of `SPLITS`.

    Raises:
        KeyError: no such split, with the nearest one.
    """
    if split not in SPLITS:
        near = difflib.get_close_matches(split, SPLITS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"No split {split!r}.{hint} Splits: {', '.join(SPLITS)}.")
    return SPLITS[split]
