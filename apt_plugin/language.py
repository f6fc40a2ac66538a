"""Where the instruction is in a prompt, and who may attend to it.

    B batch   S prefix tokens (images then text)   L text tokens of the prompt

The rule is arithmetic on boolean and integer arrays only, so one function serves numpy, torch and jax:
no back-end has its own copy that could drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from apt_plugin.errors import AptError

Array = TypeVar("Array", bound=Any)  # numpy, torch or jax


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt: template text (kept in Stage 1), the task's own words (the instruction), or a goal."""

    text: str
    instruction: bool = False
    goal: bool = False  # where the demonstration ends, which some samples of Stage 1 are told and nothing else is


def goal_segment(state_digits: str) -> Segment:
    """A state to come, written as π0.5 writes the robot's own, behind everything that Stage 2 keeps: without a goal the
    rest of the prompt stands where it stood."""
    return Segment(f"Goal: {state_digits};\n", goal=True)


def pi05_segments(instruction: str, state_digits: str) -> list[Segment]:
    """π0.5's prompt `Task: {instruction}, State: {digits};\\nAction: ` (openpi tokenizer.py).

    The state is kept: dropping the whole prompt would blind the policy to its own joints. The space before
    the instruction goes with it, since a sub-word piece carries the space in front of a word.
    """
    text = f" {instruction}" if instruction else ""
    return [Segment("Task:"), Segment(text, True), Segment(f", State: {state_digits};\nAction: ")]


def pi0_segments(instruction: str) -> list[Segment]:
    """π0's prompt `{instruction}\\n`; its state is a suffix token."""
    return [Segment(instruction, True), Segment("\n")]


def clean(instruction: str | None) -> str:
    """The host's own clean-up of a task text (openpi tokenizer.py), applied before segments are cut."""
    return (instruction or "").strip().replace("_", " ").replace("\n", " ")


def as_words(prompt: Any) -> str:
    """A prompt as a client may send it: text, its bytes, an array that holds one of these, or none.

    Raises:
        AptError: anything else, or bytes that are no UTF-8.
    """
    if isinstance(prompt, np.ndarray) and prompt.size == 1:
        prompt = prompt.item()
    if isinstance(prompt, bytes):
        try:
            return prompt.decode()
        except UnicodeDecodeError as error:
            raise AptError(f"The prompt is bytes that are no UTF-8 ({error}). Send text.") from error
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    raise AptError(f"The prompt is {type(prompt).__name__} {str(prompt)[:40]!r}. Send one text per observation.")


@dataclass(frozen=True)
class Prompt:
    """One tokenised prompt in *arranged* order: kept tokens, then a goal's, then instruction tokens, then padding.

    Kept tokens stand first so that their index, and hence every sum over keys that they enter, is the same
    whatever the instruction's length: bits can be compared. Attention itself knows order only through
    `native_position`, the place of each token in the prompt as the host wrote it.
    """

    tokens: np.ndarray  # [L] int64
    valid: np.ndarray  # [L] bool
    instruction: np.ndarray  # [L] bool
    native_position: np.ndarray  # [L] int64, 0 for padding
    goal: np.ndarray  # [L] bool, of tokens that are kept where the sample is told its goal


def arrange(
    segments: Sequence[Segment], encode: Callable[[str], Sequence[int]], length: int, bos: Sequence[int] = ()
) -> Prompt:
    """Tokenise segment by segment and arrange.

    Segments are encoded one by one rather than cut out of one encoding by offsets: a sub-word piece that
    straddles the end of the instruction ("cup,") would otherwise take template text with it, so that which
    tokens are *kept* would depend on the words (tests/core/test_language.py shows that leak).

    Args:
        segments: the prompt in the host's order.
        encode: text -> ids, without special tokens.
        length: the padded length `L` (the host's tokenizer_max_length).
        bos: special tokens in front; kept.

    Raises:
        AptError: the prompt does not fit. Cutting it, as hosts do, would drop the state digits at its end.
    """
    ids: list[int] = list(bos)
    kinds = [0] * len(ids)  # kept, goal, instruction
    for segment in segments:
        piece = list(encode(segment.text)) if segment.text else []
        ids += piece
        kinds += [2 if segment.instruction else int(segment.goal)] * len(piece)
    spoken = [kind == 2 for kind in kinds]
    if len(ids) > length:
        words = next((s.text for s in segments if s.instruction), "")
        raise AptError(
            f"The prompt has {len(ids)} tokens, the limit is {length} ({sum(spoken)} of them are the instruction "
            f"{words.strip()[:60]!r}). Raise the host's tokenizer_max_length to at least {len(ids)}, or shorten it."
        )
    order = np.argsort(np.asarray(kinds, int), kind="stable")
    count = len(ids)
    tokens = np.zeros(length, np.int64)
    valid = np.zeros(length, bool)
    instruction, goal = np.zeros(length, bool), np.zeros(length, bool)
    native = np.zeros(length, np.int64)
    tokens[:count] = np.asarray(ids, np.int64)[order]
    valid[:count] = True
    instruction[:count] = np.asarray(spoken, bool)[order]
    goal[:count] = (np.asarray(kinds, int) == 1)[order]
    native[:count] = order
    return Prompt(tokens, valid, instruction, native, goal)


def reworded(
    tokens: np.ndarray, valid: np.ndarray, instruction: np.ndarray, native_position: np.ndarray, other: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arranged prompts [B, L] in which each has the instruction of the prompt `other` says; what is kept stays.

    The robot's state stands in some prompts and is no part of the instruction: it must not change with it. Words that
    no longer fit are left out.
    """
    made = (np.zeros_like(tokens), np.zeros_like(valid), np.zeros_like(instruction), np.zeros_like(native_position))
    for row, at in enumerate(other):
        kept, own, said = valid[row] & ~instruction[row], instruction[row], instruction[at]
        first = int(kept.sum())
        words = np.flatnonzero(said)[: valid.shape[1] - first]
        end = first + len(words)
        made[0][row, :end] = np.concatenate([tokens[row][kept], tokens[at][words]])
        made[1][row, :end], made[2][row, first:end] = True, True
        # the same template stands in front of every instruction, so all begin at one place
        start = min([*native_position[at][said], *native_position[row][own]], default=0)
        places = native_position[row][kept]
        places = places + (places >= start) * (len(words) - int(own.sum()))
        made[3][row, :end] = np.concatenate([places, native_position[at][words]])
    return made


def overlap(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> np.ndarray:
    """[L] bool: tokens whose character range overlaps `span`, for hosts that hand over whole encodings.

    Overlap, not containment: a piece that begins with the space in front of the first word starts one
    character early, and a containment test would leave that word readable. Empty ranges (special tokens,
    padding) overlap nothing, and nothing overlaps an empty span (no instruction).
    """
    pairs = np.asarray(offsets, np.int64).reshape(-1, 2)
    begin, end = pairs[:, 0], pairs[:, 1]
    return (end > span[0]) & (begin < span[1]) & (end > begin) & (span[1] > span[0])


@dataclass(frozen=True)
class PrefixRules:
    """Who attends to whom in the prefix, and where everything stands for RoPE."""

    attend: Any  # [B, S, S] bool: query (axis 1) may read key (axis 2)
    kept: Any  # [B, S] bool: valid tokens that inherited layers and the suffix may read
    position: Any  # [B, S] int
    suffix_offset: Any  # [B] int: position of the first suffix token


def with_images(
    valid: Array, instruction: Array, native_position: Array, mode: str, join: Callable[[list, int], Array]
) -> tuple[Array, PrefixRules]:
    """`prefix_rules` of image tokens with an arranged prompt behind them.

    Args:
        valid: [B, S] bool, of images and text. instruction: [B, L] bool; native_position: [B, L] int, both of the text.
        mode: see `prefix_rules`. join: the framework's own concatenation (arrays, axis).

    Returns:
        (valid instruction tokens [B, S] bool, rules)
    """
    images = valid[:, : valid.shape[1] - instruction.shape[1]]
    position = join([images.cumsum(-1) - 1, native_position + images.sum(-1)[:, None]], 1)
    spoken = join([images & ~images, instruction], 1) & valid
    return spoken, prefix_rules(valid, spoken, position, mode)


def prefix_rules(valid: Array, instruction: Array, native_position: Array, mode: str) -> PrefixRules:
    """The rule of the prefix as masks and positions.

    *isolated*: kept tokens never attend to instruction tokens, and their positions do not count them, so
    nothing that is kept, nor the suffix, depends on the words or on how many there are. Instruction tokens
    attend to everything valid and stand where the host's prompt has them, which is what the VLM was
    trained on; two tokens may share a position, which RoPE does not mind.
    *native*: the host's own bidirectional mask and positions. Image tokens then carry the words.

    Args:
        valid: [B, S] bool, False for padding and absent cameras.
        instruction: [B, S] bool.
        native_position: [B, S] int, the position under the host's own rule (valid tokens only).
        mode: "isolated" or "native".
    """
    kept = valid & ~instruction
    reads_all = instruction if mode == "isolated" else valid
    attend = valid[:, None, :] & (kept[:, None, :] | reads_all[:, :, None])
    if mode == "native":
        return PrefixRules(attend, kept, native_position, valid.sum(-1))
    as_int = native_position * 0 + 1  # an integer array of the same kind and device
    kept_position = (kept * as_int).cumsum(-1) - 1
    position = kept_position * kept + native_position * instruction
    return PrefixRules(attend, kept, position * valid, kept.sum(-1))
