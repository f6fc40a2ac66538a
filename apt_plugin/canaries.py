"""What no signature shows, found out by running something tiny of a host: order of tokens, meaning of states, names of
weights.

A host is run in a process of its own: the launcher imports no framework, and another release may break in any way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LIMIT = 600  # seconds; a few are needed, most of them for the host's imports
ALONE = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Canary:
    """One behaviour that the plugin relies on.

    Args:
        name: what it is about, in a few words.
        run: tries it on random weights; why it does not hold, None when it does. It may raise anything.
    """

    name: str
    run: Callable[[], str | None]


def failed(canaries: Iterable[Canary]) -> list[str]:
    """ "name: why" of each canary that does not hold."""
    out = []
    for canary in canaries:
        try:
            why = canary.run()
        except Exception as error:  # of a host that nobody has seen: whatever it is, it is the answer
            why = f"{type(error).__name__}: {error}".splitlines()[0]
        if why is not None:
            out.append(f"{canary.name}: {why}")
    return out


def tell(canaries: Iterable[Canary]) -> None:
    """Write what fails as the last line of stdout, for `tried`."""
    print(json.dumps(failed(canaries)), flush=True)


def tried(command: Sequence[str], environment: dict[str, str]) -> list[str]:
    """What a process that ends with `tell` found."""
    try:
        done = subprocess.run(
            command, env=os.environ | ALONE | environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"canaries: not over after {LIMIT} s"]
    lines = done.stdout.strip().splitlines()
    try:
        return list(map(str, json.loads(lines[-1])))
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [f"canaries: they did not run, status {done.returncode}: {last}"]


def python(module: str, *arguments: str) -> list[str]:
    """The command of a module in this Python."""
    return [sys.executable, "-m", module, *arguments]


def order(by_words: Sequence[bool], by_images: Sequence[bool], words: int, behind: int = 0) -> str | None:
    """Whether a prefix is images, words, and `behind` tokens of neither.

    Args:
        by_words, by_images: per prefix token, whether it became another when the words, the images did.
        words: how many of them are the prompt's.
    """
    images = len(by_words) - words - behind
    wanted = [False] * images + [True] * words + [False] * behind
    seen = [True] * images + [False] * (words + behind)
    if list(by_words) != wanted:
        return f"words are not tokens {images} to {images + words - 1}, behind the images; found at {_at(by_words)}"
    return None if list(by_images) == seen else f"images are not tokens 0 to {images - 1}; found at {_at(by_images)}"


def layout(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """Whether weights have the names under which bases are published and records know them."""
    found = set(names)
    missing = [name for name in wanted if name not in found]
    return f"no weight is called {', '.join(missing)}" if missing else None


def _at(moved: Sequence[bool]) -> str:
    places = [i for i, one in enumerate(moved) if one]
    return f"{places[0]} to {places[-1]} ({len(places)})" if places else "none"
