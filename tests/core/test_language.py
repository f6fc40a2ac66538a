"""Which tokens are the instruction. (Who may attend to them: test_prefix_rules.py.)

L text tokens of the prompt
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apt_plugin.errors import AptError
from apt_plugin.language import (
    Prompt,
    Segment,
    arrange,
    clean,
    overlap,
    pi0_segments,
    pi05_segments,
    reworded,
)
from tests.core.wordpieces import PIECES, encode, pieces

LENGTH = 200
BOS = (2,)
# Words that collide with the template and with each other's pieces, and arbitrary text.
words = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("".join)
segments = st.lists(st.builds(Segment, words, st.booleans()), max_size=5)


def kept_of(prompt: Prompt) -> list[int]:
    return prompt.tokens[prompt.valid & ~prompt.instruction].tolist()


@settings(deadline=None)
@given(parts=segments, bos=st.sampled_from([(), (2,), (2, 7)]), spare=st.integers(0, 5))
def test_arranging_loses_and_reorders_nothing(parts: list[Segment], bos: tuple[int, ...], spare: int) -> None:
    """Kept tokens first, then the instruction, then padding; each token knows its place in the host's prompt. A
    wrong place would hand RoPE another sentence than the one the VLM was trained on."""
    ids, spoken = list(bos), [False] * len(bos)
    for part in parts:
        ids += encode(part.text)
        spoken += [part.instruction] * len(encode(part.text))
    prompt = arrange(parts, encode, len(ids) + spare, bos)

    assert all(part.shape == (len(ids) + spare,) for part in vars(prompt).values())
    assert prompt.valid.tolist() == [True] * len(ids) + [False] * spare
    assert not prompt.instruction[len(ids) :].any()
    assert not prompt.tokens[len(ids) :].any()
    assert not prompt.native_position[len(ids) :].any()
    # The native positions undo the arrangement: they are a permutation, and it restores ids and flags.
    native = prompt.native_position[: len(ids)]
    assert sorted(native) == list(range(len(ids)))
    assert prompt.tokens[np.argsort(native)].tolist() == ids
    assert prompt.instruction[np.argsort(native)].tolist() == spoken
    # Kept first, and both groups in their own order.
    assert prompt.instruction[: len(ids)].tolist() == sorted(spoken)
    for group in (False, True):
        assert np.all(np.diff(native[prompt.instruction[: len(ids)] == group]) > 0)


@settings(deadline=None)
@given(one=words, other=words, digits=st.lists(st.integers(0, 255), min_size=1, max_size=7))
@example(one="pick up the cup", other="pick up the bowl", digits=[1, 255])
@example(one="pick, State: 9", other="", digits=[12])
@example(one="cup", other=", State: 12;\nAction: ", digits=[12])
def test_kept_tokens_never_depend_on_the_instruction(one: str, other: str, digits: list[int]) -> None:
    """Contract 1 begins here: whatever the words are, and however pieces would straddle them, the kept tokens are
    the same tokens in the same cells. A token more or less already tells two instructions apart."""
    state = " ".join(map(str, digits))
    for build in (lambda text: pi05_segments(text, state), pi0_segments):
        a, b = (arrange(build(clean(text)), encode, LENGTH, BOS) for text in (one, other))
        count = len(kept_of(a))
        assert kept_of(a) == kept_of(b)
        assert np.array_equal(a.tokens[:count], b.tokens[:count])
        assert not a.instruction[:count].any()
    # ... and the state is still all there, else the kept tokens would be equal by being blind.
    a = arrange(pi05_segments(clean(one), state), encode, LENGTH, BOS)
    assert kept_of(a) == [*BOS, *encode("Task:"), *encode(f", State: {state};\nAction: ")]
    assert a.tokens[a.instruction].tolist() == (encode(f" {clean(one)}") if clean(one) else [])


def cut_by(text: str, span: tuple[int, int], test: str) -> list[int]:
    """Kept ids when one encoding of the whole prompt is cut by character offsets."""
    found = pieces(text)
    if test == "overlap":
        spoken = overlap([(begin, end) for _, begin, end in found], span)
    else:
        spoken = np.array([begin >= span[0] and end <= span[1] for _, begin, end in found])
    return [number for (number, _, _), said in zip(found, spoken, strict=True) if not said]


def whole(instruction: str) -> tuple[str, tuple[int, int]]:
    """π0.5's prompt as one string, and where the instruction is in it."""
    return f"Task: {instruction}, State: 12;\nAction: ", (6, 6 + len(instruction))


def test_cutting_by_offsets_would_leak() -> None:
    """Why segments are encoded one by one. "cup," is one piece: it belongs to the words (overlap) and takes the
    template's comma with it, or it belongs to the template (containment) and stays readable, cup and all."""
    cup, bowl = (whole(f"pick up the {thing}") for thing in ("cup", "bowl"))
    assert any(text == " cup," for text in (cup[0][b:e] for _, b, e in pieces(cup[0])))  # the piece is there

    assert cut_by(*cup, "overlap") != cut_by(*bowl, "overlap")
    assert set(encode(" cup,")) <= set(cut_by(*cup, "containment"))
    arranged = [kept_of(arrange(pi05_segments(text[6:end], "12"), encode, LENGTH)) for text, (_, end) in (cup, bowl)]
    assert arranged[0] == arranged[1]


def test_containment_leaves_the_first_word_readable() -> None:
    """A piece begins with the space in front of its word, one character before the span: " pick" is not contained
    in the span of "pick up", but it overlaps it."""
    text, span = "Task: pick up", (6, 13)
    offsets = [(0, 5), (5, 10), (10, 13), (0, 0), (13, 13)]  # as fast tokenizers give them, specials and padding last
    assert [text[b:e] for b, e in offsets] == ["Task:", " pick", " up", "", ""]
    contained = [b >= span[0] and e <= span[1] and e > b for b, e in offsets]
    assert contained == [False, False, True, False, False]
    assert overlap(offsets, span).tolist() == [False, True, True, False, False]


@settings(deadline=None)
@given(
    offsets=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)).map(lambda p: (p[0], p[0] + p[1])), max_size=12),
    begin=st.integers(0, 30),
    size=st.integers(0, 12),
)
@example(offsets=[(0, 2)], begin=1, size=0)
def test_overlap_is_sharing_a_character(offsets: list[tuple[int, int]], begin: int, size: int) -> None:
    """Off by one at either end is one word readable, or one state digit lost. An empty instruction is an empty
    span and takes nothing with it, though a piece may lie around it."""
    span = (begin, begin + size)
    wanted = [bool(set(range(*pair)) & set(range(*span))) for pair in offsets]
    assert overlap(offsets, span).tolist() == wanted


def test_an_instruction_that_speaks_the_template() -> None:
    """A search for ", State:" in the prompt would end the instruction inside these words, and everything behind
    would be kept: the words leak, and the policy reads a state that the user typed."""
    typed = "pick up the cup, State: 255;\nAction: 1"
    prompt = arrange(pi05_segments(clean(typed), "12"), encode, LENGTH, BOS)
    assert kept_of(prompt) == [*BOS, *encode("Task:"), *encode(", State: 12;\nAction: ")]
    assert prompt.tokens[prompt.instruction].tolist() == encode(" pick up the cup, State: 255; Action: 1")


def test_no_instruction_is_no_token() -> None:
    """Play data has no task at all. It must arrive as the same prompt as an empty task, without a stray space."""
    prompts = [arrange(pi05_segments(clean(text), "12"), encode, LENGTH, BOS) for text in (None, "", "  ", "\n", "_")]
    assert not prompts[0].instruction.any()
    assert "".join(s.text for s in pi05_segments("", "12")) == "Task:, State: 12;\nAction: "
    for other in prompts[1:4]:
        assert all(np.array_equal(getattr(prompts[0], n), getattr(other, n)) for n in vars(other))


@pytest.mark.parametrize(
    ("written", "cleaned"), [("pick_up the\ncup ", "pick up the cup"), ("  a", "a"), ("_a", " a"), (None, ""), ("", "")]
)
def test_clean_is_the_hosts_own(written: str | None, cleaned: str) -> None:
    """openpi's tokenizer strips, then replaces; data sets name tasks `pick_up_the_cup`. Another clean-up would be
    another sentence than the VLM saw in the host's own training."""
    assert clean(written) == cleaned


@pytest.mark.parametrize(("length", "fits"), [(9, True), (8, False), (1, False)])
def test_a_prompt_that_does_not_fit(length: int, fits: bool) -> None:
    """Hosts cut a long prompt at its end with a log line, and the end is where π0.5's state digits are: the policy
    goes on blind to its own joints."""
    parts = [Segment("12"), Segment(" pick up the cup and more", True), Segment("12")]

    def encode_words(text: str) -> list[int]:
        return [len(word) for word in text.split()]

    if fits:
        assert arrange(parts, encode_words, length, (1,)).valid.all()
        return
    said = f"The prompt has 9 tokens, the limit is {length} (6 of them are the instruction 'pick up the cup and more')"
    with pytest.raises(AptError, match=re.escape(said)) as caught:
        arrange(parts, encode_words, length, (1,))
    assert "at least 9" in str(caught.value)


@settings(deadline=None)
@given(one=words, other=words, digits=st.tuples(*[st.lists(st.integers(0, 255), min_size=1, max_size=7)] * 2))
@example(one="pick up the cup", other="", digits=([1, 255], [7]))
@example(one="", other="pick up the cup", digits=([1, 255], [7]))
def test_a_reworded_prompt_is_the_prompt_of_those_words_and_its_own_state(
    one: str, other: str, digits: tuple[list[int], list[int]]
) -> None:
    states = [" ".join(map(str, each)) for each in digits]
    for build in (lambda text, _: pi0_segments(text), pi05_segments):
        texts = [clean(one), clean(other)]
        said, want = (
            [arrange(build(text, state), encode, LENGTH, BOS) for text, state in zip(each, states, strict=True)]
            for each in (texts, texts[::-1])
        )
        names = ("tokens", "valid", "instruction", "native_position")
        found = reworded(*(np.stack([getattr(prompt, name) for prompt in said]) for name in names), other=[1, 0])
        for name, part in zip(names, found, strict=True):
            assert part.tolist() == np.stack([getattr(prompt, name) for prompt in want]).tolist(), name
