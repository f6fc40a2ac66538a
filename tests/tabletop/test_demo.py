"""The demo's driver: what it reads off logs, what it says, and the whole of it once, very small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.tabletop import demo as driver
from apt_plugin.tabletop.presets import EQUAL_STEPS, EQUAL_TIME, FULL_STOCK, Demo
from apt_plugin.tabletop.runs import Run, together

LOG = """INFO 2026-01-01 10:00:00 ot_train.py:1 Start offline training on a fixed dataset
Training:  50%|#####     | 30/60 [00:01<00:01, 9.0step/s]
Training: 100%|##########| 60/60 [00:02<00:00, 9.0step/s]
INFO 2026-01-01 10:00:07 ot_train.py:1 End of training
INFO 2026-01-01 10:01:00 ot_train.py:1 Start offline training on a fixed dataset
Training:  25%|##        | 10/40 [00:01<00:01, 9.0step/s]
"""


def test_steps_and_seconds_of_two_stages_add_up(tmp_path: Path) -> None:
    """Imports and proofs between the stages must not count as training time, or stock would get more steps."""
    run = Run("apt", [], tmp_path / "log", 100)
    run.log.write_text(LOG)
    assert run.done_steps() == 70
    assert run.training_seconds() == 7
    with open(run.log, "a") as file:
        file.write("INFO 2026-01-01 10:01:05 ot_train.py:1 End of training\n")
    assert run.training_seconds() == 12


def test_a_stock_run_within_one_second_asks_for_no_endless_rival() -> None:
    """A fast machine logged 0 s for 20 steps, and the equal-time arm was sent off for 1,200,000."""
    assert driver.equal_time_steps(6.0, 20, 0.0) == 120
    assert driver.equal_time_steps(300.0, 1800, 200.0) == 2700
    assert driver.equal_time_steps(0.0, 20, 0.0) == 1


def test_a_failed_arm_stops_the_others_and_shows_its_log(tmp_path: Path) -> None:
    slow = Run("slow", ["sleep", "60"], tmp_path / "slow", 1)
    bad = Run("bad", ["bash", "-c", "echo what went wrong; exit 3"], tmp_path / "bad", 1)
    with pytest.raises(AptError, match=r"(?s)bad exited with 3.*what went wrong"):
        together([slow, bad])
    assert slow.process is not None
    assert slow.process.poll() is not None


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(AptError, match=r"not empty and no earlier demo"):
        driver.demo(quick=True, output=tmp_path, seed=0)
    assert (tmp_path / "thesis.tex").exists()


def test_it_says_which_arm_did_better_whichever_it_is() -> None:
    from apt_plugin.tabletop.demo_report import UNSEEN, which_is_better

    arms = ("APT", EQUAL_STEPS, EQUAL_TIME, FULL_STOCK)
    rows = {(arm, split): (10, 100) for arm in arms for split in ("seen", "rare", *UNSEEN)}
    rows |= {(EQUAL_STEPS, split): (80, 100) for split in UNSEEN}
    sentences = which_is_better(rows)
    assert sentences[0].startswith(f"On unseen instructions and scenes: {EQUAL_STEPS}")
    assert "APT" in sentences[0]
    rows |= {("APT", split): (95, 100) for split in UNSEEN}
    assert which_is_better(rows)[0].startswith("On unseen instructions and scenes: APT")


NOTEBOOK = Path(__file__).parents[2] / "examples/first_steps.ipynb"
NOT_HERE = {"install", "show"}  # the network, and a browser


def cells() -> list[dict]:
    """The notebook's cells of code."""
    whole = json.loads(NOTEBOOK.read_text())
    assert whole["nbformat"] == 4
    return [cell for cell in whole["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_as_it_was_before_it_ran() -> None:
    """Outputs of somebody's machine would be read as ours."""
    for cell in cells():
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert set(cell["metadata"].get("tags", ())) <= NOT_HERE
    assert len([cell for cell in cells() if not cell["metadata"]]) == 3  # which the next test runs


@pytest.mark.slow
def test_the_whole_demo_very_small_as_the_notebook_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every part of README's first command, on the host's own commands; too short to learn anything."""
    from apt_plugin.tabletop.grounding import Grounding

    tiny = Demo(
        grounding=Grounding(steps=8, scenes=64, probe=32), labelled=24, unlabelled=24, batch=8, stage1_steps=60,
        stage2_steps=40, stock_steps=20, warmup=2, rollouts=4,
    )  # fmt: skip
    monkeypatch.setattr(driver, "QUICK", tiny)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in cells():
        if not NOT_HERE & set(cell["metadata"].get("tags", ())):
            exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    assert "ordinary fine-tune: " in said
    assert "the recipe: " in said
    folder = tmp_path / "apt-demo"
    numbers = json.loads((folder / "report.json").read_text())
    text = (folder / "report.html").read_text()
    kinds = [section["kind"] for section in numbers["sections"]]
    for kind in ("verdict", "rates", "proofs", "curves", "gates", "frames", "settings"):
        assert kind in kinds, kind
    proofs = next(s for s in numbers["sections"] if s["kind"] == "proofs")
    assert all(row["passed"] for row in proofs["rows"])
    assert EQUAL_TIME in text
    assert "<script src" not in text
