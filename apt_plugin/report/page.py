"""The page: a header, then each section opening with what it shows and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from apt_plugin.report import parts, plots
from apt_plugin.report.html import Html, tag
from apt_plugin.report.rates import rates
from apt_plugin.report.style import Look, looks

# Nothing may be loaded: the browser itself refuses what the page does not carry.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
ABOUT = (
    "A robot policy trained in two stages: first the part that makes movements learns from images alone, without any "
    "instruction (Stage 1, the prior); then language is let in through gates (Stage 2)."
)
NO_PLOTS = "No plots: matplotlib is not installed. For plots, pip install 'apt-plugin[report]' and write this again."


def render(document: Mapping[str, Any]) -> str:
    """The whole page of what `document` returned."""
    sections = [section | {"anchor": f"s{i}"} for i, section in enumerate(document["sections"])]
    style = looks(document)
    body = [_header(sections)]
    if not plots.available() and any(
        section["kind"] in ("curves", "scatter", "gates", "rates") for section in sections
    ):
        body.append(tag("p", NO_PLOTS, class_="notice"))
    body += [_section(section, style) for section in sections[1:]]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light"),
        tag("title", sections[0]["text"]),
        tag("style", Html(resources.files("apt_plugin.report").joinpath("page.css").read_text())),
    )
    footer = tag("footer", "Written by apt-plugin. The same numbers lie beside this page as JSON. Nothing is loaded.")
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *body, footer)), lang="en") + "\n"


def title_of(section: Mapping[str, Any]) -> str:
    return section.get("title") or {"verdict": "In short", "settings": "Settings"}[section["kind"]]


def _header(sections: list[dict[str, Any]]) -> Html:
    title, rest = sections[0], sections[1:]
    facts = [tag("div", tag("dt", name), tag("dd", text)) for name, text in title["facts"].items()]
    checks = [(section["anchor"], parts.tally(section["rows"])) for section in rest if section["kind"] == "proofs"]
    links = [tag("li", tag("a", title_of(section), href=f"#{section['anchor']}")) for section in rest]
    return tag(
        "header",
        tag("h1", title["text"]),
        tag("p", title.get("about", ABOUT), class_="about"),
        tag("dl", *facts, class_="facts") if facts else "",
        tag("p", *[tag("a", words, href=f"#{anchor}") for anchor, words in checks], class_="checks") if checks else "",
        tag("nav", tag("ul", *links), aria_label="Sections") if len(rest) > 2 else "",
    )


def _section(section: Mapping[str, Any], style: Mapping[str, Look]) -> Html:
    draw: Callable[[Mapping[str, Any], Mapping[str, Look]], Html] = {
        "verdict": parts.verdict, "curves": parts.curves, "scatter": parts.scatter, "proofs": parts.proofs,
        "gates": parts.gates, "rates": rates, "table": parts.table, "code": parts.code, "frames": parts.frames,
        "settings": parts.settings,
    }[section["kind"]]  # fmt: skip
    heading = tag("h2", title_of(section))
    return tag("section", heading, draw(section, style), id=section["anchor"], class_=section["kind"])
