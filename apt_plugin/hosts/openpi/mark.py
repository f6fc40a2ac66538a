"""The mark in our JAX checkpoints, by which a stock openpi refuses them in words.

openpi merges by name and drops what it does not know: a stock config would train from our weights, or serve them,
without the gates and without the rules on language. So each tree that we save has one leaf more, `apt_mark`, of a
type of our own. orbax reads such a leaf through the handler of its type, which is here; a process without it stops
with `Unknown type: "<the sentence below>"`. The other leaves are the stock tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

MARK = "apt_mark"
# Stored in every checkpoint and compared on reading: a changed sentence must leave the old one readable.
WORDS = (
    "checkpoint of apt-plugin, which a stock openpi config would run without its rules on language. "
    "Train from it, or serve it, by: apt-plugin run <the same command>"
)


class Mark:
    """The leaf."""


class MarkHandler(ocp.type_handlers.NumpyHandler):
    """Writes a number of no meaning, under a type's name that says what the checkpoint is."""

    def typestr(self) -> str:
        return WORDS

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        return await super().serialize([np.zeros(1, np.float32) for _ in values], infos, args)

    def memory_size(self, values: Any) -> list[tuple[int, int]]:
        return [(4, 4) for _ in values]


def readable() -> None:
    """Let this process read and write marked checkpoints."""
    if not ocp.type_handlers.has_type_handler(Mark):
        ocp.type_handlers.register_type_handler(Mark, MarkHandler())


def marked(params: Any) -> dict[str, Any]:
    """An nnx.State as openpi's checkpoint manager takes it, with the mark beside its parts."""
    readable()
    # `value` as behind every other leaf: openpi strips it only where all leaves have it.
    return {**{name: params[name] for name in params}, MARK: {"value": Mark()}}


def unmarked(tree: Any) -> dict[str, Any]:
    """A restored tree (nested dict) without the mark."""
    return {name: part for name, part in tree.items() if name != MARK}


def unmarked_state(tree: Any) -> nnx.State:
    """What a restore into `marked(state)` gave, as that state."""
    return nnx.State.from_flat_path(nnx.State(unmarked(tree)).flat_state())
