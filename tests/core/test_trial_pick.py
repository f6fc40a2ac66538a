"""Which way a trial takes, on answers that are known, and what its page says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apt_plugin import files, report
from apt_plugin.errors import AptError
from apt_plugin.trial import answer, pages, runs, ways
from apt_plugin.trial.answer import Answer
from apt_plugin.trial.pick import Tried, pick

OWN, EXPERT, WARM, GATED, TWO = ways.WAYS
EPISODES = np.repeat(np.arange(16), 4)


def tried(way: ways.Way, margin: float, loss: float, *, noise: float = 0.05, seeds: int = 1) -> Tried:
    rng = np.random.default_rng(len(way.name))
    said = [
        Answer(EPISODES, margin + noise * rng.normal(size=64), loss + 0.02 * rng.normal(size=64), "listens")
        for _ in range(seeds)
    ]
    return Tried(way, said, 60.0)


def test_the_way_that_listens_surely_more_is_taken() -> None:
    found = pick([tried(OWN, 0.1, 1.0), tried(GATED, 0.4, 1.0)])
    assert found.way == GATED
    assert found.sentences[0].startswith("Gated language in one stage listens most: margin 0.391 (")
    assert "has a larger margin than your own training, by 0.293" in found.sentences[1]


def test_where_two_do_not_differ_the_simpler_is_taken_and_it_is_said() -> None:
    found = pick([tried(OWN, 0.30, 1.0, noise=0.2), tried(GATED, 0.31, 1.0, noise=0.2)])
    assert found.way == OWN
    assert found.sentences[0] == "No difference was found between your own training and gated language in one stage."
    found = pick([tried(OWN, 0.0, 1.0), tried(WARM, 0.30, 1.0, noise=0.2), tried(GATED, 0.31, 1.0, noise=0.2)])
    assert found.way == WARM


def test_a_way_that_listens_but_cannot_move_is_no_candidate() -> None:
    found = pick([tried(OWN, 0.1, 1.0), tried(GATED, 0.9, 3.6)])
    assert found.way == OWN
    assert "Gated language in one stage is no candidate: its loss on held-out actions is 3.6" in found.sentences[-1]


def test_where_nobody_listens_nothing_speaks_for_another_command() -> None:
    found = pick([tried(OWN, 0.0, 1.0), tried(GATED, -0.01, 1.0)])
    assert found.way == OWN
    assert "No way listens yet" in found.sentences[0]


def test_one_way_is_compared_with_nothing() -> None:
    assert "Only warm-up has answered" in pick([tried(WARM, 0.4, 1.0)]).sentences[0]


def test_training_runs_that_disagree_make_no_difference() -> None:
    own, gated = tried(OWN, 0.3, 1.0, seeds=2), tried(GATED, 0.4, 1.0, seeds=2)
    assert pick([own, gated]).way == GATED
    lucky, unlucky = (Answer(EPISODES, np.full(64, value), np.ones(64), "") for value in (0.9, 0.29))
    mixed = Tried(GATED, [lucky, unlucky], 60.0)
    found = answer.more(mixed.answers, own.answers)
    assert found is not None
    assert found.low > 0
    assert pick([own, mixed]).way == OWN


def test_losses_in_other_units_are_not_compared() -> None:
    own, gated = tried(OWN, 0.1, 1.0), tried(GATED, 0.4, 9.0)
    found = pick([own, Tried(GATED, [replace(each, unit=3.0) for each in gated.answers], 1.0)])
    assert (found.way, found.slow) == (GATED, [])
    assert "The loss of gated language in one stage is in another unit" in found.sentences[-1]


def test_other_frames_are_not_compared() -> None:
    own, gated = tried(OWN, 0.1, 1.0), tried(GATED, 0.4, 1.0)
    strange = Answer(EPISODES[::-1], gated.answers[0].margin, gated.answers[0].loss, "")
    with pytest.raises(AptError, match="asked on different frames"):
        pick([own, Tried(GATED, [strange], 1.0)])


def test_the_page_says_what_it_does_not_know_and_ends_in_a_command(tmp_path: Path) -> None:
    all_of = [tried(OWN, 0.1, 1.0), tried(GATED, 0.4, 1.0)]
    command = pages.shell(["apt-plugin", "run", "train", "--data", "my kitchen", "--recipe", "apt"])
    written = pages.sections(all_of, pick(all_of), command, {}, {"warm-up": "it <fails>"}, [0, 1, 2], {})
    report.write(tmp_path / "a.html", tmp_path / "a.json", written)
    text = (tmp_path / "a.html").read_text()
    for words in (
        "This pick is a hint",
        "Each way was trained once",
        "it &lt;fails&gt;",
        "Unseen pairs",
        "listens less",
    ):
        assert words in text
    assert "<code>apt-plugin run train \\\n    --data &#x27;my kitchen&#x27; \\\n    --recipe apt</code>" in text


def test_the_page_draws_the_margin_over_steps_and_says_what_the_vlm_kept(tmp_path: Path) -> None:
    """Where nothing was asked on the way, and nothing is known of the VLM, nothing is made up."""
    plain, asked = tried(OWN, 0.1, 1.0), tried(GATED, 0.4, 1.0)
    kept = [replace(each, retention=0.62) for each in asked.answers]
    earlier = tried(GATED, 0.2, 1.0).answers[0]
    asked = replace(asked, answers=kept, curve=((50, earlier), (150, kept[0])))
    written = pages.sections([plain, asked], pick([plain, asked]), "train", {}, {}, [], {})
    (curves,) = [each for each in written if isinstance(each, report.Curves)]
    (line,) = curves.series.values()
    assert list(line[0]) == [50, 150]
    assert list(line[1]) == pytest.approx([0.2, 0.4], abs=0.02)
    (table,) = [each for each in written if getattr(each, "title", "") == "The ways"]
    place = list(table.header).index("VLM kept")
    assert [row[place] for row in table.rows] == [None, 0.62]
    written = pages.sections([plain], pick([plain]), "train", {}, {}, [], {})
    assert not [each for each in written if isinstance(each, report.Curves)]


def test_points_of_a_run_are_found_by_how_far_they_are_from_its_end(tmp_path: Path) -> None:
    said = {"episode": [0, 1], "margin": [0.1, None], "loss": [1.0, 1.0], "verdict": "deaf", "unit": 1.0}
    run = runs.Short("own", 0, "own", lambda _: 0, lambda _: 0)
    files.write_json(tmp_path / "own-0" / runs.ANSWER, said)
    assert runs.points(run, tmp_path, 150) == []
    for away, value in ((100, 0.01), (50, 0.05)):
        place = tmp_path / f"own-0/{runs.POINT}{away}"
        place.mkdir()
        files.write_json(place / runs.ANSWER, said | {"margin": [value, None], "retention": 0.9})
    found = runs.points(run, tmp_path, 150)
    assert [step for step, _ in found] == [50, 100, 150]
    assert [answer.margin[0] for _, answer in found] == [0.01, 0.05, 0.1]
    assert [answer.retention for _, answer in found] == [0.9, 0.9, None]


def test_a_way_that_knows_its_demonstrations_by_heart_is_a_candidate() -> None:
    """Its held-out loss is twice a frozen one's, and its success higher: examples/compare/calibration.md."""
    assert pick([tried(EXPERT, 0.4, 0.6), tried(GATED, 0.9, 1.2)]).way == GATED
