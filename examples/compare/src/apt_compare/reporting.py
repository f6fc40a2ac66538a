"""The report of a comparison: sentences, tables and plots, as HTML, JSON and text, all from the kept results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from apt_compare import marked
from apt_compare.board import Board, shared
from apt_compare.kinds import places
from apt_compare.plan import Configs
from apt_compare.questions import answers
from apt_compare.stats import Estimate, rank_correlation
from apt_plugin import files, report

REFERENCE = "stock_frozen"
SHOWN = ("stock_full", "stock_frozen", "null_k4", "gated_one_stage", "apt", "apt_labelled", "contrast")  # in plots
PREDICTORS = ("margin", "retrieval", "sensitivity", "blank gap")
FEWEST = 8  # runs below which nothing is said of a number's rank
EVIDENCE = "Mean success over the splits that the question names, unseen ones where it names none; 95 % in brackets."
SENTENCE = 40  # a cell of more characters is words, which are set left and wrapped
WIDTH = 200  # columns of the text
BEGIN, END = "<!-- answers: written by `apt-compare page` -->", "<!-- end of answers -->"


def write(found: Sequence[Mapping[str, Any]], configs: Configs, folder: Path) -> None:
    """`report.html`, `report.json` and `report.txt`: the same bytes for the same results."""
    built = sections(found, configs)
    report.write(folder / "report.html", folder / "report.json", built)
    files.write_bytes(folder / "report.txt", text(built).encode())


def write_page(found: Sequence[Mapping[str, Any]], configs: Configs, path: Path) -> None:
    """A sentence per question, between the two marks of a Markdown page; the rest of the page is left alone.

    Raises:
        AptError: no page there, or one without the marks.
    """
    marked.write(path, (BEGIN, END), lambda page: with_answers(page, found, configs))


def with_answers(page: str, found: Sequence[Mapping[str, Any]], configs: Configs) -> str:
    """The page with its answers renewed."""
    said = [f"* {ask} {answer.short}" for ask, answer in answered(Board(shared(found, configs)), configs)]
    return marked.renewed(page, (BEGIN, END), [*said, ""])


def answered(board: Board, configs: Configs) -> list[tuple[str, Any]]:
    """(question, answer); the sweeps of learning rates are evidence, too."""
    sweeps = configs.folder / "tuned.json"
    return answers(board, configs, files.read_json(sweeps) if sweeps.is_file() else {})


def sections(found: Sequence[Mapping[str, Any]], configs: Configs) -> list[Any]:
    """Everything `report.write` needs."""
    board = Board(shared(found, configs))
    facts = {"settings": ", ".join(board.settings), "runs": str(sum(1 for _ in board.made)), "reference": REFERENCE}
    out: list[Any] = [report.Title("The recipe against its rivals on a tabletop, in the host's own code", facts)]
    said = answered(board, configs)
    out.append(report.Verdict([f"{ask} {answer.short}" for ask, answer in said]))
    rests = [[ask if first == 0 else "", told] for ask, each in said for first, told in enumerate(each.told)]
    out.append(report.Table("What the sentences rest on", EVIDENCE, ["question", "comparison"], rests))
    for setting in board.settings:
        for budget in board.budgets(setting):
            out += _setting(board, configs, setting, budget)
    out += _trends(board, configs) + _predictors(board)
    out.append(_arms(board, configs))
    return out


def _trends(board: Board, configs: Configs) -> list[Any]:
    """A plot for every question about a knob, where two of its places were run."""
    out = []
    for question in configs.questions:
        lines = places(board, question) if question.get("kind") == "trend" else {}
        lines = {arm: ([x for x, _ in each], [y for _, y in each]) for arm, each in lines.items() if len(each) > 1}
        if lines:
            note = "Mean success on unseen splits over seeds."
            out.append(report.Curves(question["ask"], note, lines, x_label=question["axis"], y_label="success"))
    return out


def _predictors(board: Board) -> list[Any]:
    """Which of `listen`'s numbers, taken on held-out frames, goes with success on unseen splits: over all runs."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in PREDICTORS}
    for run in board.made:
        counts = [run["splits"][split] for split in board.unseen if split in run["splits"]]
        success = sum(c["k"] for c in counts) / max(sum(c["n"] for c in counts), 1)
        for name in PREDICTORS:
            if run["listen"].get(name) is not None:
                points[name].setdefault(run["setting"], []).append((run["listen"][name], success))
    rows, plots = [], []
    for name, groups in points.items():
        every = [pair for group in groups.values() for pair in group]
        if len(every) < FEWEST:
            continue
        told = [float(f"{value:.2f}") for value in rank_correlation(every)]
        inside = [
            f"{setting} {rank_correlation(group)[0]:.2f}" for setting, group in groups.items() if len(group) >= FEWEST
        ]
        rows.append([name, len(every), *told, ", ".join(inside)])
        note = "One mark a run, colours are settings."
        plots.append(report.Scatter(f"Success on unseen splits against {name}", note, groups, name, "success"))
    if not rows:
        return []
    note = "Spearman's rank correlation over all runs, 95 % bootstrap over runs."
    header = ["number", "runs", "correlation", "low", "high", "inside a setting"]
    return [report.Table("Do listen's numbers predict success on unseen splits?", note, header, rows), *plots]


def _setting(board: Board, configs: Configs, setting: str, budget: str) -> list[Any]:
    arms, splits = board.arms(setting, budget), board.splits
    says = configs.settings[setting].says if setting in configs.settings else ""
    head = f"{setting}, equal {budget}"
    note = f"{says} Success in %, mean over seeds, 95 % over seeds and episodes in brackets; unseen: all splits but "
    note += "seen and rare together."
    rates = [
        [arm, _seeds(board, setting, budget, arm), *[_rate(board.rate(setting, budget, arm, [s])) for s in splits],
         _rate(board.rate(setting, budget, arm, board.unseen))]
        for arm in arms
    ]  # fmt: skip
    out: list[Any] = [report.Table(f"{head}: success", note, ["arm", "seeds", *splits, "unseen"], rates)]
    if REFERENCE in arms:
        rows = [
            [arm, *[_points(board.difference(setting, budget, arm, REFERENCE, [s])) for s in splits],
             _points(board.difference(setting, budget, arm, REFERENCE, board.unseen))]
            for arm in arms if arm != REFERENCE
        ]  # fmt: skip
        note = "In points, paired by seed; * where the 95 % interval excludes zero."
        out.append(report.Table(f"{head}: minus {REFERENCE}", note, ["arm", *splits, "unseen"], rows))
    out.append(_costs(board, setting, budget, head))
    out += _plots(board, setting, budget, head)
    return out


def _costs(board: Board, setting: str, budget: str, head: str) -> Any:
    """Cost and `listen` beside success."""
    rows = []
    for arm in board.arms(setting, budget):
        mean = lambda *path, arm=arm: board.mean(setting, budget, arm, *path)  # noqa: E731
        stock, total = mean("flops", "stock"), mean("flops", "total")
        steps = next(iter(board.runs[setting, budget, arm.partition(" @")[0]].values()))["steps"]
        cpu, wall = (sum(mean(clock, name) or 0.0 for name in ("train", "stage1")) for clock in ("cpu", "wall"))
        told = board.rate(setting, budget, arm, board.unseen)
        rows.append([
            arm, f"{steps[0]} + {steps[1]}", None if not stock else round((total or 0) / stock),
            round(cpu), round(wall),
            *[_number(mean("listen", name)) for name in ("loss", "margin", "retrieval", "sensitivity", "blank gap")],
            None if told is None else round(100 * told.value),
        ])  # fmt: skip
    note = (
        "Counted FLOPs are those of a user without kept features, in steps of the stock arm with a frozen VLM; seconds "
        "are of training, both stages, on one thread of this machine, prefixes of a frozen VLM kept in memory. Listen "
        "numbers on held-out frames of the training distribution; under guidance only the margin, of some runs."
    )
    header = [
        "arm",
        "steps",
        "FLOPs in stock steps",
        "CPU s",
        "wall s",
        "loss",
        "margin",
        "retrieval",
        "sensitivity",
        "blank gap",
    ]
    return report.Table(f"{head}: cost, listen numbers and success", note, [*header, "unseen %"], rows)


def _plots(board: Board, setting: str, budget: str, head: str) -> list[Any]:
    arms = [arm for arm in SHOWN if arm in board.arms(setting, budget)]
    points, numbers = {}, {}
    for arm in arms:
        cost = board.mean(setting, budget, arm, "flops", "total")
        told = board.rate(setting, budget, arm, board.unseen)
        if told is not None and cost is not None:
            points[arm] = [(cost / 1e12, value) for value in told.each]
    for arm in board.arms(setting, budget):
        margin, told = (
            board.mean(setting, budget, arm, "listen", "margin"),
            board.rate(setting, budget, arm, board.unseen),
        )
        if margin is not None and told is not None and " @" not in arm:
            numbers[arm] = [(margin, told.value)]
    every = [point for each in numbers.values() for point in each]
    unseen = f"{head}: success on unseen splits"
    return [
        report.Scatter(f"{unseen} against cost", "One mark a seed.", points, "counted TFLOPs", "success"),
        report.Scatter(f"{unseen} against listen's margin", "One mark an arm.", {"arms": every}, "margin", "success"),
    ]


def _arms(board: Board, configs: Configs) -> Any:
    ran = dict.fromkeys(arm for _, _, arm in board.runs)
    rows = [[name, configs.arms[name].group, configs.arms[name].says] for name in ran if name in configs.arms]
    return report.Table(
        "The arms", "One YAML file each; `@1.5`: guidance 1.5 at evaluation.", ["arm", "kind", "what it is"], rows
    )


def _seeds(board: Board, setting: str, budget: str, arm: str) -> int:
    return len(board.runs[setting, budget, arm.partition(" @")[0]])


def _rate(made: Estimate | None) -> str:
    return "not run" if made is None else f"{100 * made.value:.0f} ({100 * made.low:.0f}-{100 * made.high:.0f})"


def _points(made: Estimate | None) -> str:
    if made is None:
        return "not run"
    star = "*" if made.excludes_zero else ""
    return f"{100 * made.value:+.0f}{star} ({100 * made.low:+.0f} to {100 * made.high:+.0f})"


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def text(built: Sequence[Any]) -> str:
    """What of a report is words and tables, at a fixed width."""
    out = io.StringIO()
    target = Console(file=out, width=WIDTH, color_system=None, force_terminal=False)
    for section in built:
        data = section.data()
        if data["kind"] == "title":
            target.print(Text(data["text"]), Text("; ".join(f"{k}: {v}" for k, v in data["facts"].items())), sep="\n")
        elif data["kind"] == "verdict":
            for sentence in data["sentences"]:
                target.print(Text(f"* {sentence}"))
        elif data["kind"] == "table":
            grid = Grid(title=Text(data["title"]), title_justify="left", box=None, pad_edge=False)
            for index, name in enumerate(data["header"]):
                words = any(len(str(row[index])) > SENTENCE for row in data["rows"])
                grid.add_column(
                    Text(name), justify="left" if index == 0 or words else "right", no_wrap=index == 0 and not words
                )
            for row in data["rows"]:
                grid.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
            target.print()
            target.print(grid)
            target.print(Text(data["note"]))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
