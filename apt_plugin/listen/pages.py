"""What `listen` found, as sections of the one report: page, JSON and terminal show the same values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apt_plugin import report
from apt_plugin.listen import paths
from apt_plugin.listen.causes import FOUND, RULED_OUT, Cause, sentence
from apt_plugin.listen.measure import Heard
from apt_plugin.listen.probe import Ambiguity
from apt_plugin.listen.run import Result
from apt_plugin.listen.scores import READ, gaps, over_episode
from apt_plugin.listen.verdict import DATA, DEAF, LISTENS

ABOUT = (
    "Frames of a policy's own data, each asked under different instructions with the same noise: does what the policy "
    "would do follow what it is told, where, and why not?"
)


ABOUT_QUICK = "Five cheap causes, looked at before the policy is asked anything."


def sections(result: Result) -> list[Any]:
    """Verdict and picture first, then cheap causes, numbers, places in an episode, data, gates, attention, guidance."""
    heard, facts = result.heard, dict(result.facts)
    shape = heard.losses.shape
    facts |= {
        "measured": f"{shape[0]} frames x {shape[1]} instructions x {shape[2]} draws in {heard.seconds:.0f} s",
        "prefix passes": f"{heard.prefixes}",
        "peak memory": f"{heard.peak_mib:,.0f} MiB of this process, the model included",
        "VLM": result.vlm,
    }
    found = result.scores.values()
    return [
        report.Title("Does this policy listen?", facts, ABOUT),
        report.Verdict(result.verdict.sentences()),
        _paths(heard),
        cause_table(result.causes),
        report.Table(
            "The numbers",
            "Noise and times are the same for every instruction of a frame, so differences come from the words alone. "
            "Intervals: 95 %, bootstrap over episodes. To compare policies take the numbers that say so; the others "
            "answer a question about this one.",
            ["number", "value", "low", "high", "a deaf policy", "frames", "good for"],
            [[s.name, s.value, s.low, s.high, s.chance, s.frames, READ[s.name][0]] for s in found],
        ),
        report.Table("How to read them", "", ["number", "a line on it"], [[s.name, READ[s.name][1]] for s in found]),
        *_where(heard),
        *([] if result.ambiguity is None else [_ambiguity(result.ambiguity)]),
        *_gates(result.gates),
        _attention(result),
        *([_guidance(result)] if result.guidance else []),
        report.Settings({"listen": result.settings, "policy": result.facts}),
    ]


def cause_table(causes: Sequence[Cause]) -> Any:
    rows = [[cause.question, cause.state, " ".join(cause.evidence), cause.advice] for cause in causes]
    note = "In the order in which they are worth a look: each makes a policy deaf, and each is cheap to mend."
    return report.Table("Cheap causes", note, ["question", "answer", "what was seen", "what to do"], rows)


def quick_sections(causes: Sequence[Cause], facts: Mapping[str, str]) -> list[Any]:
    """The page of `listen --quick`."""
    title = report.Title("Why might this policy not listen?", dict(facts), ABOUT_QUICK)
    return [title, report.Verdict([sentence(causes)]), cause_table(causes)]


def console_causes(causes: Sequence[Cause], target: Console | None = None) -> None:
    """Question, answer, evidence and advice of each cause on a terminal."""
    target = target or Console()
    for cause in causes:
        style = {FOUND: "bold red", RULED_OUT: "green"}.get(cause.state, "yellow")
        target.print(Text.assemble(f"{cause.question} ", (cause.state, style)))
        for line in (*cause.evidence, cause.advice):
            if line:
                target.print(Text(f"  {line}"))


def _where(heard: Heard) -> list[Any]:
    """The gap of every frame, and its mean per place in the episode."""
    place = heard.frames.position
    points = {
        name: [(float(x), float(y)) for x, y in zip(place, gap, strict=True) if np.isfinite(y)]
        for name, gap in gaps(heard).items()
    }
    points = {name: each for name, each in points.items() if each}
    if not points or len(set(place.tolist())) < 2:
        return []
    note = (
        "Loss without words (blank gap) or with closed gates (prior gap) minus loss with them, a mark a frame. High: "
        "here the words decide; near 0: here the image says enough."
    )
    rows = [[name, float(s.name), s.value, s.low, s.high, s.frames] for name, each in over_episode(heard).items()
            for s in each]  # fmt: skip
    return [
        report.Scatter("Where in an episode words matter", note, points,
                       "place in the episode, 0 first frame to 1 last", "loss gap"),
        report.Table("The same by place", "Means with 95 % intervals, bootstrap over episodes. Above 0: words are used "
                     "there.", ["gap", "place", "value", "low", "high", "frames"], rows),
    ]  # fmt: skip


def _ambiguity(found: Ambiguity) -> Any:
    rows = [
        ["entropy", found.entropy, None, None, "Bits of the instruction before anything is seen."],
        [
            "left",
            found.left,
            found.low,
            found.high,
            "Bits that the first image leaves open: the words' part.",
        ],
        ["accuracy", found.accuracy, *found.right, "How often the first image alone tells the instruction."],
        ["chance", found.chance, None, None, "The same by always naming the commonest instruction."],
        ["episodes", found.episodes, None, None, "First frames that the probe was cross-validated on."],
        ["instructions", found.instructions, None, None, "Different ones among them."],
    ]
    header = ["quantity", "value", "low", "high", "how to read it"]
    return report.Table("Does the data need language?", found.sentence(), header, rows)


def _gates(openings: Mapping[str, float]) -> list[Any]:
    if not openings:
        return []
    note = "Per fusion layer; 0 is closed. Parameters, not estimates: they have no interval."
    return [report.Table("Gate openings", note, ["layer", "opening"], [list(pair) for pair in openings.items()])]


def _paths(heard: Heard) -> Any:
    strips = []
    for frame in paths.most_telling(heard):
        pictures, captions = paths.panels(heard, frame)
        if pictures:
            strips.append(report.Strip(f"Told: {heard.frames.task[frame]}", pictures, captions))
    note = (
        "The camera picture, then one panel per instruction: sampled action chunks (blue, one line a draw) and the "
        "demonstration (orange, dashed), in the two action dimensions that vary most. A policy that listens stays with "
        "the demonstration under the true instruction and leaves it under one that asks for something else."
    )
    return report.Frames("Action paths under each instruction", note, strips)


def _attention(result: Result) -> Any:
    found, title = result.attention, "Attention on the instruction"
    header = ["layer", "share", "low", "high"]
    if isinstance(found, str):
        return report.Table(title, found, header, [])
    note = (
        "Share of the action tokens' attention on instruction tokens, mean over frames with its 95 % interval. "
        "Attention is not use: read it last."
    )
    return report.Table(title, note, header, [[s.name, s.value, s.low, s.high] for s in found.values()])


def _guidance(result: Result) -> Any:
    rows = [
        [f"{scale:g}", s.name, s.value, s.low, s.high] for scale, made in result.guidance.items() for s in made.values()
    ]
    note = (
        "v = v_prior + scale (v_language - v_prior): 0 is the prior, 1 the plain policy. Raise it while margin and "
        "sensitivity grow; the loss on the demonstrated actions under the true instruction is what it costs."
    )
    if result.heard.closed is None:
        note += (
            " This policy has no gates: the prior is what it does under an empty instruction. If training never showed "
            "it one, that is a guess, and guidance makes it worse: the margin falls then, and the loss jumps."
        )
    return report.Table("Guidance", note, ["scale", "number", "value", "low", "high"], rows)


def console(results: Sequence[Result], target: Console | None = None) -> None:
    """The verdict and the numbers on a terminal."""
    target = target or Console()
    for result in results:
        console_causes(result.causes, target)
        table = Table(title=f"listen: {result.facts.get('policy', '')}", title_justify="left", box=None)
        for name in ("number", "value", "95 %", "deaf", "frames", "good for"):
            table.add_column(name, justify="right" if name in ("value", "deaf", "frames") else "left", no_wrap=True)
        for s in result.scores.values():
            deaf = "" if s.chance is None else f"{s.chance:.2f}"
            span = f"{s.low:.3f} to {s.high:.3f}"
            table.add_row(s.name, f"{s.value:.3f}", span, deaf, str(s.frames), READ[s.name][0])
        target.print(table)
        for s in result.scores.values():
            target.print(Text(f"  {s.name}: {READ[s.name][1].split('.')[0]}.", "dim"))
        for scale, made in result.guidance.items():
            words = ", ".join(f"{s.name} {s.value:.3f} ({s.low:.3f} to {s.high:.3f})" for s in made.values())
            target.print(f"guidance {scale:g}: {words}")
        if result.gates:
            target.print(f"gates open {min(result.gates.values()):.3f} to {max(result.gates.values()):.3f}")
        if not isinstance(result.attention, str):
            shares = [s.value for s in result.attention.values()]
            target.print(f"attention on the instruction {min(shares):.3f} to {max(shares):.3f} per layer")
        heard = result.heard
        target.print(
            f"VLM {result.vlm}; {heard.prefixes} prefix passes, {heard.seconds:.0f} s, peak {heard.peak_mib:,.0f} MiB"
        )
        style = {LISTENS: "green", DEAF: "red", DATA: "red"}.get(result.verdict.word, "yellow")
        first, *rest = result.verdict.sentences()
        target.print(Text(first, f"bold {style}"))
        for line in rest:
            target.print(Text(f"  {line}"))
