"""A sub-word tokenizer at its nastiest: greedy, longest piece first, with pieces across every boundary of a prompt.

Real vocabularies (SentencePiece without splitting at punctuation, byte-level BPE) do have such pieces; PaliGemma's
does not for common words, which is why a leak of this kind shows up on the robot and not in a smoke test.
"""

from __future__ import annotations

PIECES = (
    "Task", "Task:", "Task: ", "Task: pick", ": ", ": p", " pick", "pick", " up", " the", " cup", "cup", "cup,",
    " cup,", "bowl", " bowl", "p,", ",", ", ", ", S", ", State", ", State:", "State", "State:", " State", "e: 1", ": 1",
    " 12", "12", "1", "2", " 255", ";", ";\n", "\nAction", "Action: ", "\n", "p\n", "cup\n", "Task: , State:",
)  # fmt: skip
_IDS = {piece: 1000 + number for number, piece in enumerate(PIECES)}
_LONGEST = max(map(len, PIECES))


def pieces(text: str) -> list[tuple[int, int, int]]:
    """(id, begin, end) of each piece; a character without a piece is one by itself."""
    out, at = [], 0
    while at < len(text):
        end = next((e for e in range(min(len(text), at + _LONGEST), at, -1) if text[at:e] in _IDS), at + 1)
        out.append((_IDS.get(text[at:end], 10_000 + ord(text[at])), at, end))
        at = end
    return out


def encode(text: str) -> list[int]:
    return [number for number, _, _ in pieces(text)]
