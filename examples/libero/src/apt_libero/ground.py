"""A tiny π0.5 whose VLM knows LIBERO's objects: lerobot's own classes, the tabletop's way of grounding, real renders.

    naming    the image token over an object predicts the object's name, any other one "table"; each its own place
    pointing  the last word of a name predicts the place of the object, also at the end of LIBERO's own sentence

Words keep the vectors that they came with (`words.vectors`), so what a held-out name means is left to the encoder.

    B lessons   N = 64 cells = image tokens   O objects in view   L prompt tokens   D width
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apt_libero import looks, words
from apt_libero.plan import KEYS, RANGES
from apt_plugin.errors import AptError
from apt_plugin.files import write_json
from apt_plugin.tabletop import checkpoint, grounding, tokenizer
from apt_plugin.tabletop.objectives import Grounding, descend

DONE = "grounding.json"  # written last
PROMPT = 32  # tokens: "<bos> Task : pick up the alphabet soup and place it in the basket , State : (8) ; Action :"
CHUNK, REPLANNED = 8, 4  # actions of a chunk, and how many of them are done before the next
SIZES = {**grounding.SIZES, "vision_depth": 2, "expert_width": 128, "expert_mlp": 256}
PROBED = 0.15  # share of each scene's pictures that no lesson has


@dataclass
class Lessons:
    """`images` uint8 [B, 3, P, P]; `tokens` int64 [B, L]; `asked` int64 [B], the name's last word; `end` [B], the
    sentence's; `answer` int64 [B], a cell; `named` int64 [B, N], the object over a cell, else the number of names."""

    images: Tensor
    tokens: Tensor
    asked: Tensor
    end: Tensor
    answer: Tensor
    named: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def prompts(self, rows: Tensor, short: bool) -> Tensor:
        """`short`: up to the end of the sentence, without the state."""
        if not short:
            return self.tokens[rows]
        length = int(self.end[rows].max()) + 1
        return self.tokens[rows, :length] * (torch.arange(length) <= self.end[rows, None])


def lessons(out: Path, pixels: int, count: int, seed: int, probed: bool, held_out: bool = False) -> Lessons:
    """`count` questions about pictures of all scenes.

    Args:
        probed: about pictures that no lesson has. held_out: by the names that no lesson has, and only those.

    Raises:
        AptError: there are no pictures.
    """
    rng = np.random.default_rng([seed, probed, held_out])
    stored = [np.load(path) for path in sorted(looks.folder(out, pixels).glob("*.npz"))]
    if not stored:
        raise AptError(f"{looks.folder(out, pixels)} has no pictures: apt-libero looks comes first.")
    stored = [{name: scene[name] for name in ("images", "pixels", "names")} for scene in stored]
    known, rows = words.ids(), []
    while len(rows) < count:
        scene = stored[rng.integers(len(stored))]
        whole = len(scene["images"])
        first = whole - round(PROBED * whole)
        at = int(rng.integers(first, whole) if probed else rng.integers(first))
        about = int(rng.integers(len(scene["names"])))
        name, other = str(scene["names"][about]), words.OTHER[str(scene["names"][about])]
        if held_out and other not in words.HELD_OUT:
            continue
        said = other if held_out or (other not in words.HELD_OUT and rng.random() < 0.4) else name
        rows.append((scene["images"][at], *_prompt(said, known, rng), *_cells(scene, at, about, pixels)))
    images, tokens, asked, end, answer, named = zip(*rows, strict=True)
    numbers = (torch.from_numpy(np.array(each)).long() for each in (tokens, asked, end, answer, named))
    return Lessons(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), *numbers)


def _prompt(name: str, known: dict[str, int], rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    said = words.SENTENCE.format(name).split()
    state = [str(number) for number in rng.integers(256, size=len(RANGES["observation.state"]))]
    whole = ["<bos>", "Task", ":", *said, ",", "State", ":", *state, ";", "Action", ":"]
    tokens = np.zeros(PROMPT, int)
    tokens[: len(whole)] = [known[word] for word in whole]
    return tokens, 3 + 2 + len(name.split()), 3 + len(said) - 1  # "pick up the" stands before the name


def _cells(scene: Any, at: int, about: int, pixels: int) -> tuple[int, np.ndarray]:
    column, row = np.clip(scene["pixels"][at].T * words.GRID // pixels, 0, words.GRID - 1).astype(int)
    cells, named = row * words.GRID + column, np.full(words.GRID**2, len(words.NAMES))
    named[cells] = [words.NAMES.index(str(name)) for name in scene["names"]]
    return int(cells[about]), named


def loss_and_hits(model: Any, some: Lessons, rows: Tensor, mode: str, short: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """All objectives, averaged over the layers, and what the last layer got right: bool [B] or [objects]."""
    language = model.paligemma.model.language_model
    table = language.get_input_embeddings().weight
    table = table / (2 * table.std())  # the vectors stay as they came: without this no answer could be sure
    known, cells = words.ids(), words.GRID**2
    places = table[torch.tensor([known[place] for place in words.PLACES])]
    spoken = [table[torch.tensor([known[word] for word in name.split()])].mean(0) for name in (*words.NAMES, "table")]
    names = torch.stack(spoken)
    states = grounding.hidden_states(model, some.images[rows], some.prompts(rows, short), mode)
    layers = [*(language.norm(state)[0] for state in states[:-1]), states[-1]]
    each, named, answer = torch.arange(len(rows)), some.named[rows], some.answer[rows]
    weight = torch.ones(len(words.NAMES) + 1)
    weight[-1] = 0.1  # most cells are empty
    own = torch.arange(cells).repeat(len(rows))
    total = torch.zeros(())
    for number, state in enumerate(layers):
        said = F.cross_entropy((state[:, :cells] @ names.T).flatten(0, 1), named.flatten(), weight)
        total = total + (said + 0.3 * F.cross_entropy((state[:, :cells] @ places.T).flatten(0, 1), own)) / len(layers)
        if number >= 2:
            for place in (some.asked, some.end):
                points = state[each, cells + place[rows]] @ places.T
                total = total + 0.5 * F.cross_entropy(points, answer) / (len(layers) - 2)
    last = layers[-1]
    seen = named < len(words.NAMES)
    pointed = (last[each, cells + some.asked[rows]] @ places.T).argmax(-1)
    return total, {"pointing": pointed == answer, "naming": (last[:, :cells] @ names.T).argmax(-1)[seen] == named[seen]}


@torch.no_grad()
def examine(model: Any, out: Path, pixels: int, count: int) -> dict[str, float]:
    """Accuracies on pictures that no lesson has, under both prefixes; pointing at any object in view makes 0.17."""
    found = {}
    for what, held_out in (("names of lessons", False), ("held-out names", True)):
        some = lessons(out, pixels, count, 0, True, held_out)
        for mode in ("isolated", "native"):
            hits = [loss_and_hits(model, some, rows, mode, False)[1] for rows in torch.arange(count).split(64)]
            for kind in ("pointing", "naming"):
                value = float(torch.cat([each[kind] for each in hits]).float().mean())
                if kind == "pointing" or not held_out:
                    found[f"{mode}, {kind}, {what}"] = round(value, 3)
    return found


def stats() -> dict[str, dict[str, np.ndarray]]:
    """Normalisation without a data set: `RANGES`."""
    found = {}
    for key, limits in RANGES.items():
        low, high = np.array(limits).T
        middle, half = (low + high) / 2, (high - low) / 2
        found[key] = {"min": low, "max": high, "mean": middle, "std": half, "q01": low, "q99": high}
    return found


def build(out: Path, pixels: int, seed: int) -> tuple[Any, str]:
    """A `pi05_tiny` of random weights whose words have the encoder's vectors; and where those come from."""
    from lerobot.configs import FeatureType, PolicyFeature

    from apt_plugin.tabletop.host.configuration_pi05_tiny import PI05TinyConfig
    from apt_plugin.tabletop.host.modeling_pi05_tiny import PI05TinyPolicy

    added = words.new_words()
    torch.manual_seed(seed)
    config = PI05TinyConfig(
        device="cpu", push_to_hub=False, sizes={**SIZES, "vocab": len(words.ids()), "patch": pixels // words.GRID},
        tokenizer_name=str(tokenizer.save(out / "tokenizer", more=added)), tokenizer_max_length=PROMPT,
        image_resolution=(pixels, pixels), chunk_size=CHUNK, n_action_steps=REPLANNED, max_state_dim=8,
        max_action_dim=7, num_inference_steps=5,
        input_features={
            KEYS[0]: PolicyFeature(FeatureType.VISUAL, (3, pixels, pixels)),
            "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
    )  # fmt: skip
    policy: Any = PI05TinyPolicy(config)
    checkpoint.rescale(policy)
    grounding.number_sense(policy)
    table = policy.model.paligemma_with_expert.paligemma.model.language_model.get_input_embeddings().weight
    spoken = [word for word in dict.fromkeys([*" ".join([*words.NAMES, *words.OTHER.values()]).split(), "table"])]
    drawn, source = words.vectors(spoken, table.shape[1])
    with torch.no_grad():
        table[torch.tensor([words.ids()[word] for word in spoken])] = torch.from_numpy(drawn) * table.std()
    return policy, source


def ground(
    out: Path, pixels: int, steps: int, seed: int = 0, progress: bool = True, probed: int = 512
) -> dict[str, Any]:
    """Train the VLM and write `<out>/base`, a stock checkpoint with a random expert; `probed` questions are asked then.

    Raises:
        AptError: there are no pictures, or there is such a checkpoint.
    """
    folder = (out / "base").absolute()
    if (folder / DONE).is_file():
        raise AptError(f"{folder} is there already: remove it to ground another.")
    how = Grounding(steps=steps, seed=seed)
    some = lessons(out, pixels, min(12000, how.steps * how.batch), seed, False)
    policy, source = build(folder, pixels, seed)
    model = policy.model.paligemma_with_expert
    parameters = [p for n, p in model.paligemma.named_parameters() if "lm_head" not in n and "embed_tokens" not in n]
    began = time.process_time()

    def step(index: int, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_and_hits(model, some, rows, ("isolated", "native")[index % 2], index < how.short * how.steps)

    loss = descend(parameters, step, len(some), how, progress)
    cpu = time.process_time() - began
    with torch.no_grad():
        pali: Any = model.paligemma
        pali.lm_head.weight.copy_(pali.model.language_model.get_input_embeddings().weight)
    checkpoint.save(policy, folder, stats())
    report = {"words": source, "steps": steps, "loss": loss, "cpu_seconds": cpu, **examine(model, out, pixels, probed)}
    write_json(folder / DONE, report)
    return report
