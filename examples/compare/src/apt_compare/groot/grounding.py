"""Ground the tiny Qwen3-VL of `body`: the same two objectives as `apt_plugin.tabletop.grounding`, on the host's prompt.

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
from torch import Tensor

from apt_compare.groot import body as groot_body
from apt_compare.groot import words as groot_words
from apt_plugin.backends.torch_groot import vlm_states
from apt_plugin.tabletop import tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.lessons import FIRST_WORD, Lessons, scenes, spoken
from apt_plugin.tabletop.objectives import Answers, Grounding, answers, descend, kinds_of, loss_of
from apt_plugin.tabletop.world import CELLS, World

logger = logging.getLogger(__name__)

#: How bodies are grounded, as `grounding.PLAIN`, `POINTING` and `SEMANTIC`; `short` is about a prompt that GR00T
#: does not have.
PLAIN = Grounding(short=0.0)
POINTING = Grounding(short=0.0, language="full")
SEMANTIC = Grounding(short=0.0, language="full", pointing=0.0)
_SCENE = len(groot_words.prompt("", CELLS**2)) - 2  # tokens in front of the instruction


@dataclass(frozen=True)
class Prompts:
    """Lessons as the host's prompts, padded behind.

    `tokens` int64 (B, L); `asked` int64 (B, A), the token of each answer; `meaning` int64 (B, L), -1 where a token has
    none; `ids` int64, from the lessons' token ids to those of this vocabulary.
    """

    lessons: Lessons
    tokens: Tensor
    asked: Tensor
    meaning: Tensor
    ids: Tensor

    @classmethod
    def of(cls, lessons: Lessons) -> "Prompts":
        own = {word: index for index, word in enumerate(groot_words.vocabulary())}
        ids = torch.tensor([own.get(word, own["<unk>"]) for word in tokenizer.vocabulary("full")])
        said = spoken(lessons.tokens)
        count, length = said.shape[0], int(said.sum(1).max())
        scene = torch.tensor(groot_words.prompt("", CELLS**2)[:_SCENE]).expand(count, -1)
        words = torch.where(said, ids[lessons.tokens], 0)[:, FIRST_WORD : FIRST_WORD + length]
        tokens = torch.cat([scene, words, torch.zeros(count, 2, dtype=torch.long)], 1)
        ends = _SCENE + said.sum(1)
        for place, word in enumerate(("<|im_end|>", "\n")):
            tokens[torch.arange(count), ends + place] = own[word]
        meaning = torch.full_like(tokens, -1)
        meaning[:, _SCENE:-2] = lessons.meaning[:, FIRST_WORD : FIRST_WORD + length]
        return cls(lessons, tokens, lessons.asked - FIRST_WORD + _SCENE, meaning, ids)

    def __len__(self) -> int:
        return len(self.tokens)


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


def asked(model: Any, prompts: Prompts, rows: Tensor) -> list[Answers]:
    """Answers behind each layer."""
    lessons, places = prompts.lessons, prompts.asked[rows]
    tokens = prompts.tokens[rows, : int(places.max()) + 1]
    image = (tokens[0] == model.backbone.model.config.image_token_id).nonzero()[:, 0]
    language = model.backbone.language_model
    found = []
    for states in hidden_states(model, lessons.images[rows], tokens):
        normed = language.norm(states)
        points = normed[torch.arange(len(rows))[:, None], places]
        found.append(answers(normed[:, image], points, normed, language.embed_tokens.weight, lessons, prompts.ids))
    return found


def loss_on(found: list[Answers], prompts: Prompts, rows: Tensor, how: Grounding) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and what the last layer got right, see `objectives.loss_of`."""
    length = found[0].meaning.shape[1]
    return loss_of(found, prompts.lessons, rows, prompts.meaning[rows, :length], how, first=how.first_layer - 1)


@torch.no_grad()
def examine(model: Any, prompts: Prompts, how: Grounding) -> dict[str, Tensor]:
    """Hits on all prompts; pointing at any object in view makes 0.25."""
    parts = []
    with one_grid(model):
        for rows in torch.arange(len(prompts)).split(256):
            parts.append(loss_on(asked(model, prompts, rows), prompts, rows, how)[1])
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def probe(model: Any, world: World, how: Grounding) -> dict[str, float]:
    """Accuracies in [0, 1] on fresh scenes, as `grounding.probe` has them."""
    report: dict[str, float] = {}
    for kind in ("named", "held out"):
        drawn = scenes(world, how.probe, how.seed + 1, held_out=kind == "held out", language=how.language)
        hits = examine(model, Prompts.of(Lessons(world, drawn, language=how.language)), how)
        for what, chosen in kinds_of(drawn, how.language).items():
            if how.pointing and len(chosen):
                report[f"{kind} pairs, pointing{what}"] = float(
                    hits["pointing"][torch.as_tensor(chosen)].float().mean()
                )
        report["naming"] = float(hits["naming"].float().mean())
        if how.language == "full":
            report["meaning"] = float(hits["meaning"].float().mean())
    return report


def train(model: Any, world: World, how: Grounding, progress: bool = True) -> dict[str, float]:
    """Train the VLM of a `GR00TN17` in place, not the action head. Returns accuracies and seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    prompts = Prompts.of(
        Lessons(world, scenes(world, how.scenes, how.seed, language=how.language), how.partial, how.seed, how.language)
    )
    parameters = list(model.backbone.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)

    def step(index: int, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_on(asked(model, prompts, rows), prompts, rows, how)

    with one_grid(model):
        loss = descend(parameters, step, len(prompts), how, progress)
    for p in frozen:
        p.requires_grad_(False)
    report = {"loss": loss, **probe(model, world, how)}
    report["seconds"] = time.perf_counter() - began
    report["cpu_seconds"] = time.process_time() - cpu
    return report


def ground(
    directory: Path | str,
    world: World,
    how: Grounding = PLAIN,
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
