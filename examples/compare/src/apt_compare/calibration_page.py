"""The marked part of calibration.md: which rule was chosen, how often picks are right, and in which direction pilots
mislead; and a small plot of the latter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from apt_compare import marked, picking
from apt_compare.calibration import Known
from apt_compare.picking import CHOSEN_AT, CLOSE, Cases, Outcome, outcome
from apt_compare.pilots import FULL, HALVES, Calibration
from apt_plugin import files

BEGIN, END = "<!-- calibration: written by `apt-compare calibration` -->", "<!-- end of calibration -->"
SHORT = "<!-- pick: written by `apt-compare calibration` -->", "<!-- end of pick -->"  # of a page for users
HALVING = "<!-- halving: written by `apt-compare calibration` -->", "<!-- end of halving -->"
SAID = {
    "margin alone": "by the largest margin",
    "held-out loss alone": "by the lowest held-out loss",
    "the trial's rule": "by the trial: the largest margin, and the simpler way where two do not differ",
}
PLOT = "calibration.svg"
COLOURS = ("#0b57d0", "#b3261e", "#146c2e", "#7d5700", "#6b4ea2")
SIDE, PAD, HEAD = 420, 56, 40


def write_page(cases: Cases, told: Calibration, path: Path, whole: Cases | None = None) -> None:
    """The tables between the two marks of a Markdown page, and the plot beside it; or, where a page has the marks of
    `SHORT`, the answer, and what halving would do.

    Args:
        whole: cases of full runs alone, see `calibration.whole`.

    Raises:
        AptError: no page there, or one without the marks.
    """
    if path.is_file() and SHORT[0] in path.read_text():
        for marks, said in ((SHORT, answer), (HALVING, halving)):
            marked.write(path, marks, partial(marked.renewed, marks=marks, lines=said(cases, told)))
        return
    marked.write(path, (BEGIN, END), lambda page: marked.renewed(page, (BEGIN, END), lines(cases, told, whole or {})))
    files.write_bytes(path.parent / PLOT, plot(cases, list(told.ways)).encode())


def lines(cases: Cases, told: Calibration, whole: Cases) -> list[str]:
    """All of the marked part."""
    both = {name: picking.half(cases, name) for name in HALVES}
    found = picking.rules(list(told.ways))
    if not all(both.values()):
        none = [f"{len(cases)} cases are finished, and both halves take one: nothing can be said of pilots yet.", ""]
        return [*none, *_ceiling(whole, told, found)]
    out = answer(cases, told)
    for name, mine in both.items():
        out += [
            f"Half `{name}`: picks within {100 * CLOSE:.0f} points of the best way, and points lost on average.",
            "",
        ]
        out += _table(mine, told, found)
    out += _ceiling(whole, told, found)
    out += _direction(cases, told)
    gone, count = picking.halved(cases, told.pilots[0])
    out += [
        f"{halving(cases, told)[0]} In {gone} of {count} it holds every way that would be a right pick.",
        "",
    ]
    return [
        *out,
        *_cost(cases, told),
        f"![Margin of pilots at a {CHOSEN_AT}, and success of the full runs]({PLOT})",
        "",
    ]


def answer(cases: Cases, told: Calibration) -> list[str]:
    """The rule that was chosen, the trial's own, and the best way without any pilot, on the half to report."""
    mine, chosen_by = picking.half(cases, "report"), picking.half(cases, "choose")
    if not mine or not chosen_by:
        return ["Nothing can be said yet.", ""]
    found = picking.rules(list(told.ways))
    rule, constant, own = picking.chosen(cases, True), picking.chosen(cases, False), "the trial's rule"
    named = {rule: f"{SAID.get(rule, rule)}: the rule that was right most often in the first half"}
    if rule != own:
        named[own] = SAID[own]
    named[constant] = (
        f"no short run, {constant.replace('always ', 'always `')}`: the way right most often in the first half"
    )
    out = [
        f"{len(cases)} of the {len(told.cases)} cases are finished: each of their ways has its short runs and its full "
        f"run. The first half (`choose`) has {len(chosen_by)} of them, the second (`report`) {len(mine)}. "
        f"In the second half, by runs of a {CHOSEN_AT} of the steps:",
        "",
        "| how the way is picked | right | points of success lost, on average |",
        "|---|---|---|",
    ]
    for name, said in named.items():
        made = outcome(found[name], mine, CHOSEN_AT)
        out.append(f"| {said} | {_share(made)} | {100 * made.lost:.1f} |")
    return [*out, ""]


def halving(cases: Cases, told: Calibration) -> list[str]:
    """What ending the weaker half of the ways early would have done, over all cases: nothing is chosen by it."""
    early, late = told.pilots[0], CHOSEN_AT
    picked, best, count = picking.ended(cases, early, late)
    if not count:
        return ["Nothing can be said yet.", ""]
    kept = "none" if picked == 0 else str(picked)
    return [
        f"Suppose that the half of the ways with the smaller margins ended at a {early} of the steps. In {kept} of "
        f"{count} cases that half holds the way with the largest margin at a {late}, so the pick by margin changes in "
        f"{kept}. In {best} of {count} it holds the way whose full run was best.",
        "",
    ]


def _share(made: Outcome) -> str:
    return f"{made.right} of {made.cases} cases"


def _table(cases: Cases, told: Calibration, found: dict[str, picking.Rule]) -> list[str]:
    out = [f"| rule | {' | '.join(f'a {pilot}' for pilot in told.pilots)} |", "|---" * (1 + len(told.pilots)) + "|"]
    for name, rule in found.items():
        cells = [outcome(rule, cases, at) for at in told.pilots]
        out.append(f"| {name} | {' | '.join(f'{_share(c)}, {100 * c.lost:.1f}' if c.cases else '' for c in cells)} |")
    return [*out, ""]


def _ceiling(whole: Cases, told: Calibration, found: dict[str, picking.Rule]) -> list[str]:
    """What rules pick by the full runs themselves: no pilot can be expected to do better."""
    if not whole:
        return []
    settings = sorted({case.setting for case in whole})
    out = [
        f"By the full runs themselves, {len(whole)} cases of the settings {', '.join(settings)}: right picks, and "
        "points lost on average. No pilot can be expected to do better.",
        "",
        "| rule | by the full run |",
        "|---|---|",
    ]
    for name, rule in found.items():
        if name not in picking.OF_PILOTS:
            made = outcome(rule, whole, FULL)
            out.append(f"| {name} | {_share(made)}, {100 * made.lost:.1f} |")
    return [*out, ""]


def _direction(cases: Cases, told: Calibration) -> list[str]:
    """Which way pilots under-rate: over all cases, since nothing is chosen by it."""
    there = [at for at in told.pilots if picking.asked(cases, at)]
    out = [
        "All cases: the place of each way by its pilot's margin and by the success of its full run, 1 the best, on "
        "average. Where the second is the smaller number, pilots under-rate that way.",
        "",
        f"| way | {' | '.join(f'margin at a {at}' for at in there)} | success | success in % | best in |",
        "|---" * (4 + len(there)) + "|",
    ]
    for name in told.ways:
        by_margin = [picking.places(cases, at, name)[0] for at in there]
        mine = [ways for ways in cases.values() if name in ways]
        success = [ways[name].success for ways in mine]
        best = sum(picking.lost(ways, name) == 0 for ways in mine)
        cells = [*(f"{place:.1f}" for place in by_margin), f"{picking.places(cases, CHOSEN_AT, name)[1]:.1f}"]
        out.append(
            f"| `{name}` | {' | '.join(cells)} | {100 * sum(success) / len(success):.0f} | {best} of {len(mine)} |"
        )
    return [*out, ""]


def _cost(cases: Cases, told: Calibration) -> list[str]:
    share = []
    for at in told.pilots:
        there = [ways for ways in picking.asked(cases, at).values() if _beside(ways)]
        spent = sum(known.cpu[at] for ways in there for known in ways.values())
        whole = sum(next(iter(ways.values())).cpu[FULL] for ways in there)
        share += [f"{spent / whole:.2f} at a {at}"] if there else []
    if not share:
        return []
    return [
        f"CPU seconds of training the pilots of all ways, over those of one full run of `{next(iter(told.ways))}`: "
        f"{', '.join(share)}.",
        "",
    ]


def _beside(ways: Mapping[str, Known]) -> bool:
    """Whether the full runs were made with the pilots: older ones, taken beside other work, did not ask the VLM."""
    return all(known.pointing[FULL] == known.pointing[FULL] for known in ways.values())


def plot(cases: Cases, names: Sequence[str]) -> str:
    """A dot a way and case: across, its margin at a tenth as a share of the largest in the case; up, its success below
    the best way's."""
    dots = [
        (
            name,
            known.margin[CHOSEN_AT] / max(each.margin[CHOSEN_AT] for each in ways.values()),
            -picking.lost(ways, name),
        )
        for ways in cases.values()
        for name, known in ways.items()
    ]
    left, low = min([0.0, *(x for _, x, _ in dots)]), min([-0.05, *(y for _, _, y in dots)])

    def at(x: float, y: float) -> tuple[float, float]:
        return PAD + (x - left) / (1 - left) * SIDE, HEAD + y / low * SIDE * 0.62

    width, height = PAD + SIDE + 150, HEAD + SIDE * 0.62 + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" '
        'font-size="12">',
        "<title>Margin of a pilot at a tenth of the steps, and success of the full run</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="{PAD}" y="20" fill="#1f2937">success below the best way of the case, points</text>',
        f'<text x="{PAD}" y="{height - 10:.0f}" fill="#1f2937">margin at a tenth, over the largest of the case</text>',
    ]
    for k in range(5):
        x, y = left + (1 - left) * k / 4, low * k / 4
        (px, _), (_, py) = at(x, 0), at(left, y)
        bottom = HEAD + SIDE * 0.62
        out.append(f'<line x1="{PAD}" y1="{py:.1f}" x2="{PAD + SIDE}" y2="{py:.1f}" stroke="#e2e6ea"/>')
        out.append(f'<text x="{PAD - 6}" y="{py + 4:.1f}" text-anchor="end" fill="#4b5563">{100 * y:.0f}</text>')
        out.append(f'<text x="{px:.1f}" y="{bottom + 16:.0f}" text-anchor="middle" fill="#4b5563">{x:.2f}</text>')
    for name, x, y in dots:
        px, py = at(x, y)
        colour = COLOURS[list(names).index(name) % len(COLOURS)]
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{colour}" fill-opacity="0.75"/>')
    for k, name in enumerate(names):
        y = HEAD + 14 + 20 * k
        out.append(f'<circle cx="{PAD + SIDE + 24}" cy="{y - 4}" r="4.5" fill="{COLOURS[k % len(COLOURS)]}"/>')
        out.append(f'<text x="{PAD + SIDE + 36}" y="{y}" fill="#1f2937">{name}</text>')
    return "\n".join([*out, "</svg>", ""])
