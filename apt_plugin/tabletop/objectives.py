"""The objectives of grounding, answered through the language model's own vocabulary: naming, pointing, meaning.

Answers are asked for at every layer (pointing: from `first_layer` on), because an action expert reads keys and values
of *all* layers, not the last output.

Shape legend: `B` batch, `S` prefix tokens (image, then text), `D` width, `N` = 9 cells = image tokens, `L` prompt
tokens, `O` objects in view, `A` objects pointed at, `W` words of a kind.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from apt_plugin.language import prefix_rules
from apt_plugin.tabletop.lessons import PROMPT_LENGTHS, Lessons, Meanings, scenes, spoken
from apt_plugin.tabletop.splits import TRAINED_COLOURS, TRAINED_SHAPES
from apt_plugin.tabletop.world import CELLS, World


@dataclass(frozen=True)
class Grounding:
    """How to train. `naming`, `pointing` and `meaning` weigh the objectives; 0 switches one off. `language` is "plain"
    or "full" (see `words`); the plain one has one word for each thing, so nothing to learn from `meaning`.

    `partial` is the share of one-attribute expressions; `short` the share of steps, the first ones, that leave out
    the prompt's state part, which says nothing about the scene and costs a third of the tokens.
    """

    steps: int = 1700
    batch: int = 32
    lr: float = 3e-3
    naming: float = 1.0
    pointing: float = 1.0
    meaning: float = 1.0
    language: str = "plain"
    partial: float = 0.5
    first_layer: int = 2
    short: float = 0.7
    scenes: int = 20000
    probe: int = 1024
    seed: int = 0

    def __post_init__(self):
        if self.language not in PROMPT_LENGTHS:
            raise ValueError(f"language must be one of {', '.join(PROMPT_LENGTHS)}, got {self.language!r}.")


def hidden_states(model, images: Tensor, tokens: Tensor, mode: str) -> list[Tensor]:
    """Run the prefix through the host's own language model.

    Args:
        model: the host's `PaliGemmaWithExpertModel`.
        images: uint8 (B, 3, P, P). tokens: int64 (B, L), 0 is padding. mode: "isolated" or "native".

    Returns:
        The residual stream before the first and after each layer, (depth + 1) x (B, S, D); the last one
        normalised.
    """
    from lerobot.policies.common.vla_utils import prepare_attention_masks_4d

    seen = model.embed_image(images.float() / 127.5 - 1.0)
    embeds = torch.cat([seen, model.embed_language_tokens(tokens)], dim=1)
    valid = torch.cat([torch.ones(seen.shape[:2], dtype=torch.bool), tokens > 0], dim=1)
    words = torch.cat([torch.zeros(seen.shape[:2], dtype=torch.bool), spoken(tokens)], dim=1)
    rules = prefix_rules(valid, words, (valid.cumsum(1) - 1) * valid, mode)
    language = model.paligemma.model.language_model
    language.config._attn_implementation = "eager"
    out = language(
        inputs_embeds=embeds,
        attention_mask=prepare_attention_masks_4d(rules.attend),
        position_ids=rules.position,
        use_cache=False,
        output_hidden_states=True,
    )
    return list(out.hidden_states)


def answers(model, hidden: Tensor, lessons: Lessons, rows: Tensor, last: bool) -> dict[str, Tensor]:
    """Logits from one layer: each cell's "colour" (B, N, W), "shape" (B, N, W) and "own" location (B, N, N), the
    "pointed" locations (B, A, N), and each prompt token's "meaning" (B, L, W)."""
    language = model.paligemma.model.language_model
    if not last:
        hidden = language.norm(hidden)[0]
    words = language.get_input_embeddings().weight
    cells, prompt = hidden[:, : CELLS**2], hidden[:, CELLS**2 :]
    asked = prompt[torch.arange(len(rows))[:, None], lessons.asked[rows]]
    return {
        "colour": cells @ words[lessons.colours.ids].T,
        "shape": cells @ words[lessons.shapes.ids].T,
        "own": cells @ words[lessons.location].T,
        "pointed": asked @ words[lessons.location].T,
        "meaning": prompt @ words[lessons.lexicon.ids].T,
    }


def _any_of(logits: Tensor, known: Meanings, meaning: Tensor) -> Tensor:
    """Cross-entropy where all words of a meaning are right: logits (n, W), meaning int64 (n,)."""
    return F.cross_entropy(logits, known.share[meaning])


def loss_and_hits(
    model, lessons: Lessons, rows: Tensor, mode: str, how: Grounding, short: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss on some rows, and what the last layer got right: "pointing" bool (B,), every object pointed at; "naming"
    bool (B, O), colour and shape of an object by its cell, "by synonyms" the same with no other words allowed;
    "meaning" bool (n,), of all words that have one.

    `short` leaves the prompt's state part out.
    """
    tokens = lessons.prompts(rows, short)
    layers = hidden_states(model, lessons.images[rows], tokens, mode)
    colour, shape, answer = lessons.colour[rows].flatten(), lessons.shape[rows].flatten(), lessons.answer[rows]
    meaning = lessons.meaning[rows, : tokens.shape[1]]
    told, asks = meaning >= 0, answer.sum(-1) > 0
    total = torch.zeros(())
    for index, hidden in enumerate(layers):
        say = answers(model, hidden, lessons, rows, last=index == len(layers) - 1)
        naming = _any_of(say["colour"].flatten(0, 1), lessons.colours, colour)
        naming = naming + _any_of(say["shape"].flatten(0, 1), lessons.shapes, shape)
        naming = naming + F.cross_entropy(say["own"].flatten(0, 1), torch.arange(CELLS**2).repeat(len(rows)))
        total = total + how.naming * naming / len(layers)
        if how.language == "full":
            same = _any_of(say["meaning"][told], lessons.lexicon, meaning[told])
            total = total + how.meaning * same / len(layers)
        if how.pointing and index >= how.first_layer:
            pointing = F.cross_entropy(say["pointed"][asks], answer[asks])
            total = total + how.pointing * pointing / (len(layers) - how.first_layer)
    kinds = ((say["colour"], lessons.colours, lessons.colour), (say["shape"], lessons.shapes, lessons.shape))
    objects = lessons.cells[rows]
    named, synonyms = (
        torch.stack([known.told(logits, only) == true[rows] for logits, known, true in kinds]).all(0)
        for only in (False, True)
    )
    at = answer.gather(2, say["pointed"].argmax(-1)[..., None])[..., 0] > 0
    return total, {
        "pointing": (at | ~asks).all(1),
        "naming": named.gather(1, objects),
        "by synonyms": synonyms.gather(1, objects),
        "meaning": lessons.lexicon.told(say["meaning"][told]) == meaning[told],
    }


@torch.no_grad()
def examine(model, lessons: Lessons, mode: str, how: Grounding) -> dict[str, Tensor]:
    """Hits of `loss_and_hits` on all lessons; pointing at any object in view makes 0.25."""
    hits = [loss_and_hits(model, lessons, rows, mode, how)[1] for rows in torch.arange(len(lessons)).split(256)]
    return {key: torch.cat([part[key] for part in hits]) for key in hits[0]}


def probe(model, world: World, how: Grounding) -> dict[str, float]:
    """Accuracies in [0, 1] on fresh scenes, in both prefix modes.

    Pointing at pairs that lessons name and at those they never put together ("held out"); naming of what is in view.
    In the full language also pointing and naming where an unseen object is meant, pointing in other words and at two
    objects, naming by synonyms (no other words allowed), and telling a word's meaning.
    """
    report = {}
    for mode in ("isolated", "native"):
        for kind in ("named", "held out"):
            drawn = scenes(world, how.probe, how.seed + 1, held_out=kind == "held out", language=how.language)
            hits = examine(model, Lessons(world, drawn, language=how.language), mode, how)
            new: Any = np.greater_equal(drawn.pairs, (TRAINED_COLOURS, TRAINED_SHAPES)).any(-1)  # (B, O)
            rows: dict[str, Any] = {"": np.arange(len(drawn))}
            if how.language == "full":
                named_new = new[np.arange(len(drawn)), drawn.named]
                rows[", unseen object"] = np.flatnonzero((drawn.then < 0) & named_new)
                rows[", other words"] = np.flatnonzero(drawn.form.any(1))
                rows[", two objects"] = np.flatnonzero(drawn.then >= 0)
            for what, chosen in rows.items():
                if how.pointing and len(chosen):
                    hit = hits["pointing"][torch.as_tensor(chosen)]
                    report[f"{mode}, {kind} pairs, pointing{what}"] = float(hit.float().mean())
        report[f"{mode}, naming"] = float(hits["naming"].float().mean())
        if how.language == "full":
            report[f"{mode}, naming, unseen object"] = float(hits["naming"][torch.from_numpy(new)].float().mean())
            report[f"{mode}, naming, by synonyms"] = float(hits["by synonyms"].float().mean())
            report[f"{mode}, meaning"] = float(hits["meaning"].float().mean())
    return report
