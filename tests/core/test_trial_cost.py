"""What examples/trial.md says a trial costs follows from the table of examples/cost.md."""

from __future__ import annotations

import re

from tests.documents import ROOT

TENTH, WARM, SHARE = 0.1, 0.3, 0.1  # of the steps: a short run, the frozen part of warm-up, Stage 1


def cost_page() -> str:
    return (ROOT / "examples/cost.md").read_text()


def steps() -> dict[str, float]:
    """Training step -> TFLOP at π0.5's real size."""
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| [\d.]+ \|", cost_page(), re.M)
    return {name: float(value) for name, value in rows}


def test_the_cost_of_a_trial_is_what_the_counted_steps_come_to() -> None:
    page, of = (ROOT / "examples/trial.md").read_text(), steps()
    own, expert = of["lerobot, everything trained"], of["lerobot, `train_expert_only`"]
    first, second = of["APT Stage 1, 4 noise draws"], of["APT Stage 2, VLM trained, 4 draws"]
    read = first - 3.4  # a pass of the frozen VLM: what a cache saves of Stage 1
    trained = own + expert + WARM * expert + (1 - WARM) * own + second + SHARE * first + (1 - SHARE) * second
    assert f"five ways at a tenth cost {TENTH * trained / own:.2f} of it" in page
    assert f"its passes there are {100 * (1 + WARM + SHARE) * read / trained:.0f} % of such a trial" in page
    assert f"save the passes of the last two only: {100 * (WARM + SHARE) * read / trained:.0f} %" in page
    frozen = of["APT Stage 2, frozen VLM, 4 draws"]
    images = expert + frozen + SHARE * first + (1 - SHARE) * frozen
    disk = expert + 4.6 + SHARE * 3.4 + (1 - SHARE) * 4.6  # "the same from a cache", of both stages
    said = f"the trial counts {TENTH * disk / expert:.2f} of your training, in place\nof {TENTH * images / expert:.2f}."
    assert said in page
    assert [value for name, value in re.findall(r"\| (the same from a cache) \| ([\d.]+)", cost_page())] == [
        "3.4",
        "4.6",
    ]
