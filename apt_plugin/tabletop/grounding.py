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
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from apt_plugin.tabletop import checkpoint, tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.lessons import PROMPT_LENGTHS, Lessons, scenes
from apt_plugin.tabletop.objectives import Grounding, hidden_states, loss_and_hits, probe
from apt_plugin.tabletop.world import CELLS, World

logger = logging.getLogger(__name__)

__all__ = [
    "PLAIN",
    "POINTING",
    "SEMANTIC",
    "SIZES",
    "SIZES_LARGE",
    "SIZES_LARGE_EXPERT",
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
#: Four times the VLM's parameters, with the same expert. Attention has eight heads of a fixed width, so it is the
#: feed-forward parts that make up for what a doubled width lacks.
SIZES_LARGE = SIZES | {"vlm_width": 128, "vlm_mlp": 512, "vision_width": 128, "vision_mlp": 640}
#: Three times the expert's parameters, with the same VLM.
SIZES_LARGE_EXPERT = SIZES | {"expert_width": 128, "expert_mlp": 256}


PLAIN = Grounding()
POINTING = Grounding(language="full")
SEMANTIC = Grounding(language="full", pointing=0.0)


def train(policy, world: World, how: Grounding, progress: bool = True) -> dict[str, float]:
    """Train the VLM part of a `pi05_tiny` policy in place, not the expert. Returns accuracies and seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    model = policy.model.paligemma_with_expert
    generator = torch.Generator().manual_seed(how.seed)
    drawn = scenes(world, how.scenes, how.seed, language=how.language)
    lessons = Lessons(world, drawn, how.partial, how.seed, how.language)
    parameters = [p for name, p in model.paligemma.named_parameters() if "lm_head" not in name]
    optimiser = torch.optim.AdamW(parameters, lr=how.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.lr, how.steps, pct_start=0.1)
    for index in track(range(how.steps), description="Grounding the VLM", disable=not progress):
        rows = torch.randint(len(lessons), (how.batch,), generator=generator)
        mode = ("isolated", "native")[index % 2]
        loss, hits = loss_and_hits(model, lessons, rows, mode, how, short=index < how.short * how.steps)
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
                hits["pointing"].float().mean(),
                hits["naming"].float().mean(),
            )
    report = {"loss": float(loss.detach()), **probe(model, world, how)}
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
