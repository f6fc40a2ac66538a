"""HTML that escapes by default: text is text unless it is already an `Html`."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable
from typing import Any

from apt_plugin.report.values import ABSENT, is_number, show

VOID = ("meta", "img", "br")


class Html(str):
    """Markup that needs no more escaping."""


def join(parts: Iterable[Any]) -> Html:
    return Html("".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """`class_` and `data_label` become class and data-label; True is a bare attribute, None and False leave it out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def value(item: Any, text: str | None = None) -> Html:
    """A plain value; numbers carry their full precision, so that the page can be checked against the JSON."""
    if item is None:
        return tag("span", ABSENT, class_="absent")
    if is_number(item):
        return tag("data", show(item) if text is None else text, value=repr(item))
    return join([show(item)])


def row(cells: Iterable[Any], numeric: Collection[int] = ()) -> Html:
    """A table row; the first cell names it."""
    return tag("tr", *[
        tag("td" if i else "th", cell, scope=None if i else "row", class_="number" if i in numeric else None)
        for i, cell in enumerate(cells)
    ])  # fmt: skip


def grid(header: Iterable[Any], rows: Iterable[Any], caption: str, numeric: Collection[int] = ()) -> Html:
    """A table, in a box that scrolls sideways on its own where the screen is narrow.

    Args:
        rows: sequences of cells, or whole `tbody`s.
        numeric: columns to set flush right.
    """
    head = [tag("th", cell, scope="col", class_="number" if i in numeric else None) for i, cell in enumerate(header)]
    rows = list(rows)
    bodies = rows if rows and isinstance(rows[0], Html) else [tag("tbody", *[row(cells, numeric) for cells in rows])]
    inner = tag("table", tag("caption", caption, class_="hidden"), tag("thead", tag("tr", *head)), *bodies)
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def intro(*sentences: str) -> Html:
    """What a section shows and how to read it."""
    return tag("p", " ".join(sentence for sentence in sentences if sentence), class_="lead")


def figure(drawing: Html, alt: str, legend: Html | str = "") -> Html:
    return tag("figure", legend, tag("div", drawing, role="img", aria_label=alt))
