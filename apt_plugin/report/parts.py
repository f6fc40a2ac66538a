"""How each kind of section looks on the page; success rates have a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_plugin.recipe import flatten
from apt_plugin.report import plots
from apt_plugin.report.html import Html, figure, grid, intro, join, row, tag, value
from apt_plugin.report.sections import CONTRACTS
from apt_plugin.report.style import Look, layer_colour
from apt_plugin.report.values import is_number, show

Data = Mapping[str, Any]
Looks = Mapping[str, Look]

STATES = {True: ("holds", "✓", "holds"), False: ("fails", "✗", "FAILS"), None: ("unrun", "–", "not run")}


def legend(looks: Looks, names: list[str]) -> Html:
    return tag("ul", *[tag("li", plots.swatch(looks[name]), name) for name in names], class_="legend")


def verdict(data: Data, looks: Looks) -> Html:
    first, *rest = data["sentences"] or ["Nothing was concluded from this run."]
    return join([tag("p", first, class_="first"), tag("ul", *[tag("li", each) for each in rest]) if rest else ""])


def curves(data: Data, looks: Looks) -> Html:
    lines, names = data["series"], [line["name"] for line in data["series"]]
    marks = [f"{mark['name']} at {show(mark['x'])}" for mark in data["marks"]]
    gaps = sum(line["gaps"] for line in lines)
    head = intro(
        data["note"],
        f"Read from left to right: {data['x_label']} along the bottom, {data['y_label']} upwards"
        + (", on a logarithmic axis (equal steps are equal factors)." if plots.logarithmic(data) else "."),
        f"Dashed: {'; '.join(marks)}." if marks else "",
        f"Points that were not finite numbers are left out as gaps: {gaps}." if gaps else "",
    )
    columns = ("points", "first", "last", "lowest", "highest")
    rows = [[line["name"], *[value(line[column]) for column in columns]] for line in lines]
    numbers = grid([data["y_label"], *columns], rows, f"{data['title']}, in numbers", range(1, 6))
    if not (lines and plots.available()):
        return join([head, numbers])
    ends = [f"{line['name']} from {show(line['first'])} to {show(line['last'])}" for line in lines]
    alt = f"Line plot of {data['y_label']} against {data['x_label']}: {'; '.join(ends)}."
    return join([head, figure(plots.curves(data, looks), alt, legend(looks, names)), numbers])


def scatter(data: Data, looks: Looks) -> Html:
    lines, names = data["series"], [line["name"] for line in data["series"]]
    head = intro(data["note"], f"{data['x_label']} along the bottom, {data['y_label']} upwards; one mark each.")
    rows = [[line["name"], value(x), value(y)] for line in lines for x, y in zip(line["x"], line["y"], strict=True)]
    numbers = grid(["", data["x_label"], data["y_label"]], rows, f"{data['title']}, in numbers", (1, 2))
    if not (lines and plots.available()):
        return join([head, numbers])
    alt = f"Scatter plot of {data['y_label']} against {data['x_label']}: {len(rows)} marks."
    drawing = figure(plots.scatter(data, looks), alt, legend(looks, names))
    return join([head, drawing, tag("details", tag("summary", "Show the numbers"), numbers)])


def tally(rows: list[Data]) -> Html:
    """How many checks hold, in one coloured line."""
    states = [check["passed"] for check in rows]
    holds, fails, unrun = (states.count(state) for state in STATES)
    words = [f"{holds} of {len(states)} checks hold", f"{fails} FAIL{'S' if fails == 1 else ''}", f"{unrun} not run"]
    said = ", ".join(word for word, count in zip(words, (1, fails, unrun), strict=True) if count)
    return tag("span", said, class_="tally " + ("bad" if fails else "good" if holds else "open"))


def proofs(data: Data, looks: Looks) -> Html:
    head = intro(
        "Each line is a check carried out on this run's own weights and outputs, with the value found and the limit "
        "that it had to keep. A check that fails means that the results may not be what they seem."
    )
    bodies = []
    for contract in dict.fromkeys(check["contract"] for check in data["rows"]):
        name, promise = CONTRACTS.get(contract, (contract, ""))
        words = join([tag("b", name), tag("small", promise) if promise else ""])
        rows = [_proof(check) for check in data["rows"] if check["contract"] == contract]
        group = tag("tr", tag("th", words, colspan=4, scope="rowgroup"), class_="group")
        bodies.append(tag("tbody", group, *[row(cells, (2, 3)) for cells in rows]))
    return join([head, tally(data["rows"]), grid(["result", "check", "found", "limit"], bodies, data["title"], (2, 3))])


def _proof(check: Data) -> list[Html]:
    kind, sign, word = STATES[check["passed"]]
    state = tag("span", tag("span", sign, class_="sign", aria_hidden="true"), word, class_=f"state {kind}")
    what = join([check["what"], tag("small", check["note"]) if check["note"] else ""])
    return [state, what, value(check["value"]), value(check["limit"])]


def gates(data: Data, looks: Looks) -> Html:
    start, lines, count = data["start"], data["series"], len(data["series"])
    head = intro(
        data["note"],
        "A gate says how much of a language layer's output is let into the movement: at 0 nothing, at 1 all of it "
        "(below 0 it is let in with its sign turned).",
        f"Gates begin at {show(start)} (dashed)." if start is not None else "",
        "There the layer's output itself begins at zero, so a gate that stays where it began may still be in use."
        if start
        else "",
    )
    chips = [tag("span", class_="chip", style=f"background:{layer_colour(i, count)}") for i in range(count)]
    rows = [
        [join([chip, line["name"]]), value(line["first"]), value(line["final"])]
        for chip, line in zip(chips, lines, strict=True)
    ]
    numbers = grid(["layer", "first logged", "at the end"], rows, f"{data['title']}, in numbers", (1, 2))
    if not (lines and plots.available()):
        return join([head, numbers])
    key = tag("ul", tag("li", "first layer ", *chips, " last layer"), class_="legend scale")
    ends = "; ".join(f"{line['name']} {show(line['final'])}" for line in lines)
    alt = f"One plot shows each layer's gate over training, the other how far each was open at the end: {ends}."
    drawing = figure(plots.gates(data), alt, key)
    return join([head, drawing, tag("details", tag("summary", "Show the numbers"), numbers)])


def table(data: Data, looks: Looks) -> Html:
    rows, width = data["rows"], len(data["header"])
    numeric = [i for i in range(1, width) if rows and all(cells[i] is None or is_number(cells[i]) for cells in rows)]
    head = intro(data["note"], "Each row is named in its first column, each column at its top.")
    return join([head, grid(data["header"], [list(map(value, cells)) for cells in rows], data["title"], numeric)])


def code(data: Data, looks: Looks) -> Html:
    return join([intro(data["note"]), tag("pre", tag("code", data["text"]), tabindex="0")])


def frames(data: Data, looks: Looks) -> Html:
    parts = [intro(data["note"], "Read each row of pictures from left to right.")]
    for strip in data["strips"]:
        pictures = []
        for index, frame in enumerate(strip["frames"], 1):
            label = f": {frame['label']}" if frame["label"] else ""
            alt = f"{strip['caption']}, picture {index} of {len(strip['frames'])}{label}"
            source, size = f"data:image/png;base64,{frame['png']}", {"width": frame["width"], "height": frame["height"]}
            pictures.append(tag("li", tag("img", src=source, alt=alt, **size), tag("small", frame["label"])))
        parts.append(tag("figure", tag("figcaption", strip["caption"]), tag("ul", *pictures, class_="strip")))
    return join(parts)


def settings(data: Data, looks: Looks) -> Html:
    groups = {name: part for name, part in data["values"].items() if isinstance(part, dict)}
    single = {name: part for name, part in data["values"].items() if name not in groups}
    parts: list[Any] = []
    for name, part in (({"general": single} if single else {}) | groups).items():
        rows = [[key, value(item)] for key, item in flatten(part).items()]
        parts += [tag("h3", name), grid(["setting", "value"], rows, f"Settings: {name}")]
    head = intro("Everything that was chosen for this run, so that it can be repeated: one setting per line.")
    return join([head, tag("details", tag("summary", "Show all settings"), *parts)])
