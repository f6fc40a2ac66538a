"""Ground the tiny Qwen3-VL of `groot_body`: the same two objectives as `grounding`, on the host's own prompt.

Images come first and the language model is causal, so image tokens cannot know the words, and the last instruction
token has seen everything: it is asked to point. Answers are asked for behind every layer from `first_layer` on: the
action head reads the last one, fusion taps may read those before. There is one mask only, the causal one: what APT
isolates on GR00T is the adapter behind the VLM, which belongs to the head and is not trained here.

Shape legend: `B` batch, `L` prompt tokens, `N` = 9 cells = image tokens, `P` image side in pixels.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from apt_plugin.backends.torch_groot import vlm_states
from apt_plugin.tabletop import groot_body, groot_words, objectives, tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.grounding import Grounding
from apt_plugin.tabletop.lessons import Lessons, scenes
from apt_plugin.tabletop.world import CELLS, World

logger = logging.getLogger(__name__)

#: How the small body is grounded by default; `short` is about a prompt that GR00T does not have.
HOW = Grounding(steps=1700, short=0.0)


@dataclass(frozen=True)
class Prompts:
    """Lessons as the host's prompts, padded behind.

    `tokens` int64 (B, L); `last` int64 (B,), where the instruction ends; `ids` of the answers.
    """

    lessons: Lessons
    tokens: Tensor
    last: Tensor
    ids: objectives.AnswerIds

    @classmethod
    def of(cls, lessons: Lessons) -> "Prompts":
        rows = [groot_words.prompt(text, CELLS**2) for text in instructions_of(lessons)]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
        last = torch.tensor([len(row) for row in rows]) - 3  # behind it stand <|im_end|> and a line break
        return cls(lessons, tokens, last, objectives.AnswerIds.of(groot_words.vocabulary()))

    def __len__(self) -> int:
        return len(self.tokens)


def instructions_of(lessons: Lessons) -> list[str]:
    """What the lessons say: the words between "Task :" and ", State :" of their π0.5 prompts."""
    words = tokenizer.vocabulary()
    texts = []
    for row in lessons.tokens.tolist():
        said = [words[index] for index in row]
        texts.append(" ".join(said[said.index(":") + 1 : said.index(",")]))
    return texts


def patches(images: Tensor) -> Tensor:
    """The host's `pixel_values` for uint8 images (B, 3, P, P): float32 (B * N, 3 * patch * patch)."""
    side = IMAGE_SIZE // CELLS
    scaled = images.float() / 127.5 - 1.0
    grid = scaled.unflatten(2, (CELLS, side)).unflatten(4, (CELLS, side))  # B, 3, row, y, column, x
    grid = grid.permute(0, 2, 4, 1, 3, 5)[:, :, :, :, None].expand(-1, -1, -1, -1, groot_words.TEMPORAL, -1, -1)
    return grid.reshape(len(images) * CELLS**2, -1)


@contextmanager
def one_grid(model: Any) -> Iterator[None]:
    """Compute positions once a batch instead of once an image, while all images are of one size.

    The host loops over images in Python for values that depend on their size alone; at tabletop size that is half
    the time of a forward pass. The values are the host's own, bit for bit.
    """
    visual, names = model.backbone.visual, ("fast_pos_embed_interpolate", "rot_pos_emb")

    def once(host: Any) -> Any:
        return lambda grid: host(grid[:1]).repeat(len(grid), 1)

    for name in names:
        setattr(visual, name, once(getattr(visual, name)))  # on the instance, in front of the class's method
    try:
        yield
    finally:
        for name in names:
            delattr(visual, name)


def hidden_states(model: Any, images: Tensor, tokens: Tensor) -> list[Tensor]:
    """Run prompts through the host's Qwen3-VL.

    Args:
        model: the host's `GR00TN17`. images: uint8 (B, 3, P, P). tokens: int64 (B, L), padded behind.

    Returns:
        the states behind each layer that is kept, each (B, L, D), before the final norm.
    """
    backbone, (count, length) = model.backbone, tokens.shape
    longest = groot_words.prompt("table " * length, CELLS**2)[:length]
    # Images come first in every row, so positions are the same in all; padding is behind and nobody looks back at it.
    first: dict[str, Any] = {
        "input_ids": torch.tensor([longest]),
        "attention_mask": torch.ones(1, length, dtype=torch.long),
        "image_grid_thw": torch.tensor([[1, CELLS, CELLS]]),
    }
    backbone._ensure_mm_token_type_ids(first)
    backbone._ensure_legacy_qwen3_position_ids(first)
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": patches(images),
        "image_grid_thw": first["image_grid_thw"].expand(count, -1),
        "position_ids": first["position_ids"].expand(-1, count, -1),
    }
    layers = backbone.language_model.layers
    return vlm_states(backbone.model, layers, inputs, range(len(layers)))


def asked(model: Any, prompts: Prompts, rows: Tensor) -> list[objectives.Answers]:
    """Answers behind each layer."""
    tokens, last = prompts.tokens[rows], prompts.last[rows]
    tokens = tokens[:, : int(last.max()) + 1]
    first = int((tokens[0] == model.backbone.model.config.image_token_id).nonzero()[0])
    language = model.backbone.language_model
    found = []
    for states in hidden_states(model, prompts.lessons.images[rows], tokens):
        normed = language.norm(states)
        word = normed[torch.arange(len(rows)), last]
        cells = normed[:, first : first + CELLS**2]
        found.append(objectives.answers(cells, word, language.embed_tokens.weight, prompts.ids))
    return found


def loss_of(found: list[objectives.Answers], prompts: Prompts, rows: Tensor, how: Grounding) -> Tensor:
    """Both objectives, each averaged over the layers that are asked; the first layer here is number 1."""
    lessons = prompts.lessons
    names = [objectives.naming_loss(a, lessons.colour[rows], lessons.shape[rows]) for a in found]
    points = [objectives.pointing_loss(a, lessons.answer[rows]) for a in found[how.first_layer - 1 :]]
    return how.naming * torch.stack(names).mean() + how.pointing * torch.stack(points).mean()


@torch.no_grad()
def accuracy(model: Any, prompts: Prompts) -> dict[str, float]:
    """Last layer's pointing and naming accuracy in [0, 1]; pointing at any object in view makes 0.25."""
    pointing, naming = [], []
    lessons = prompts.lessons
    with one_grid(model):
        for rows in torch.arange(len(prompts)).split(256):
            found = asked(model, prompts, rows)[-1]
            pointing.append(objectives.pointing_hits(found, lessons.answer[rows]))
            naming.append(objectives.naming_hits(found, lessons.colour[rows], lessons.shape[rows]))
    return {"pointing": float(torch.cat(pointing).float().mean()), "naming": float(torch.cat(naming).float().mean())}


def train(model: Any, world: World, how: Grounding, progress: bool = True) -> dict[str, float]:
    """Train the VLM of a `GR00TN17` in place, not the action head. Returns accuracies and seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    generator = torch.Generator().manual_seed(how.seed)
    prompts = Prompts.of(Lessons(world, scenes(world, how.scenes, seed=how.seed), how.partial, how.seed))
    parameters = list(model.backbone.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=how.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.lr, how.steps, pct_start=0.1)
    loss = torch.zeros(())
    with one_grid(model):
        for index in track(range(how.steps), description="Grounding the VLM", disable=not progress):
            rows = torch.randint(len(prompts), (how.batch,), generator=generator)
            found = asked(model, prompts, rows)
            loss = loss_of(found, prompts, rows, how)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            if index % 250 == 0 or index == how.steps - 1:
                hits = objectives.pointing_hits(found[-1], prompts.lessons.answer[rows]).float().mean()
                logger.info("step %d loss %.3f pointing %.2f", index, loss, hits)
    for p in frozen:
        p.requires_grad_(False)
    report = {"loss": float(loss.detach())}
    for kind in ("named", "held out"):
        fresh = Prompts.of(Lessons(world, scenes(world, how.probe, seed=how.seed + 1, held_out=kind == "held out")))
        score = accuracy(model, fresh)
        report |= {f"{kind} pairs, {what}": value for what, value in score.items()}
    report["seconds"] = time.perf_counter() - began
    report["cpu_seconds"] = time.process_time() - cpu
    return report


def ground(
    directory: Path | str,
    world: World,
    how: Grounding = HOW,
    sizes: groot_body.Sizes = groot_body.SMALL,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a tiny VLM and write a complete `groot` checkpoint (grounded VLM, random head) to `directory`.

    Start from it with `groot_body.policy_of(directory, "groot")`, or lerobot-train with
    `groot_body.host_flags(directory, "groot_apt")`.

    Returns:
        The report, also written to `<directory>/grounding.json`.
    """
    directory = Path(directory).absolute()
    model = groot_body.build(directory, sizes, seed=how.seed)
    report: dict[str, Any] = train(model, world, how, progress)
    groot_body.save(model, directory, reference_stats(world))
    report |= {**asdict(how), **groot_body.sizes_report(model, sizes)}
    (directory / "grounding.json").write_text(json.dumps(report, indent=2))
    return report
