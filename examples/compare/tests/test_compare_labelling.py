"""Self-labelling asks only what training names, looks at no truth, and finds what the policy's likelihood says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("lerobot")
import torch

from apt_compare.spec import Arm, content
from apt_compare.training import job, labelling
from apt_compare.training.pools import every
from apt_plugin.errors import AptError
from apt_plugin.tabletop.world import World
from compare_cases import SMALL

SELF = Arm("self", unlabelled=0.5, self_label=0.5)


@pytest.mark.parametrize("chained", [0.0, 0.3])
def test_no_pair_is_named_that_no_demonstration_names_and_the_truth_is_not_looked_at(chained) -> None:
    """Asked about the objects in view, nine in ten were easy; but who had said what is in view? An image does."""
    world = World(chained=chained)
    shown, hidden = world.training(200, 0), world.training(60, 1000)
    parts, later = every(shown, True), every(hidden, False)
    told = [part.instructions() for part in hidden.by_legs()]

    def features(frames):
        return np.eye(12)[frames.images[:: frames.length].sum((1, 2, 3)) % 12]

    asked = labelling.ask(parts, later, told, features)
    again = labelling.ask(parts, later, [texts[::-1] for texts in told], features)
    for part, other, texts, legs in zip(asked, again, told, (1, 2), strict=False):
        known = {text for each in parts if each.length == part.length for text in each.texts["true"]}
        names = [name for name in part.texts if name.startswith(labelling.ASKED)]
        assert {text for name in names for text in part.texts[name]} <= known
        assert part.texts == other.texts
        assert (np.diff(part.likely, axis=1) <= 0).all()  # likeliest first
        assert any(" and the " in text for text in known) == (legs == 2)
        for row, text in enumerate(texts):
            about = part.truth[row * part.length]
            assert part.texts[names[about]][row * part.length] == text if about >= 0 else text not in names


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelling")
    run = job.Run(SMALL, SELF, 0, 3e-3, folder / "out", folder / "run")
    body = run.last_body(None)
    return run.trainer(body, run.pool(body, False), SMALL.steps, False)


def test_a_likelihood_that_knows_is_believed(trainer, monkeypatch) -> None:
    """One frame of an episode that is sure outvotes one that errs a little; both get one label."""
    pool = trainer.pool

    def errors(number, rows, noise, time):
        first = torch.from_numpy(np.flatnonzero(np.diff(pool.episode.numpy(), prepend=-1)))
        right = number == torch.tensor(numbers)[pool.truth[rows]]
        sure = torch.isin(rows, first)
        return torch.where(sure, 1.0 - 0.5 * right.float(), 1.0 + 0.1 * right.float())

    numbers = [k for k, name in enumerate(pool.wordings) if name.startswith(labelling.ASKED)]
    monkeypatch.setattr(trainer, "prefix", lambda rows, number: number)
    monkeypatch.setattr(trainer, "errors", errors)
    monkeypatch.setattr(pool, "likely", torch.zeros_like(pool.likely))
    labels, right = labelling.label(trainer)
    assert (labels[: pool.labelled] == 0).all()
    rows = range(pool.labelled, len(pool))
    true = {row: numbers[pool.truth[row]] for row in rows}
    sayable = [row for row in rows if pool.truth[row] >= 0]  # few labelled episodes name few pairs
    assert 0 < len(sayable) < len(rows)
    assert all(labels[row] == true[row] for row in sayable)
    assert right == pytest.approx(len(sayable) / len(rows))


def test_the_policys_own_labels_have_words_and_are_trained_on(trainer) -> None:
    pool = trainer.pool
    labels, right = labelling.label(trainer)
    found = labels[pool.labelled :]
    assert 0 <= right <= 1
    assert all(pool.said[number][row + pool.labelled] for row, number in enumerate(found.tolist()))
    assert all(
        len(found[pool.episode[pool.labelled :] == e].unique()) == 1 for e in pool.episode[pool.labelled :].unique()
    )
    rows = torch.arange(pool.labelled, pool.labelled + 4)
    noise, time = trainer.body.draw(4, 1)
    before = trainer.loss(rows, None, noise, time)[1]  # under the empty instruction
    trainer.labels = labels
    assert trainer.loss(rows, None, noise, time)[1] != before
    trainer.labels = None


@pytest.mark.parametrize("waits", [True, False])
def test_unlabelled_frames_wait_for_their_labels_where_told(trainer, monkeypatch, waits) -> None:
    monkeypatch.setattr(trainer, "arm", dataclasses.replace(SELF, wait_for_labels=waits))
    labelled = trainer.pool.labelled
    assert bool((trainer._rows(0, 4) < labelled).all()) == waits
    monkeypatch.setattr(trainer, "labels", torch.zeros(len(trainer.pool), dtype=torch.long))
    after = trainer._rows(0, 4) < labelled
    assert (after.sum(1) == trainer.batch // 2).all()


def test_labels_are_asked_again_at_equal_distances(tmp_path, monkeypatch) -> None:
    """Later labels are better ones: what the policy got wrong in the first round it may get right in the second."""
    run = job.Run(dataclasses.replace(SMALL, steps=9), dataclasses.replace(SELF, self_label=0.34, label_rounds=3), 0,
                  3e-3, tmp_path / "out", tmp_path / "run")  # fmt: skip
    told, at = labelling.label, []
    monkeypatch.setattr(labelling, "label", lambda trainer: (at.append(trainer.schedule.last_epoch), told(trainer))[1])
    _, curve = run.last_stage(9, None)
    assert at == [3, 5, 7]
    assert len(curve) == 9
    assert run.labelling_of({"label": 2.0}) == 3 * 2.0 * SMALL.unlabelled


def test_a_warm_vlm_is_let_go_once_the_labels_are_there(tmp_path, monkeypatch) -> None:
    """The labels come from the policy that the frozen VLM made, from its kept prefixes; both then train on them."""
    arm = dataclasses.replace(SELF, vlm="full", self_label=0.5, vlm_frozen_share=0.5, wait_for_labels=True)
    run = job.Run(dataclasses.replace(SMALL, steps=4), arm, 0, 3e-3, tmp_path / "out", tmp_path / "run")
    told, at = labelling.label, []

    def label(trainer):
        now = {n: p.clone() for n, p in trainer.body.policy.named_parameters()}
        at.append((trainer.schedule.last_epoch, trainer.pool.prefixes is not None, now))
        return told(trainer)

    monkeypatch.setattr(labelling, "label", label)
    before = {n: p.clone() for n, p in run.last_body(None).policy.named_parameters()}
    body, _ = run.last_stage(4, None)
    (step, kept, then), after = at[0], dict(body.policy.named_parameters())
    assert (len(at), step, kept) == (1, 2, True)
    vlm = [n for n in before if ".paligemma." in n]
    assert all(torch.equal(before[n], then[n]) for n in vlm)
    assert any(not torch.equal(then[n], after[n]) for n in vlm)


def test_a_field_that_came_later_leaves_the_names_of_kept_results_alone() -> None:
    assert "wait_for_labels" not in content(SELF)
    assert content(dataclasses.replace(SELF, wait_for_labels=True)) == {**content(SELF), "wait_for_labels": True}


def test_self_labelling_without_unlabelled_frames_is_refused() -> None:
    with pytest.raises(AptError, match=r"write unlabelled: 0\.5"):
        Arm("x", self_label=0.5)
    with pytest.raises(AptError, match="write self_label"):
        Arm("x", unlabelled=0.5, wait_for_labels=True)
