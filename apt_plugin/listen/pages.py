"""What `listen` found, as sections of the one report: page, JSON and terminal show the same values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from apt_plugin import report
from apt_plugin.listen import paths
from apt_plugin.listen.run import Result
from apt_plugin.listen.scores import READ, over_episode


def sections(result: Result) -> list[Any]:
    """Title, verdict, numbers, where in an episode, gates, attention, guidance, pictures, settings."""
    heard, facts = result.heard, dict(result.facts)
    shape = heard.losses.shape
    facts |= {
        "measured": f"{shape[0]} frames x {shape[1]} instructions x {shape[2]} draws in {heard.seconds:.0f} s",
        "prefix passes": f"{heard.prefixes}",
        "peak memory": f"{heard.peak_mib:,.0f} MiB of this process, the model included",
    }
    out: list[Any] = [report.Title("Does this policy listen?", facts), report.Verdict(result.verdict.sentences())]
    rows = [[s.name, s.value, s.low, s.high, s.chance, s.frames, READ[s.name]] for s in result.scores.values()]
    out.append(
        report.Table(
            "The numbers",
            "Noise and times are the same for every instruction of a frame, so differences come from the words alone. "
            "Intervals: 95 %, bootstrap over episodes.",
            ["number", "value", "low", "high", "a deaf policy", "frames", "how to read it"],
            rows,
        )
    )
    curves = over_episode(heard)
    if any(len(x) > 1 for x, _ in curves.values()):
        out.append(
            report.Curves(
                "Where in an episode words matter",
                "Loss without words (or with closed gates) minus loss with them, over the place in the episode.",
                curves, "place in the episode, 0 first frame to 1 last", "loss gap",
            )
        )  # fmt: skip
    if result.ambiguity is not None:
        names = ["entropy", "left", "low", "high", "accuracy", "chance", "episodes", "instructions"]
        out.append(
            report.Table(
                "Does the data need language?", result.ambiguity.sentence(),
                ["quantity", "value"], [[name, asdict(result.ambiguity)[name]] for name in names],
            )
        )  # fmt: skip
    if result.gates:
        rows = [[name, value] for name, value in result.gates.items()]
        out.append(report.Table("Gate openings", "Per fusion layer; 0 is closed.", ["layer", "opening"], rows))
    out.append(_attention(result))
    if result.guidance:
        out.append(_guidance(result))
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
    out.append(report.Frames("Action paths under each instruction", note, strips))
    out.append(report.Settings({"listen": result.settings, "policy": result.facts}))
    return out


def _attention(result: Result) -> Any:
    found = result.attention
    title = "Attention on text"
    if isinstance(found, str):
        return report.Table(title, found, ["layer", "share"], [])
    note = "Share of the action tokens' attention on instruction (or text) tokens. Attention is not use; read it last."
    return report.Table(title, note, ["layer", "share"], [[name, value] for name, value in found.items()])


def _guidance(result: Result) -> Any:
    names = ["retrieval", "fit", "sensitivity", "loss"]
    rows = [
        [f"{scale:g}", *[made[name].value if name in made else None for name in names]]
        for scale, made in result.guidance.items()
    ]
    note = "v = v_prior + scale (v_language - v_prior): 0 is the prior, 1 the plain policy. The loss is what it costs."
    return report.Table("Guidance", note, ["scale", *names], rows)


def console(results: Sequence[Result], target: Console | None = None) -> None:
    """The verdict and the numbers on a terminal."""
    target = target or Console()
    for result in results:
        table = Table(title=f"listen: {result.facts.get('policy', '')}", title_justify="left", box=None)
        for name in ("number", "value", "95 %", "deaf", "frames", "how to read it"):
            table.add_column(name, justify="right" if name in ("value", "deaf", "frames") else "left")
        for s in result.scores.values():
            deaf = "" if s.chance is None else f"{s.chance:.2f}"
            table.add_row(
                s.name,
                f"{s.value:.3f}",
                f"{s.low:.3f} to {s.high:.3f}",
                deaf,
                str(s.frames),
                READ[s.name].split(".")[0],
            )
        target.print(table)
        for scale, made in result.guidance.items():
            words = ", ".join(f"{name} {score.value:.3f}" for name, score in made.items())
            target.print(f"guidance {scale:g}: {words}")
        target.print(f"VLM {result.vlm}; {result.heard.seconds:.0f} s, peak {result.heard.peak_mib:,.0f} MiB")
        style = {"listens": "green", "deaf": "red", "data cannot teach it": "red"}.get(result.verdict.word, "yellow")
        first, *rest = result.verdict.sentences()
        target.print(Text(first, f"bold {style}"))
        for sentence in rest:
            target.print(Text(f"  {sentence}"))
