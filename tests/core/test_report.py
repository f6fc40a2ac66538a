"""The report: what it says is what was measured, in the page, in the JSON and in the sentences."""

import base64
import io
import json
import re
import struct
import sys
import zlib

import numpy as np
import pytest
from rich.console import Console

from apt_plugin.errors import AptError
from apt_plugin.report import (
    Curves,
    Frames,
    Gates,
    Proofs,
    Rates,
    Settings,
    Strip,
    Table,
    Title,
    Verdict,
    console,
    document,
    wilson,
    write,
)  # fmt: skip
from apt_plugin.report.style import looks
from apt_plugin.report.values import show
from tests.core.pages import NASTY, Page, sections


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write(folder / "r.html", folder / "r.json", sections())
    assert sorted(path.name for path in folder.iterdir()) == ["r.html", "r.json"]
    return (folder / "r.html").read_text(), json.loads((folder / "r.json").read_text(), parse_constant=pytest.fail)


def without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def leaves(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


# -- the page ------------------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_ids_are_unique(written):
    page = Page(written[0])
    assert len(page.ids) == len(set(page.ids))
    kinds = [attributes["class"] for tag, attributes in page.tags if tag == "section"]
    assert kinds == ["verdict", "rates", "curves", "gates", "proofs", "table", "frames", "settings"]


def test_nothing_is_loaded(written):
    page = Page(written[0])
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "srcset"):
                assert value.startswith(("#", "data:image/png;base64,"))
            if key == "style" or key.startswith("clip"):
                assert "url(" not in value or "url(#" in value
    style = re.search(r"<style>(.*?)</style>", written[0], re.S)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    addresses = set(re.findall(r'="(https?://[^"]*)', written[0]))
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # SVG namespaces, never fetched
    assert any((attributes.get("content") or "").startswith("default-src 'none'") for _, attributes in page.tags)


def test_text_is_escaped_and_comes_through(written):
    assert "<img src=x" not in written[0]
    page = Page(written[0])
    assert sum(NASTY in text for text in page.text) > 12
    assert any(tag == "text" for tag, _ in page.tags)  # plots hold text, not outlines


def test_page_and_json_hold_the_same_numbers(written):
    page, data = Page(written[0]), written[1]
    numbers = {float(leaf) for leaf in leaves(data) if isinstance(leaf, int | float) and not isinstance(leaf, bool)}
    assert len(page.numbers) > 80
    for value, text in page.numbers:
        assert value in numbers
        if text == show(value) or (value == int(value) and text == show(int(value))):
            continue
        # the other forms: a rate in per cent, a difference in points
        shown = float(text.replace("\N{MINUS SIGN}", "-").removesuffix(" %"))
        assert shown == pytest.approx(100 * value, abs=0.0501)
    shown = {value for value, _ in page.numbers}
    (rates,) = (section for section in data["sections"] if section["kind"] == "rates")
    for row in rates["rows"]:
        assert {row["successes"], row["episodes"]} <= shown
        assert row["rate"] is None or {row["rate"], row["low"], row["high"]} <= shown
    assert rates["rows"][0]["low"] == wilson(210, 300)[0]


def test_not_finite_is_said_never_written(written):
    html, data = written
    curve = data["sections"][3]["series"][0]
    assert curve["y"][3] is None
    assert (curve["gaps"], curve["points"]) == (1, 9)
    assert data["sections"][6]["rows"][1][1] is None
    assert '<span class="absent">n/a</span>' in html
    assert not re.search(r"\b(nan|inf|Infinity)\b", re.sub(r"<svg.*?</svg>", "", html, flags=re.S))
    assert "left out as gaps: 1" in html


def test_every_section_opens_with_a_sentence_and_every_picture_has_words(written):
    page = Page(written[0])
    for part in re.findall(r"<section.*?</section>", written[0], re.S):
        assert re.match(r'<section[^>]*><h2>[^<]+</h2><p class="(lead|first)">', part)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img")
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 3


def test_every_table_scrolls_by_itself_and_pictures_fit_their_column(written):
    """400 px wide a table may scroll in its own box, never the page; 1280 px wide it has 1132 of them."""
    page = re.sub(r"<style>.*?</style>", "", written[0], flags=re.S)
    assert page.count("<table") > 3
    assert page.count("<table") == len(re.findall(r'<div class="scroll"[^>]*><table', page))
    style = re.findall(r"<style>(.*?)</style>", written[0], flags=re.S)[0]
    assert ".scroll { overflow-x: auto;" in style
    wide = style[style.index("@media (min-width: 1100px)") :]
    assert "main { max-width: 1180px; }" in wide
    assert "figure svg.wide, figure svg.narrow { display: block; width: 100%" in style


def test_a_failed_check_shows_at_the_top(written):
    header = written[0].split("</header>")[0]
    assert "2 of 4 checks hold, 1 FAILS, 1 not run" in header
    assert 'class="tally bad"' in header


def test_a_check_cannot_hold_on_a_value_that_is_no_number():
    (row,) = Proofs([{"contract": 1, "what": "x", "value": float("inf"), "passed": True, "note": "n"}]).data()["rows"]
    assert (row["passed"], row["value"]) == (False, None)
    assert row["note"] == "n (was said to hold, but inf proves nothing)"


def test_without_matplotlib_all_tables_are_there(tmp_path, monkeypatch, written):
    without_matplotlib(monkeypatch)
    write(tmp_path / "r.html", tmp_path / "r.json", sections())
    html = (tmp_path / "r.html").read_text()
    page = Page(html)
    assert "pip install 'apt-plugin[report]'" in "".join(page.text)
    assert 'role="img"' not in html
    assert page.numbers == Page(written[0]).numbers
    assert json.loads((tmp_path / "r.json").read_text()) == written[1]


def test_same_input_same_bytes(tmp_path, written):
    write(tmp_path / "r.html", tmp_path / "r.json", sections())
    assert (tmp_path / "r.html").read_text() == written[0]


def test_frames_are_lossless_pngs():
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = Frames("t", "n", [Strip("c", [frame])]).data()
    png = base64.b64decode(data["strips"][0]["frames"][0]["png"])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (7, 5)
    start = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[start - 4 : start])
    lines = np.frombuffer(zlib.decompress(png[start + 4 : start + 4 + length]), np.uint8).reshape(5, 22)
    assert (lines[:, 0] == 0).all()
    assert (lines[:, 1:].reshape(5, 7, 3) == frame).all()


def test_an_arm_has_one_look_everywhere():
    found = looks(document(sections()))
    assert list(found) == ["apt", "joint", "third", NASTY]
    assert len({look.colour for look in found.values()}) == 4


# -- what is refused, before anything is written -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Proofs([{"contract": 1, "what": "x", "passed": 1}]), "True, False or None"),
        (Proofs([{"contract": 1, "what": "x"}]), "lacks passed"),
        (Proofs([{"contract": 1, "what": "x", "passed": True, "vlaue": 1}]), "Did you mean 'value'"),
        (Rates("t", "n", {("a", "s"): (3, 2)}), "whole numbers"),
        (Rates("t", "n", {("a", "s"): (3, 4)}, {("a", "s"): [(1, 2), (1, 2)]}), "do not add up"),
        (Rates("t", "n", {("a", "s"): (3, 4)}, {("b", "s"): [(3, 4)]}), "rows lacks"),
        (Rates("t", "n", {("apt", "s"): (3, 4)}, reference="atp"), "Did you mean 'apt'"),
        (Curves("t", "n", {"a": ([1, 2], [1])}), "as many of both"),
        (Curves("t", "n", {"a": ([1, float("inf")], [1, 2])}), "every x finite"),
        (Table("t", "n", ["a"], [[1, 2]]), "2 cells"),
        (Frames("t", "n", [Strip("c", [np.zeros((4, 4, 3))])]), "uint8"),
        (Frames("t", "n", [Strip("c", [], ["one"])]), "1 labels for 0 frames"),
        (Title("again"), "one Title"),
    ],
)
def test_contradictions_are_refused_and_nothing_is_written(section, message, tmp_path):
    with pytest.raises(AptError, match=message):
        write(tmp_path / "r.html", tmp_path / "r.json", [Title("t"), section])
    assert list(tmp_path.iterdir()) == []


def test_empty_sections_do_not_break(tmp_path):
    empty = [
        Title("t"), Verdict([]), Curves("c", "n", {}), Curves("c", "n", {"a": ([1], [float("nan")])}), Proofs([]),
        Gates({}), Rates("r", "n", {}), Table("t", "n", ["a", "b"], []), Frames("f", "n", []), Settings({}),
    ]  # fmt: skip
    write(tmp_path / "r.html", tmp_path / "r.json", empty)
    Page((tmp_path / "r.html").read_text())


def test_console_shows_verdict_proofs_and_rates():
    target = Console(width=120, record=True, file=io.StringIO())
    console([*sections(), Proofs([{"contract": 3, "what": "[bold]not markup", "passed": True}])], target)
    text = target.export_text()
    for expected in ("FAILS", "2.384e-7", "70.0 %", "n/a", "No leak", "Exact switch", "[bold]not markup", "+30.0"):
        assert expected in text
