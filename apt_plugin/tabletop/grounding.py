"""Give the tiny VLM what a real one brings along: words that mean things in the image.

APT assumes a VLM that already understands language. This trains lerobot's own PaliGemma classes (SigLIP
tower, projector, PiGemma language model) at tiny sizes on random scenes, with two objectives, both answered
through the language model's own vocabulary:

    naming    the image token of a cell predicts the colour and the shape word of what is there ("table" if
              nothing) and its own `<locNN>` token
    pointing  the last word of the instruction predicts the `<locNN>` token of the object it names

Answers are asked for at every layer from `first_layer` on, because an action expert reads keys and values of
*all* layers, not the last output. Half of the batches use the host's own bidirectional prefix, half APT's
*isolated* one (`apt_plugin.language.prefix_rules`), so neither a stock policy nor an APT policy meets a mask
that its VLM has never seen.

Pairs that the robot is never told (`World.never_named`) are in view here and their colour and shape are named
one by one, but no expression puts the two words together: pointing at them is the held-out accuracy. Some
expressions give one attribute ("the red thing", "the any cube"); without those the VLM learns two dozen pairs
by heart and points at held-out ones no better than chance (measured: 100 % on named pairs, 19 % held out).

Shape legend: `B` batch, `S` prefix tokens (image, then text), `D` width, `N` = 9 cells = image tokens.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from apt_plugin.language import prefix_rules
from apt_plugin.tabletop import checkpoint, tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import COLOURS, IMAGE_SIZE
from apt_plugin.tabletop.lessons import FIRST_WORD, LAST_WORD, PROMPT_LENGTH, Lessons, scenes
from apt_plugin.tabletop.world import CELLS, World

logger = logging.getLogger(__name__)

#: Sizes of the demo's model (see `apt_plugin.hosts.lerobot.sizes`); one 16-pixel patch is one cell of the
#: table.
SIZES = {
    "vlm_width": 64,
    "vlm_mlp": 128,
    "expert_width": 64,
    "expert_mlp": 128,
    "depth": 4,
    "head_dim": 32,
    "vocab": 320,
    "vision_width": 64,
    "vision_mlp": 128,
    "vision_depth": 1,
    "vision_heads": 4,
    "patch": IMAGE_SIZE // CELLS,
}


@dataclass(frozen=True)
class Grounding:
    """How to train. `naming` and `pointing` weigh the two objectives; 0 switches one off.

    `partial` is the share of one-attribute expressions; `short` the share of steps, the first ones, that leave out
    the prompt's state part, which says nothing about the scene and costs a third of the tokens.
    """

    steps: int = 1700
    batch: int = 32
    lr: float = 3e-3
    naming: float = 1.0
    pointing: float = 1.0
    partial: float = 0.5
    first_layer: int = 2
    short: float = 0.7
    scenes: int = 20000
    probe: int = 1024
    seed: int = 0


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
    spoken = torch.zeros_like(valid)
    spoken[:, seen.shape[1] + FIRST_WORD : seen.shape[1] + LAST_WORD + 1] = True
    rules = prefix_rules(valid, spoken, (valid.cumsum(1) - 1) * valid, mode)
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


def answers(model, hidden: Tensor, lessons: Lessons, last: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits from one layer: each cell's colour (B, N, 7), shape (B, N, 6) and location (B, N, N), the
    pointed location (B, N)."""
    language = model.paligemma.model.language_model
    if not last:
        hidden = language.norm(hidden)[0]
    words = language.get_input_embeddings().weight
    cells, word = hidden[:, : CELLS**2], hidden[:, CELLS**2 + LAST_WORD]
    table = words[lessons.table][None]
    return (
        cells @ torch.cat([words[lessons.colour_ids], table]).T,
        cells @ torch.cat([words[lessons.shape_ids], table]).T,
        cells @ words[lessons.location].T,
        word @ words[lessons.location].T,
    )


def loss_and_hits(
    model, lessons: Lessons, rows: Tensor, mode: str, how: Grounding, length: int = PROMPT_LENGTH
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, last layer's pointing hits (B,) bool, naming hits per object share) on some rows."""
    layers = hidden_states(model, lessons.images[rows], lessons.tokens[rows, :length], mode)
    total = torch.zeros(())
    for index, hidden in enumerate(layers):
        colour, shape, own, location = answers(model, hidden, lessons, last=index == len(layers) - 1)
        naming = F.cross_entropy(colour.flatten(0, 1), lessons.colour[rows].flatten()) + F.cross_entropy(
            shape.flatten(0, 1), lessons.shape[rows].flatten()
        )
        naming = naming + F.cross_entropy(own.flatten(0, 1), torch.arange(own.shape[1]).repeat(len(rows)))
        total = total + how.naming * naming / len(layers)
        if index >= how.first_layer:
            pointing = F.cross_entropy(location, lessons.answer[rows])
            total = total + how.pointing * pointing / (len(layers) - how.first_layer)
    seen = lessons.colour[rows] < len(COLOURS)
    right = (colour.argmax(-1) == lessons.colour[rows]) & (shape.argmax(-1) == lessons.shape[rows])
    return total, lessons.answer[rows].gather(1, location.argmax(-1)[:, None])[:, 0] > 0, right[seen]


@torch.no_grad()
def accuracy(model, lessons: Lessons, mode: str, how: Grounding) -> dict[str, float]:
    """Last layer's pointing and naming accuracy in [0, 1]; pointing at any object in view makes 0.25."""
    hits = [loss_and_hits(model, lessons, rows, mode, how)[1:] for rows in torch.arange(len(lessons)).split(256)]
    return {
        key: float(torch.cat(part).float().mean())
        for key, part in zip(("pointing", "naming"), zip(*hits, strict=True), strict=True)
    }


def train(policy, world: World, how: Grounding, progress: bool = True) -> dict[str, float]:
    """Train the VLM part of a `pi05_tiny` policy in place, not the expert. Returns accuracies and seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    model = policy.model.paligemma_with_expert
    generator = torch.Generator().manual_seed(how.seed)
    lessons = Lessons(world, scenes(world, how.scenes, seed=how.seed), how.partial, how.seed)
    parameters = [p for name, p in model.paligemma.named_parameters() if "lm_head" not in name]
    optimiser = torch.optim.AdamW(parameters, lr=how.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.lr, how.steps, pct_start=0.1)
    for index in track(range(how.steps), description="Grounding the VLM", disable=not progress):
        rows = torch.randint(len(lessons), (how.batch,), generator=generator)
        length = LAST_WORD + 1 if index < how.short * how.steps else PROMPT_LENGTH
        mode = ("isolated", "native")[index % 2]
        loss, pointed, named = loss_and_hits(model, lessons, rows, mode, how, length)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if index % 250 == 0 or index == how.steps - 1:
            logger.info(
                "step %d loss %.3f pointing %.2f naming %.2f",
                index,
                loss,
                pointed.float().mean(),
                named.float().mean(),
            )
    report = {"loss": float(loss.detach())}
    for mode in ("isolated", "native"):
        for kind in ("named", "held out"):
            fresh = Lessons(world, scenes(world, how.probe, seed=how.seed + 1, held_out=kind == "held out"))
            score = accuracy(model, fresh, mode, how)
            report[f"{mode}, {kind} pairs, pointing"] = score["pointing"]
    report["seconds"] = time.perf_counter() - began
    report["cpu_seconds"] = time.process_time() - cpu
    return report


def number_sense(policy) -> None:
    """Give the tokens of the numbers -1 to 255 smooth embeddings: 117 is near 118, as in a real language model.

    π0.5 reads the robot's state as such tokens; from random embeddings a policy would have to meet every
    number first.
    """
    table = policy.model.paligemma_with_expert.paligemma.model.language_model.get_input_embeddings().weight
    ids = [index for index, word in enumerate(tokenizer.vocabulary()) if word.lstrip("-").isdigit()]
    value = torch.linspace(0, 1, len(ids))[:, None]
    phase = value * torch.pi * 2.0 ** torch.arange(4)
    wave = torch.cat([phase.sin(), phase.cos()], dim=1)
    mix = torch.randn(wave.shape[1], table.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        table[ids] = wave @ mix * table.std() / 2


def ground(
    directory: Path | str,
    world: World,
    how: Grounding | None = None,
    sizes: Mapping | None = None,
    progress: bool = True,
) -> dict:
    """Train a tiny VLM and write a complete `pi05_tiny` checkpoint (grounded VLM, random expert) to
    `directory`.

    Start from it with `--policy.path=<directory>`, or with `checkpoint.host_flags(directory, "pi05_apt")` for
    another policy type.

    Returns:
        The report, also written to `<directory>/grounding.json`.
    """
    how, directory = how or Grounding(), Path(directory).absolute()
    words = tokenizer.save(directory / "tokenizer")
    policy: Any = checkpoint.build(sizes or SIZES, words, PROMPT_LENGTH, seed=how.seed)
    number_sense(policy)
    report = train(policy, world, how, progress)
    pali: Any = policy.model.paligemma_with_expert.paligemma
    with torch.no_grad():
        # Tied in PaliGemma; lerobot's rebuilt copy is not, and its key fixer may copy one onto the other.
        pali.lm_head.weight.copy_(pali.model.language_model.get_input_embeddings().weight)
    checkpoint.save(policy, directory, reference_stats(world))
    report = {**report, **asdict(how), "sizes": dict(policy.config.sizes)}
    (directory / "grounding.json").write_text(json.dumps(report, indent=2))
    return report
