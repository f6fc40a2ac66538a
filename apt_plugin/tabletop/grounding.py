"""Give the tiny VLM what a real one brings along: words that mean things in the image.

APT assumes a VLM that already understands language. This trains lerobot's own PaliGemma classes (SigLIP
tower, projector, PiGemma language model) at tiny sizes on random scenes, with these objectives, all answered
through the language model's own vocabulary:

    naming    the image token of a cell predicts the colour and the shape word of what is there ("table" if
              nothing) and its own `<locNN>` token
    pointing  the last word of the instruction predicts the `<locNN>` token of the object it names; where it
              names two, the last word of each half does
    meaning   (full language) a word predicts the words that mean the same

Three presets. `PLAIN` is the demo's: the language of its demonstrations. `POINTING` and `SEMANTIC` know the *full*
language, synonyms, other sentences, two objects in turn and the unseen objects included; the first points, the second
never does, so that binding a word to a place is left to the policy.

Answers are asked for at every layer from `first_layer` on, because an action expert reads keys and values of
*all* layers, not the last output. Half of the batches use the host's own bidirectional prefix, half APT's
*isolated* one (`apt_plugin.language.prefix_rules`), so neither a stock policy nor an APT policy meets a mask
that its VLM has never seen.

Pairs that the robot is never told (`World.never_named`) are in view here and their colour and shape are named
one by one, but no expression puts the two words together: pointing at them is the held-out accuracy. Some
expressions give one attribute ("the red thing", "the any cube"); without those the VLM learns two dozen pairs
by heart and points at held-out ones no better than chance (measured: 100 % on named pairs, 19 % held out).

Shape legend: `B` batch, `S` prefix tokens (image, then text), `D` width, `N` = 9 cells = image tokens, `L` prompt
tokens, `A` objects pointed at, `W` words of a kind, `K` meanings.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_plugin.language import prefix_rules
from apt_plugin.tabletop import checkpoint, tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.lessons import PROMPT_LENGTHS, Lessons, scenes, spoken
from apt_plugin.tabletop.objectives import Answers, Grounding, answers, descend, kinds_of, loss_of, new_objects
from apt_plugin.tabletop.world import CELLS, World

__all__ = [
    "PLAIN",
    "POINTING",
    "SEMANTIC",
    "SIZES",
    "Grounding",
    "ground",
    "hidden_states",
    "number_sense",
    "train",
]

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
FULL_VOCABULARY = 352  # 324 words, see `tokenizer.vocabulary`


PLAIN = Grounding()
POINTING = Grounding(language="full")
SEMANTIC = Grounding(language="full", pointing=0.0)


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


def asked(model, lessons: Lessons, rows: Tensor, mode: str, short: bool) -> list[Answers]:
    """Answers at each layer, see `objectives.answers`; `short` leaves the prompt's state part out."""
    language = model.paligemma.model.language_model
    words = language.get_input_embeddings().weight
    layers = hidden_states(model, lessons.images[rows], lessons.prompts(rows, short), mode)
    normed = [*(language.norm(hidden)[0] for hidden in layers[:-1]), layers[-1]]
    found = []
    for hidden in normed:
        cells, prompt = hidden[:, : CELLS**2], hidden[:, CELLS**2 :]
        points = prompt[torch.arange(len(rows))[:, None], lessons.asked[rows]]
        found.append(answers(cells, points, prompt, words, lessons, torch.arange(len(words))))
    return found


def loss_and_hits(
    model, lessons: Lessons, rows: Tensor, mode: str, how: Grounding, short: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """`objectives.loss_of` on some rows."""
    found = asked(model, lessons, rows, mode, short)
    meaning = lessons.meaning[rows, : found[0].meaning.shape[1]]
    return loss_of(found, lessons, rows, meaning, how, first=how.first_layer)


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
            for what, chosen in kinds_of(drawn, how.language).items():
                if how.pointing and len(chosen):
                    hit = hits["pointing"][torch.as_tensor(chosen)]
                    report[f"{mode}, {kind} pairs, pointing{what}"] = float(hit.float().mean())
        report[f"{mode}, naming"] = float(hits["naming"].float().mean())
        if how.language == "full":
            report[f"{mode}, naming, unseen object"] = float(
                hits["naming"][torch.from_numpy(new_objects(drawn))].float().mean()
            )
            report[f"{mode}, naming, by synonyms"] = float(hits["by synonyms"].float().mean())
            report[f"{mode}, meaning"] = float(hits["meaning"].float().mean())
    return report


def train(policy, world: World, how: Grounding, progress: bool = True) -> dict[str, float]:
    """Train the VLM part of a `pi05_tiny` policy in place, not the expert. Returns accuracies and seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    model = policy.model.paligemma_with_expert
    lessons = Lessons(
        world, scenes(world, how.scenes, how.seed, language=how.language), how.partial, how.seed, how.language
    )
    parameters = [p for name, p in model.paligemma.named_parameters() if "lm_head" not in name]

    def step(index: int, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mode = ("isolated", "native")[index % 2]
        return loss_and_hits(model, lessons, rows, mode, how, short=index < how.short * how.steps)

    loss = descend(parameters, step, len(lessons), how, progress)
    report = {"loss": loss, **probe(model, world, how)}
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
    sizes = dict(sizes or SIZES)
    if how.language == "full":  # its words come last: a vocabulary that holds the plain ones may be too small
        sizes["vocab"] = max(sizes.get("vocab", 0), FULL_VOCABULARY)
    words = tokenizer.save(directory / "tokenizer", how.language)
    policy: Any = checkpoint.build(sizes, words, PROMPT_LENGTHS[how.language], seed=how.seed)
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
