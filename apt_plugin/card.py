"""What a model card says of a checkpoint: how it was trained, what was proven, and whether it listens.

A section stands between two marks of its own in the card that a host's template made, so that it can be written anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe, as_text
from apt_plugin.stages import PROOFS, RECORD, Record, read_record

if TYPE_CHECKING:
    from apt_plugin.listen.run import Result

TRAINED, HEARD = "trained", "listen"
BEFORE = "\n## Evaluation"  # where a section goes that is not there yet; else to the end
FIRST = ("retrieval", "margin", "sensitivity", "blank gap")  # numbers behind a verdict, in this order
UNHEARD = "## Does it listen?\n\nNot measured yet: `apt-plugin listen --policy CHECKPOINT --dataset DATA --card`."


def trained(record: Record, proofs: Mapping[str, Any] | None = None) -> str:
    """Recipe, steps, versions and proofs.

    Args:
        proofs: the file that `apt-plugin prove --json` wrote of Stage 1; None where nobody knows one.
    """
    plain = as_text(Recipe())
    chosen = {name: text for name, text in as_text(record.recipe).items() if text != plain[name]}
    fields = ", ".join(f"`{name}={text}`" for name, text in chosen.items()) or "every field at its default"
    before = record.stage1 or {}
    steps = f"{before['steps']} in Stage 1, {record.steps} in Stage 2" if before else f"{record.steps}"
    held = "not known here" if proofs is None else "all hold" if proofs.get("holds") else "**some do not hold**"
    rows = {
        "Began with": began(record.base),
        "Recipe": f"[APT](https://arxiv.org/abs/2606.12366), Stage {record.stage} of 2; {fields}",
        "Gradient steps": steps,
        "Written by": f"apt-plugin {record.plugin} in {record.host}",
        "VLM": "unchanged" if record.vlm == record.vlm_start else "trained",
        "Contracts on Stage 1 (`apt-plugin prove`)": held,
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())])
    return f"## Training recipe\n\n{table}\n"


def published(base: str | None) -> str | None:
    """The base's name on the hub; None where it is a folder of somebody's machine, or was not recorded."""
    found = base is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    return base if found else None


def began(base: str | None) -> str:
    """What training began with, in words; a folder stays unnamed, since cards are pushed."""
    if name := published(base):
        return f"[{name}](https://huggingface.co/{name})"
    if base is not None and "://" in base:  # openpi publishes in a bucket
        return f"`{base}`"
    return "not recorded" if base is None else "a checkpoint that is not on the hub"


def heard(result: Result) -> str:
    """The verdict with its reasons, and the numbers behind it with their intervals."""
    said = " ".join([f"**{result.verdict.word.capitalize()}.**", *result.verdict.why])
    rows = [
        f"| {s.name} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} | {'' if s.chance is None else f'{s.chance:.2f}'} | "
        f"{s.frames} |"
        for name in FIRST
        if (s := result.scores.get(name)) is not None
    ]
    head = ["| number | value | 95 % | a deaf policy has | frames |", "| --- | --- | --- | --- | --- |"]
    on = result.facts.get("data", "")
    asked = f"Measured by `apt-plugin listen` on {len(result.heard.frames)} frames" + (f" of `{on}`." if on else ".")
    return "\n".join(["## Does it listen?", "", said, "", *head, *rows, "", asked, ""])


def put(card: str, name: str, section: str) -> str:
    """The card with a section written, in the place of an older one of that name."""
    first, last = (f"<!-- apt-plugin: {name}{end} -->" for end in ("", ", end"))
    block = f"{first}\n{section.strip()}\n{last}"
    if first in card:
        return re.sub(f"{re.escape(first)}.*?{re.escape(last)}", lambda _: block, card, flags=re.DOTALL)
    before, found, behind = card.partition(BEFORE)
    return f"{before.rstrip()}\n\n{block}\n{found}{behind}"


def proofs_of(run: Path) -> Mapping[str, Any] | None:
    """What `apt-plugin prove` said of Stage 1 in a run's folder; None where it said nothing."""
    path = run / PROOFS
    return files.read_json(path) if path.is_file() else None


def listened(result: Result, fresh: str) -> Path:
    """Write the card in the folder of the checkpoint that was asked; its path.

    Args:
        fresh: the card to begin with where the folder has none, by the host's own template; "" where it has none.

    Raises:
        AptError: the checkpoint's folder is not known.
    """
    if not (folder := Path(result.facts.get("checkpoint", ""))).is_dir():
        raise AptError("--card writes into the checkpoint's folder, and this one is not known here. Name a folder.")
    path = folder / "README.md"
    record = _record(folder)
    card = path.read_text() if path.is_file() else fresh or _plain(result.facts, record)
    if f"<!-- apt-plugin: {TRAINED} -->" not in card and record is not None:
        card = put(card, TRAINED, trained(record))
    files.write_bytes(path, put(card, HEARD, heard(result)).encode())
    return path


def _plain(facts: Mapping[str, str], record: Record | None) -> str:
    """Of a host without a template of its own."""
    base = published(record.base) if record else None
    lines = [f"library_name: {facts.get('host', 'apt-plugin').split(' (')[0]}", "pipeline_tag: robotics"]
    head = "\n".join(["---", *lines, *([f"base_model: {base}"] if base else []), "---", ""])
    return f"{head}\n# Model card for {facts.get('policy', 'a policy')}\n"


def _record(folder: Path) -> Record | None:
    where = next((where for where in (folder, folder / "assets") if (where / RECORD).is_file()), None)
    return None if where is None else read_record(where)
