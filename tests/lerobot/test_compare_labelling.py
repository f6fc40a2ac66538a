"""Self-labelling asks only what training names, looks at no truth, and finds what the policy's likelihood says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("lerobot")
import torch

from apt_plugin.compare.spec import Arm, content
from apt_plugin.compare.training import job, labelling
from apt_plugin.errors import AptError
from apt_plugin.tabletop.world import OBJECTS, World
from tests.lerobot.compare_cases import SMALL

SELF = Arm("self", unlabelled=0.5, self_label=0.5)


@pytest.mark.parametrize("legs", [1, 2])
def test_no_pair_is_named_that_no_demonstration_names_and_the_truth_is_not_looked_at(legs) -> None:
    """Two legs: the second object was kept from the demonstration, so that half of the answer stood in the question."""
    world = World(chained=legs - 1.0)
    known = sorted(set(world.training(1500, 0).instructions()))
    shown = world.training(60, 1000)
    questions = labelling.asked(shown, known)
    assert len(questions) == len(world.verbs) * (OBJECTS if legs == 1 else OBJECTS * (OBJECTS - 1))
    assert {text for texts in questions.values() for text in texts} <= {*known, ""}
    turned = {name: getattr(shown, name)[::-1].copy() for name in ("verb", "named", "then")}
    assert labelling.asked(dataclasses.replace(shown, **turned), known) == questions
    names, about = list(questions), labelling.truth(shown)
    for row, text in enumerate(shown.instructions()):
        assert questions[names[about[row]]][row] == text


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
    labels, right = labelling.label(trainer)
    assert (labels[: pool.labelled] == 0).all()
    rows = range(pool.labelled, len(pool))
    true = {row: numbers[pool.truth[row]] for row in rows}
    sayable = [row for row in rows if pool.said[true[row]][row]]  # few labelled episodes name few pairs
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


def test_a_field_that_came_later_leaves_the_names_of_kept_results_alone() -> None:
    assert "wait_for_labels" not in content(SELF)
    assert content(dataclasses.replace(SELF, wait_for_labels=True)) == {**content(SELF), "wait_for_labels": True}


def test_self_labelling_without_unlabelled_frames_is_refused() -> None:
    with pytest.raises(AptError, match=r"write unlabelled: 0\.5"):
        Arm("x", self_label=0.5)
    with pytest.raises(AptError, match="write self_label"):
        Arm("x", unlabelled=0.5, wait_for_labels=True)
