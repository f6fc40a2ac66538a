"""What an entry is found by."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Key(NamedTuple):
    """One entry. Frame-keyed caches (Stage 1) leave `words` empty, caches without augmentation have view 0 only."""

    frame: int  # the frame's own number in its data set
    view: int = 0
    words: bytes = b""  # words_of(instruction)

    def text(self) -> str:
        view = f", view {self.view}" if self.view else ""
        return f"frame {self.frame}{view}{', instruction ' + self.words.hex()[:8] if self.words else ''}"


def words_of(instruction: str) -> bytes:
    """16 bytes that stand for an instruction, as the data set spells it."""
    return hashlib.blake2b(instruction.encode(), digest_size=16).digest()


def order_of(keys: list[Key]) -> str:
    """SHA-256 over the keys in their order: what two processes must agree on to share the work."""
    total = hashlib.sha256()
    for key in keys:
        total.update(f"{key.frame}|{key.view}|{key.words.hex()}\n".encode())
    return total.hexdigest()
