"""Are the weights there? Lost tensors, values that are not finite, values of a fresh model, a VLM unlike its base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from apt_plugin import freeze
from apt_plugin.listen.causes.cause import Cause, Question, some
from apt_plugin.listen.evidence import Tensor

if TYPE_CHECKING:
    from apt_plugin.listen.evidence import Base

QUESTION = Question("weights", "Are the weights there?", "The weights are not all there")
EMBEDDING = ("embed_tokens", "embedder", "lm_head", "word_embeddings")  # hosts tie the head to the embedding
# A model that was trained has norm weights and biases of many values; a fresh one has ones and zeros throughout.
MOSTLY, FEWEST = 0.9, 4
UNRELATED = 0.5  # relative distance; training moves a VLM by a hundredth or so, unrelated weights are 1.4 apart
AGAIN = "Load a checkpoint that holds them, and train again from it"


def look(tensors: Iterable[Tensor] | None, base: Base | None) -> Cause:
    """The cause from every parameter, as loaded; `base`: the VLM that the policy should have started from."""
    if tensors is None:
        return QUESTION.unknown("This policy does not show its tensors.")
    tensors = list(tensors)
    if broken := [t.name for t in tensors if not t.finite]:
        said = f"{len(broken)} of {len(tensors)} tensors hold values that are not finite: {some(broken)}."
        return QUESTION.found([said], "Take an earlier checkpoint. Training diverged: lower the learning rate.")
    vlm = [t for t in tensors if t.vlm]
    if vlm and (said := _embedding(vlm)):
        return QUESTION.found([said], f"{AGAIN}. A policy without a language embedding reads no word.")
    if said := [*_fresh_parts(vlm), *_fresh_layers(tensors)]:
        return QUESTION.found(said, f"{AGAIN}: name the base by the host's own flag, and look for its loading warning.")
    if base is None:
        more = "Name --base CHECKPOINT to compare its VLM with the one that it started from."
    elif (distance := base.distance()) > UNRELATED:
        said = f"The VLM is {distance:.2f} of its own size away from the base's: it did not start from there."
        return QUESTION.found([said], "Name the base that the policy was trained from, or train again from this one.")
    else:
        more = f"The VLM is {distance:.1e} of its size away from the base's."
    return QUESTION.ruled_out(f"{len(tensors)} tensors are loaded, finite, and not those of a fresh model. {more}")


def lost(names: Sequence[str], total: int, where: str) -> Cause:
    """The cause where the host did not load tensors of the checkpoint: nothing else can be asked of such a policy."""
    said = [f"{len(names)} of {total} tensors of {where} were not loaded: {some(sorted(names))}."]
    if any(word in name for name in names for word in EMBEDDING):
        said.append("The language embedding is among them.")
    return QUESTION.found(said, "Name a checkpoint of this policy type and of this version of the host.")


def _embedding(vlm: Sequence[Tensor]) -> str:
    held = [t for t in vlm if any(word in t.name for word in EMBEDDING)]
    if not held:
        return "The VLM has no language embedding."
    empty = [t.name for t in held if t.constant]
    return f"The language embedding {empty[0]} holds one value throughout." if empty else ""


def _fresh_parts(vlm: Sequence[Tensor]) -> list[str]:
    said = []
    for part in ("vision", "language"):
        own = [t for t in vlm if ("vision" in t.name or ".img." in t.name) == (part == "vision")]
        vectors = [t for t in own if len(t.shape) == 1 and t.size > 1]
        flat = sum(t.constant for t in vectors)
        if len(vectors) >= FEWEST and flat >= MOSTLY * len(vectors):
            said.append(
                f"The VLM's {part} part was never trained: {flat} of {len(vectors)} of its norm weights and biases "
                "hold one value throughout, as in a fresh model."
            )
    return said


def _fresh_layers(tensors: Sequence[Tensor]) -> list[str]:
    names = [t.name for t in tensors if _as_started(t)]
    return [f"{some(names)}: these values are the ones that a fresh layer starts with."] if names else []


def _as_started(tensor: Tensor) -> bool:
    """Whether a matrix [out, in] fills exactly torch's first range for a linear layer, +-1/sqrt(in), evenly."""
    if len(tensor.shape) != 2 or tensor.size < 1024 or freeze.added(tensor.name) or "lora_" in tensor.name:
        return False
    bound = tensor.shape[1] ** -0.5
    within = max(-tensor.low, tensor.high) <= bound * (1 + 2**-7)  # bfloat16 rounds upwards too
    reaches = min(-tensor.low, tensor.high) > 0.97 * bound
    return within and reaches and abs(tensor.std * 3**0.5 / bound - 1) < 0.03
