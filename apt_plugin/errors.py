"""One error type, and the did-you-mean that its messages carry."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class AptError(ValueError):
    """Something the user can mend. The message says what was wrong, the value seen, and what to write instead."""


def last_words(error: AptError) -> str:
    """What to print of an error that ends a process: its message, without the traceback that PyTorch's data workers
    put before it."""
    text = str(error)
    head, found, words = text.rpartition(f"{AptError.__module__}.{AptError.__name__}: ")
    return words.strip() if found and "Traceback (most recent call last)" in head else text


_STILL = "What was whole is still whole: make room, then resume by the same command."
_TORCH_SAVE = ("inline_container.cc", "PytorchStreamWriter failed writing")  # the system's reason is lost in these


def disk_full(error: BaseException) -> str:
    """What to print where a write failed because the disk, or the user's share of it, is full; "" for another error.

    Libraries that write in another language (safetensors, PyTorch, tensorstore) put the system's words into errors of
    their own kinds.
    """
    seen: BaseException | None = error
    while seen is not None:
        for words in map(os.strerror, (errno.ENOSPC, errno.EDQUOT)):
            if words in str(seen):
                where = f": {seen.filename}" if isinstance(seen, OSError) and seen.filename else ""
                return f"{words}{where}. {_STILL}"
        if any(words in str(seen) for words in _TORCH_SAVE):
            return f"PyTorch could not write a file to its end, as on a full disk. {_STILL}"
        seen = seen.__cause__ or seen.__context__
    return ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence to append to an error: the nearest known name, then all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Known: {', '.join(known)}."


def choose(field: str, value: str, known: Iterable[str]) -> str:
    """Return `value` when it is one of `known`.

    Raises:
        AptError: naming the field, the value seen and the nearest known one.
    """
    known = tuple(known)
    if value not in known:
        raise AptError(f"{field} is {value!r}.{did_you_mean(str(value), known)}")
    return value
