"""Sentences and tables of the comparison follow from counts alone, and the same results give the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_compare import reporting, worlds
from apt_compare.board import Board, current, shared
from apt_compare.kinds import names, places
from apt_compare.plan import Configs, read, results, shipped
from apt_compare.questions import answers
from apt_compare.spec import Arm, Setting, Stage1
from apt_compare.stats import Estimate
from apt_plugin.errors import AptError

CONFIGS = shipped()
PROJECT = Path(__file__).parents[1]
SPLITS = ("seen", "rare", "task", "object")


def result(arm: str, seed: int, unseen: int, setting: str = "random", guided: dict | None = None) -> dict:
    """A result with `unseen` of 100 on both unseen splits and 90 on the others."""
    splits = {s: {"k": 90 if s in ("seen", "rare") else unseen, "n": 100, "where": {}} for s in SPLITS}
    return {
        "setting": setting, "arm": arm, "seed": seed, "budget": "steps", "rate": 1e-3, "steps": [10, 10],
        "flops": {"per_step": {"last": 2e9}, "stock": 1e9, "total": 3e10},
        "cpu": {"train": 3.0, "stage1": 2.0}, "wall": {"train": 4.0, "stage1": 2.0},
        "curve": {"stage1": [[5, 1.0]], "last": [[5, 0.5], [10, 0.25]]}, "splits": splits,
        "guided": guided or {}, "listen": {"loss": 0.2, "margin": 0.3}, "gates": {}, "key": f"{arm}-{seed}",
    }  # fmt: skip


def board(**arms) -> Board:
    return Board([result(arm, seed, k) for arm, row in arms.items() for seed, k in enumerate(row)])


def configs(*questions) -> Configs:
    groups = {"stock_full": "baseline", "stock_frozen": "baseline", "null": "baseline", "new": "research"}
    arms = {name: Arm(name, group=group) for name, group in groups.items()}
    return Configs(Path(), arms, {"random": Setting("random")}, {}, questions)


def ask(made: Board, **question) -> str:
    return " ".join(answered(made, **question).told)


def answered(made: Board, **question):
    return answers(made, configs({"ask": "?", "settings": ["random"], **question}))[0][1]


def test_a_clear_difference_is_said_and_a_small_one_is_not():
    made = board(a=(60, 62, 58, 61, 59), b=(40, 41, 39, 42, 38), c=(58, 64, 55, 63, 57))
    told = ask(made, kind="compare", ours="a", theirs=["b", "c"])
    assert "a 60 %, b 40 % at equal steps: +20 points" in told
    assert "better." in told
    assert "no difference shown." in told


def test_missing_results_are_said_to_be_missing():
    made = board(a=(60, 62, 58))
    assert ask(made, kind="compare", ours="a", theirs="b") == "Not run at equal steps: random: a against b."
    assert ask(made, kind="best", arms=["a", "b"]) == "random: not run."
    assert ask(made, kind="goal", arms=["new"]) == "random: not run."
    assert ask(made, kind="fair") == "Not run."


def test_a_run_that_sees_no_unlabelled_data_stands_in_settings_that_differ_in_those_alone():
    """Else a comparison in `play` asks for an hour of runs that agree with those of `random` to the last bit."""
    arms = {"words": Arm("words"), "mixed": Arm("mixed", unlabelled=0.5), "two": Arm("two", stage1=Stage1())}
    others = Setting("play", play=True), Setting("few", labelled=100), Setting("idle", unlabelled=9)
    settings = {each.name: each for each in (Setting("random"), *others)}
    configs = Configs(Path(), arms, settings, {"*": dict.fromkeys(arms, 1e-3)}, [])  # the rate of `result`
    ran = [result(arm, 0, 50) for arm in arms] + [result("two", 0, 40, setting) for setting in ("play", "few")]
    copies = shared(ran, configs)[len(ran) :]
    assert [(each["setting"], each["arm"], each["of"]) for each in copies] == [("play", "words", "random")]
    made = Board(shared(ran, configs))
    found = made.difference("play", "steps", "two", "words", ["task"])
    assert found is not None
    assert found.value == pytest.approx(-0.1)
    assert len(list(made.made)) == len(ran)
    own = [*ran, result("words", 0, 70, "play")]
    assert shared(own, configs) == own
    other_rate = Configs(Path(), arms, settings, {"play": {"words": 1e-4}}, [])
    assert shared(ran, other_rate) == ran


def test_two_seeds_are_too_few_to_say():
    assert "too few seeds to say" in ask(board(a=(60, 60), b=(10, 10)), kind="compare", ours="a", theirs="b")


def test_a_trend_says_where_the_ordering_turns_and_what_is_missing():
    rows = {"small": ((20, 22, 21), (40, 44, 42)), "large": ((60, 64, 62), (50, 52, 51)), "huge": ((70,), ())}
    made = Board([result(arm, seed, k, setting) for setting, both in rows.items()
                  for arm, row in zip(("new", "old"), both, strict=True) for seed, k in enumerate(row)])  # fmt: skip
    question = {
        "kind": "trend",
        "arms": ["old", "new", "absent"],
        "axis": "size",
        "along": {"large": 3, "small": 1, "huge": 9},
    }
    told = ask(made, **question)
    assert told.startswith("new minus old at size 1 -21 points")
    assert "; 3 +11 points" in told
    assert "9 not run: the ordering changes." in told
    assert told.endswith("absent minus old at size 1 not run; 3 not run; 9 not run: not enough was run to tell.")
    assert places(made, question) == {
        "old": [(1.0, 0.42), (3.0, 0.51)],
        "new": [(1.0, pytest.approx(0.21)), (3.0, pytest.approx(0.62)), (9.0, 0.7)],
    }


def test_the_goal_needs_ten_points_over_the_best_baseline_on_every_split():
    rivals = {"stock_full": (20,) * 5, "stock_frozen": (30,) * 5, "null": (45,) * 5}
    reached = answered(board(new=(60,) * 5, **rivals), kind="goal", arms=["new"])
    assert reached.short.startswith("random: new reaches 10 points over stock and over the best baseline (null)")
    short = answered(board(new=(50,) * 5, **rivals), kind="goal", arms=["new", "absent"])
    assert short.short.startswith("random: none of 1 arms reaches 10 points")
    assert short.short.endswith("new is nearest, 2 of 6 comparisons short.")  # the two unseen splits over null
    assert short.told[1].startswith("random: new is short over null on task +5 points (")
    assert short.told[-1] == "random: not run: absent."


def test_a_goal_that_no_arm_could_reach_says_so():
    """The bar stands where nothing fits above it: a rival at 95 % leaves 5 points."""
    rivals = {"stock_full": (95,) * 5, "stock_frozen": (30,) * 5}
    told = ask(board(new=(100,) * 5, **rivals), kind="goal", arms=["new"])
    assert "new is short over stock_full on task +5 points (" in told
    assert ", of 5 possible; object +5 points (" in told


def test_the_short_answer_counts_what_the_comparisons_say():
    made = board(a=(60, 62, 58, 61, 59), b=(40, 41, 39, 42, 38), c=(58, 64, 55, 63, 57), d=(1,))
    told = answered(made, kind="compare", ours="a", theirs=["b", "c", "d"])
    few = "a: +20 against b in random (better), +1 against c in random (no difference shown), "
    assert told.short == few + "+59 against d in random (too few seeds to say)."
    many = answered(made, kind="compare", ours="a", theirs=["b", "c", "d", "b2", "b3"])
    assert many.short == told.short  # what is missing is not counted
    assert answered(made, kind="best", arms=["b", "a", "c"]).short.startswith("random: better than b: a +20 points (")
    assert answered(made, kind="best", arms=["a", "b", "c"]).short == "random: nothing better than a."
    made = board(a=(60,) * 3, **{f"b{n}": (40 + n,) * 3 for n in range(5)})
    many = answered(made, kind="compare", ours="a", theirs=[f"b{n}" for n in range(5)])
    assert many.short == "a: of 5 comparisons better in 5; +16 to +20 points."


def test_a_baseline_is_fair_where_its_own_rate_is_as_good_as_the_best_of_its_sweep():
    def told(*seen: float) -> str:
        """The runs' rate, 3e-3 (a setting's default), is the middle one of three."""
        tried = [{"rate": r, "seen": s, "loss": 0.1, "seeds": 1} for r, s in zip((1e-3, 3e-3, 9e-3), seen, strict=True)]
        best = max(tried, key=lambda row: row["seen"])
        tuned = {"random": {"stock_frozen": {"rate": best["rate"], "tried": tried}}}
        return answers(board(a=(1,)), configs({"ask": "?", "kind": "fair"}), tuned)[0][1].told[0]

    assert "stock_frozen runs at 0.003, the best on the seen split of 0.001: 80 %, loss 0.100, " in told(0.8, 0.9, 0.7)
    assert "0.003, as good on the seen split as the best, 0.001, of" in told(0.91, 0.9, 0.7)
    worse = told(0.8, 0.87, 0.95)
    assert "0.003, worse by 8 points than the best, 0.009, of" in worse
    assert worse.endswith("(the best is an end of the sweep).")
    assert "end of the sweep" not in told(0.8, 0.9, 0.7)


def test_guided_evaluations_are_arms_of_their_own():
    splits = {s: {"k": 70, "n": 100, "where": {}} for s in SPLITS}
    made = Board([result("a", seed, 40, guided={"1.5": splits}) for seed in range(3)])
    assert made.arms("random", "steps") == ["a", "a @1.5"]
    assert made.counts("random", "steps", "a @1.5", "task") == {seed: (70, 100) for seed in range(3)}


def test_two_results_for_one_run_are_refused():
    with pytest.raises(AptError, match="Two results for random, a, seed 0"):
        Board([result("a", 0, 10), result("a", 0, 20)])


def test_unknown_questions_are_refused():
    made = board(a=(1, 2, 3))
    with pytest.raises(AptError, match="Did you mean 'compare'"):
        ask(made, kind="compares")
    with pytest.raises(AptError, match="Did you mean 'theirs'"):
        ask(made, kind="compare", their="b")


def test_the_report_is_the_same_bytes_for_the_same_results_and_says_every_number(tmp_path):
    found = [result(arm, seed, k + seed) for arm, k in (("stock_frozen", 30), ("apt", 55)) for seed in range(5)]
    for folder in ("one", "two"):
        reporting.write(found, read(CONFIGS), tmp_path / folder)
    for name in ("report.txt", "report.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one" / "report.txt").read_text()
    assert "random: apt 57 %, stock_frozen 32 % at equal steps: +25 points" in text
    asked = next(question for question in read(CONFIGS).questions if question.get("budget") == "flops")
    pairs = [(ours, theirs) for ours in asked["ours"] for theirs in asked["theirs"] if ours != theirs]
    assert f"Not run at equal flops: {len(pairs)} comparisons." in text
    assert "+25*" in text


@pytest.fixture(scope="module")
def committed():
    return results(PROJECT / "results.csv")


@pytest.fixture(scope="module")
def made(committed):
    return Board(shared(committed, read(CONFIGS)))


def test_the_committed_results_are_of_the_committed_configs(committed):
    """An arm that was edited after its runs would be described by words that are not theirs."""
    assert len(current(committed, read(CONFIGS))) == len(committed) == 611
    assert (PROJECT / "results.csv").stat().st_size < 300_000


def test_the_answers_on_the_page_follow_from_the_committed_results(committed):
    """The one test that holds results, questions, sweeps and page together; the whole report takes a minute."""
    page = (PROJECT / "findings.md").read_text()
    assert page.count("\n* ") > 30
    assert reporting.with_answers(page, committed, read(CONFIGS)) == page


def test_answers_are_written_between_the_marks_alone(tmp_path):
    page = tmp_path / "page.md"
    found = [result(arm, seed, k) for arm, k in (("stock_frozen", 30), ("stock_full", 55)) for seed in range(3)]
    which = {"ours": "stock_full", "theirs": "stock_frozen"}
    asked = configs({"ask": "Which?", "kind": "compare", "settings": ["random"], **which})
    page.write_text("no marks")
    with pytest.raises(AptError, match="holds not one pair of lines"):
        reporting.write_page(found, asked, page)
    page.write_text(f"before\n{reporting.BEGIN}\nold\n{reporting.END}\nafter\n")
    reporting.write_page(found, asked, page)
    told = "* Which? stock_full: +25 against stock_frozen in random (better)."
    assert page.read_text() == f"before\n{reporting.BEGIN}\n\n{told}\n\n{reporting.END}\nafter\n"


def test_every_question_rests_on_five_seeds(made):
    """A question that names an arm nobody ran enough of would be answered by the noise of one or two seeds."""
    few = {
        (question["ask"], setting, arm): seeds
        for question in read(CONFIGS).questions
        for setting in [*question.get("settings", []), *question.get("along", {})]
        for field in ("ours", "theirs", "arms")
        for arm in names(question.get(field, []))
        if (seeds := len(made.counts(setting, question.get("budget", "steps"), arm, "task"))) < 5
    }
    assert not few


def test_the_tables_that_people_read_follow_from_the_committed_results(made):
    """Figures that nobody recomputes would soon be of other runs. A page for users may show what it likes of them."""
    pages = [(PROJECT.parents[1] / name).read_text() for name in ("README.md", "examples/when_it_pays.md")]
    assert len(_tables(pages[1])) == 1
    for table in (table for page in pages for table in _tables(page)):
        for row in table:
            for setting in set(row) & set(made.settings):
                found = made.rate(setting, "steps", row["arm"], made.unseen)
                assert row[setting] == ("" if found is None else _interval(found)), (row["arm"], setting)
    cells = 0
    page = (PROJECT / "findings.md").read_text().partition(worlds.BEGIN)[0]  # behind it stand other results
    for table, setting in zip(_tables(page), ("random", "little"), strict=True):
        for row in table:
            found = made.rate(setting, "steps", row["arm"], made.unseen)
            cells += 1
            assert found is not None
            assert (row["unseen (95 %)"], row["seeds"]) == (_interval(found), str(found.seeds)), (row["arm"], setting)
    assert cells > 30


def _interval(found: Estimate) -> str:
    return f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a page whose first column is an arm, as mappings from header to cell."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == "arm":
            header = cells
            tables.append([])
        elif cells and header and not cells[0].startswith("---"):
            tables[-1].append(dict(zip(header, cells, strict=True)))
        elif not cells:
            header = []
    return tables
