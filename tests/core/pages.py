"""A report with everything in it, some of it hostile, and a reader of the page that it becomes."""

from html.parser import HTMLParser

import numpy as np

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
    compare,
)  # fmt: skip
from apt_plugin.report.html import VOID

NASTY = '</script><img src=x onerror="1"> & "cup" $a_b$ --> http://example.org/x'


def sections() -> list:
    runs = {
        ("apt", "rare"): [(60, 100), (70, 100), (80, 100)],
        ("joint", "rare"): [(40, 100), (50, 100), (30, 100)],
    }
    rows = {
        ("apt", "rare"): (210, 300),
        ("joint", "rare"): (120, 300),
        ("apt", NASTY): (0, 0),
        ("third", "rare"): (9, 9),
    }
    steps = np.arange(0, 900, 100)
    falling = 100.0 ** (1 - steps / 400)
    falling[3] = np.nan
    return [
        Title(f"run {NASTY}", {"host": NASTY}),
        Verdict([f"It worked {NASTY}.", compare((56, 70), (48, 80), "apt", "joint")]),
        Rates("rates", NASTY, rows, runs, reference="joint", glossary={"rare": NASTY}),
        Curves("loss", NASTY, {"apt": (steps, falling), NASTY: (steps, steps + 1.5)}, marks={NASTY: 400}),
        Gates({f"{i}": (steps, 0.5 + i * steps / 9e4) for i in range(18)}, start=0.5),
        Proofs([
            {"contract": 1, "what": NASTY, "value": 0.0, "limit": 0, "passed": True, "note": NASTY},
            {"contract": 2, "what": "actions", "value": 2.3841858e-07, "limit": 1e-6, "passed": np.True_},
            {"contract": "6", "what": "serving", "value": float("nan"), "limit": 0, "passed": False},
            {"contract": "mine", "what": "later", "passed": None},
        ]),
        Table("cost", NASTY, ["stage", "s"], [["Stage 1", 95.25], [NASTY, float("inf")], ["x", np.float32(1.5)]]),
        Frames("frames", NASTY, [Strip(NASTY, [np.zeros((4, 6, 3), np.uint8)] * 2, [NASTY])]),
        Settings({"recipe": {"fusion": {"kind": NASTY, "every": 1}, "freeze": []}, "command": NASTY}),
    ]  # fmt: skip


class Page(HTMLParser):
    """Insists that every tag is closed in order; collects tags, numbers, text and ids."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.numbers, self.text, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.numbers.append([float(dict(attrs)["value"] or "nan"), ""])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "data":
            self.numbers[-1][1] += data
