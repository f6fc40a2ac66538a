"""Is the goal reached: so many points over stock and over the best baseline, on every unseen split by itself?"""

from __future__ import annotations

from apt_compare.board import Board
from apt_compare.kinds import NOT_RUN, Answer, Question, names, points
from apt_compare.plan import Configs

STOCK = ("stock_full", "stock_frozen")


def goal(board: Board, question: Question, configs: Configs) -> Answer:
    """The best baseline is chosen by its mean over the unseen splits; the bar stands on every split by itself. Two
    targets in turn (`chained`) count where some demonstration shows it: elsewhere every arm is at the floor."""
    short, told = [], []
    for setting in question["settings"]:
        sentence, details = _setting(board, question, configs, setting)
        told += details
        if sentence:
            short.append(sentence)
    return Answer(" ".join(short) or NOT_RUN, told)


def _setting(board: Board, question: Question, configs: Configs, setting: str) -> tuple[str, list[str]]:
    budget, need = question.get("budget", "steps"), question.get("points", 10) / 100
    chains = bool(configs.settings[setting].world.get("chained"))
    unseen = [split for split in board.unseen if chains or split != "chained"]
    bar = "every unseen split" + ("" if chains else " but chained, which nothing in this setting shows")
    have, asked = board.arms(setting, budget), names(question["arms"])
    ours = [arm for arm in asked if arm in have]
    mean = {a: made.value for a in have if (made := board.rate(setting, budget, a, unseen)) is not None}
    rivals = [a for a in mean if _group(a, configs) in ("baseline", "control")]
    if not rivals or not ours:
        return "", [f"{setting}: not run."]
    strongest = max(rivals, key=lambda a: mean[a])
    against = list(dict.fromkeys((*STOCK, strongest)))
    short = {arm: _short(board, setting, budget, arm, against, unseen, need) for arm in ours}
    reached = [arm for arm in ours if not any(short[arm].values())]
    missing = lambda arm: sum(map(len, short[arm].values()))  # noqa: E731
    total = f"{len(unseen) * len(against)} comparisons"
    over = f"{100 * need:.0f} points over stock and over the best baseline ({strongest}) on {bar}"
    out = [f"{setting}: {arm} reaches {over}." for arm in reached]
    if not reached:
        nearest = min(ours, key=lambda arm: (missing(arm), -mean[arm]))
        out.append(f"{setting}: none of {len(ours)} arms reaches {over}; {nearest} is nearest, {missing(nearest)} of "
                   f"{total} short.")  # fmt: skip
        for theirs, each in short[nearest].items():
            if each:
                out.append(f"{setting}: {nearest} is short over {theirs} on {'; '.join(each)}.")
        counted = ", ".join(f"{arm} {missing(arm)}" for arm in sorted(ours, key=missing) if arm != nearest)
        out += [f"{setting}: short in so many of {total}: {counted}."] if counted else []
    sentence = " ".join(out[: max(len(reached), 1)])
    if absent := [arm for arm in asked if arm not in have]:
        out.append(f"{setting}: not run: {', '.join(absent)}.")
    return sentence, out


def _short(
    board: Board, setting: str, budget: str, arm: str, against: list[str], unseen: list[str], need: float
) -> dict[str, list[str]]:
    """Rival -> the splits on which the arm falls short of it, and by what; a rival too near 100 % for the bar is
    named as such."""
    out: dict[str, list[str]] = {}
    for theirs in against:
        out[theirs] = []
        for split in unseen:
            found = board.difference(setting, budget, arm, theirs, [split])
            if found is None:
                out[theirs].append(f"{split} not run")
            elif not (found.value >= need and found.low > 0):
                stands = board.rate(setting, budget, theirs, [split])
                top = f", of {100 * (1 - stands.value):.0f} possible" if stands and stands.value + need > 1 else ""
                out[theirs].append(f"{split} {points(found)}{top}")
    return out


def _group(arm: str, configs: Configs) -> str:
    found = configs.arms.get(arm.partition(" @")[0])
    return found.group if found else ""
