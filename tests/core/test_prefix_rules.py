"""Who attends to whom in the prefix, as properties of the masks (numpy; the other back-ends: tests/backends).

B batch   S prefix tokens   L text tokens
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from apt_plugin.language import PrefixRules, Prompt, Segment, arrange, prefix_rules

IMAGES = 4  # image tokens in front of the text


def tokenise(text: str) -> list[int]:
    """One character, one token."""
    return [ord(character) for character in text]


prompts = st.builds(
    lambda parts, spare: arrange(parts, tokenise, sum(len(p.text) for p in parts) + spare),
    st.lists(st.builds(Segment, st.text("abc", max_size=4), st.booleans()), max_size=5),
    st.integers(0, 3),
)
cameras = hnp.arrays(bool, IMAGES)  # whether an image token is there


def masks(camera: np.ndarray, prompt: Prompt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """valid, instruction, native position [1, S] of images and an arranged prompt, as a host adapter builds them."""
    valid = np.concatenate([camera, prompt.valid])
    instruction = np.concatenate([np.zeros(IMAGES, bool), prompt.instruction])
    position = np.concatenate([camera.cumsum() - 1, camera.sum() + prompt.native_position])
    return valid[None], instruction[None], position[None]


def rules_of(camera: np.ndarray, prompt: Prompt, mode: str) -> PrefixRules:
    return prefix_rules(*masks(camera, prompt), mode)


@settings(deadline=None)
@given(camera=cameras, prompt=prompts)
def test_isolated_who_reads_whom(camera: np.ndarray, prompt: Prompt) -> None:
    """openpi's and lerobot's π prefix is bidirectional: image tokens read the words from the second layer on, so
    hiding the words from the expert alone hides nothing. Here nothing that is kept reads them, at any layer; the
    words themselves read everything, as the VLM was trained to."""
    valid, instruction, _ = (a[0] for a in masks(camera, prompt))
    attend = rules_of(camera, prompt, "isolated").attend[0]
    kept, spoken = valid & ~instruction, valid & instruction
    assert not attend[np.ix_(kept, spoken)].any()
    assert attend[np.ix_(kept, kept)].all()
    assert attend[np.ix_(spoken, kept | spoken)].all()


@settings(deadline=None)
@given(camera=cameras, prompt=prompts, mode=st.sampled_from(["isolated", "native"]))
def test_padding_and_absent_cameras_are_never_read(camera: np.ndarray, prompt: Prompt, mode: str) -> None:
    """Padding has token id 0 and an embedding like any other; and an absent camera is a black image that the
    policy would take for one."""
    rules, valid = rules_of(camera, prompt, mode), masks(camera, prompt)[0]
    assert not rules.attend[:, :, ~valid[0]].any()
    assert not rules.kept[~valid].any()


@settings(deadline=None)
@given(
    camera=cameras,
    kept=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    words=st.tuples(st.text("xyz", max_size=6), st.text("xyz", max_size=6)),
)
def test_isolated_nothing_kept_knows_how_many_words_there_are(
    camera: np.ndarray, kept: list[str], words: tuple[str, str]
) -> None:
    """Masks alone are not enough: hosts number positions by a running count of valid tokens, so a longer
    instruction moves the state digits and every action token to other rotary angles. Stage 1 would see the length."""
    seen = []
    for text in words:
        parts = [Segment(kept[0]), Segment(text, True), *map(Segment, kept[1:])]
        prompt = arrange(parts, tokenise, 40)
        rules = rules_of(camera, prompt, "isolated")
        mask = rules.kept[0]
        seen.append((mask, rules.position[0][mask], rules.suffix_offset, rules.attend[0][np.ix_(mask, mask)]))
        # Numbered as if there were no words: 0, 1, 2, ... and the suffix goes on from there.
        assert rules.position[0][mask].tolist() == list(range(mask.sum()))
        assert rules.suffix_offset.tolist() == [mask.sum()]
    for one, other in zip(*seen, strict=True):
        assert np.array_equal(one, other)


@settings(deadline=None)
@given(camera=cameras, prompt=prompts)
def test_isolated_words_stand_where_the_host_has_them(camera: np.ndarray, prompt: Prompt) -> None:
    """Instruction tokens keep the host's own positions: the frozen VLM has never seen them anywhere else."""
    valid, instruction, native = masks(camera, prompt)
    spoken = valid & instruction
    assert np.array_equal(rules_of(camera, prompt, "isolated").position[spoken], native[spoken])


@settings(deadline=None)
@given(camera=cameras, prompt=prompts)
def test_isolated_without_words_is_native(camera: np.ndarray, prompt: Prompt) -> None:
    """On an empty instruction both modes are one: the host's own rule. So Stage 1 is the host on prompts without
    a task, and not some third thing that the pretrained VLM has never met."""
    left = prompt.valid & ~prompt.instruction
    empty = Prompt(prompt.tokens, left, np.zeros_like(left), (left.cumsum() - 1) * left, np.zeros_like(left))
    one, other = (rules_of(camera, empty, mode) for mode in ("isolated", "native"))
    valid = masks(camera, empty)[0]
    assert np.array_equal(one.position[valid], other.position[valid])
    for name in ("attend", "kept", "suffix_offset"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def openpi(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """attend [S, S] and positions [S] of a prefix under openpi's rule (pi0.py: make_attn_mask with ar_mask all
    False, positions = cumsum(mask) - 1)."""
    block = np.zeros(len(mask), int).cumsum()
    return (block[None, :] <= block[:, None]) & mask[None, :] & mask[:, None], mask.cumsum() - 1


@settings(deadline=None)
@given(camera=cameras, prompt=prompts)
def test_native_is_openpis_own_rule(camera: np.ndarray, prompt: Prompt) -> None:
    """The ablation is only one if it is the host: same readers, same positions, in spite of our arranged order."""
    valid = masks(camera, prompt)[0]
    order = np.argsort(prompt.native_position[prompt.valid])  # the host's order of the text tokens
    back = np.concatenate([np.arange(IMAGES), IMAGES + order, np.arange(IMAGES + len(order), valid.shape[1])])
    attend, position = openpi(valid[0][back])
    rules = rules_of(camera, prompt, "native")
    read = valid[0][back]
    # Rows of padding differ (openpi leaves them empty, ours read the kept keys); nobody reads what they compute.
    assert np.array_equal(rules.attend[0][np.ix_(back, back)][read], attend[read])
    assert np.array_equal(rules.position[0][back][read], position[read])
    assert rules.suffix_offset.tolist() == [valid.sum()]  # openpi: sum(prefix_mask) + cumsum(suffix_mask) - 1


@pytest.mark.parametrize("mode", ["isolated", "native"])
def test_a_batch_mate_changes_nothing(mode: str) -> None:
    """Rules are per sample: a neighbour's longer instruction or missing camera is not ours."""
    rng = np.random.default_rng(0)
    valid, instruction = rng.random((4, 12)) < 0.7, rng.random((4, 12)) < 0.4
    native = rng.integers(0, 12, (4, 12))
    together = prefix_rules(valid, instruction, native, mode)
    for i in range(4):
        alone = prefix_rules(valid[i : i + 1], instruction[i : i + 1], native[i : i + 1], mode)
        for name, value in vars(alone).items():
            assert np.array_equal(value[0], getattr(together, name)[i]), name
