"""Which instructions each frame is asked under: its own, none, other tasks, other words for the same, one word changed.

    F frames   I instructions per frame

A file of one's own is YAML or JSON:

    instructions:
      - text: grab the crimson mug          # required
        kind: paraphrase                    # paraphrase | swap | colour | noun | relation | verb
        of: pick up the red mug             # only for frames with this instruction; left out: for all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from apt_plugin.errors import AptError, choose, did_you_mean
from apt_plugin.listen import words

# swap: another task that such scenes also have; foreign: a task that scenes like this never have.
KINDS = ("true", "blank", "paraphrase", "swap", "foreign", *words.ATTRIBUTES)
MEAN_SOMETHING_ELSE = ("swap", "foreign", *words.ATTRIBUTES)
OWN_KINDS = tuple(kind for kind in KINDS if kind not in ("true", "blank", "foreign"))
DEFAULT = 8


@dataclass(frozen=True)
class Variant:
    """One instruction for one frame."""

    text: str
    kind: str
    of: str = ""

    def __post_init__(self) -> None:
        choose("kind", self.kind, KINDS)


def plan(
    given: Sequence[str],
    tasks: Sequence[str],
    likely: np.ndarray | None,
    count: int = DEFAULT,
    own: Sequence[Variant] = (),
    seed: int = 0,
) -> list[list[Variant]]:
    """`count` different instructions for every frame, the true one first.

    Args:
        given: F true instructions; tasks: all instructions of the data set.
        likely: float [F, len(tasks)], how likely a scene like this comes with each task (see `probe`); None: unknown,
            then every other task counts as a swap.
        own: variants from a file; they come before made ones.

    Raises:
        AptError: fewer than three instructions, or one task only.
    """
    if count < 3:
        raise AptError(f"--per-frame is {count}; write 3 (true, blank, one other) or more.")
    tasks = [task for task in tasks if task.strip()]
    if len(set(tasks)) < 2 and not any(variant.kind in MEAN_SOMETHING_ELSE for variant in own):
        raise AptError(
            f"The data set has one instruction only ({tasks[0] if tasks else ''!r}): no policy can be told from a deaf "
            "one on it. Name others with --instructions FILE, or use data with several tasks."
        )
    rng = np.random.default_rng([seed, 77])
    return [
        _for_frame(text, tasks, None if likely is None else likely[row], count, own, row, rng)
        for row, text in enumerate(given)
    ]


def _for_frame(
    text: str, tasks: Sequence[str], likely: np.ndarray | None, count: int, own: Sequence[Variant], row: int, rng: Any
) -> list[Variant]:
    chosen = {text: Variant(text, "true")}

    def add(kind: str, candidates: Sequence[str], most: int = 1) -> None:
        for candidate in candidates:
            if len(chosen) < count and most and candidate not in chosen:
                chosen[candidate] = Variant(candidate, kind)
                most -= 1

    add("blank", [""])
    for variant in own:
        if variant.of in ("", text):
            add(variant.kind, [variant.text])
    others = [task for task in rng.permutation(np.array(tasks, dtype=object)) if task != text]
    near, far = split_by_scene(others, tasks, likely)
    add("swap", near)
    add("foreign", far)
    add("paraphrase", list(words.paraphrases(text)))
    made = {name: words.swaps(text, name, tasks) for name in words.ATTRIBUTES}
    turn = row % len(words.ATTRIBUTES)
    for name in (*words.ATTRIBUTES[turn:], *words.ATTRIBUTES[:turn]):
        # One among the first few: swaps that are tasks of the data set stand in front.
        add(name, list(rng.permutation(np.array(made[name][:4], dtype=object))))
    add("swap", near, count)
    add("foreign", far, count)
    add("paraphrase", list(words.paraphrases(text)), count)
    return list(chosen.values())


NEVER = 0.02  # a probability below which a scene "never" comes with a task


def split_by_scene(
    others: Sequence[str], tasks: Sequence[str], likely: np.ndarray | None
) -> tuple[list[str], list[str]]:
    """Tasks that such scenes also have (likeliest first), and tasks they never have."""
    if likely is None:
        return list(others), []
    chance = dict(zip(tasks, likely, strict=True))
    near = sorted((task for task in others if chance[task] >= NEVER), key=lambda task: -chance[task])
    return near, [task for task in others if chance[task] < NEVER]


def load(path: Path) -> list[Variant]:
    """Variants from a YAML or JSON file.

    Raises:
        AptError: no file, another shape, an unknown key or kind, a text twice, or none at all.
    """
    if not path.is_file():
        raise AptError(f"No instruction file at {path}.")
    try:
        whole = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AptError(f"{path} is not valid YAML or JSON: {error}") from error
    entries = whole.get("instructions") if isinstance(whole, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise AptError(f"{path} holds no instructions; write a list under `instructions:`, each with a `text`.")
    known, seen, made = [field.name for field in fields(Variant)], {}, []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("text"), str) or not entry["text"].strip():
            raise AptError(f"{path}, entry {number}: {entry!r} has no `text`.")
        if unknown := [key for key in entry if key not in known]:
            raise AptError(f"{path}, entry {number}: unknown key {unknown[0]!r}.{did_you_mean(str(unknown[0]), known)}")
        variant = Variant(entry["text"], str(entry.get("kind", "swap")), str(entry.get("of") or ""))
        choose(f"{path}, entry {number}: kind", variant.kind, OWN_KINDS)
        if (key := (variant.text, variant.of)) in seen:
            raise AptError(f"{path}: entry {number} repeats entry {seen[key]}: {variant.text!r}.")
        seen[key] = number
        made.append(variant)
    return made


def load_libero_pro(folder: Path) -> list[Variant]:
    """Paraphrases and task swaps from a local copy of LIBERO-PRO (its `libero_ood` folder; the texts stay there).

    `ood_language.yaml` maps suite -> task -> texts, `ood_task.yaml` suite -> task -> text -> goal.

    Raises:
        AptError: neither file is there, or it has another shape.
    """
    made: dict[tuple[str, str], Variant] = {}
    found = False
    for kind, name in (("paraphrase", "ood_language.yaml"), ("swap", "ood_task.yaml")):
        path = next((p for p in (folder / name, folder / "libero_ood" / name) if p.is_file()), None)
        if path is None:
            continue
        found = True
        try:
            suites = yaml.safe_load(path.read_text()) or {}
            for tasks in suites.values():
                for task, texts in (tasks or {}).items():
                    of = _sentence(task)
                    for text in texts or ():
                        made.setdefault((str(text), of), Variant(str(text), kind, of))
        except (yaml.YAMLError, AttributeError, TypeError) as error:
            raise AptError(f"{path} is not what LIBERO-PRO writes (suite: task: texts): {error}") from error
    if not found:
        raise AptError(f"{folder} holds neither ood_language.yaml nor ood_task.yaml; name LIBERO-PRO's libero_ood/.")
    return list(made.values())


def _sentence(task: str) -> str:
    """LIBERO's task name as its instruction: a scene prefix in capitals goes, underscores are spaces."""
    parts = str(task).split("_")
    first = next((i for i, part in enumerate(parts) if part.islower()), 0)
    return " ".join(parts[first:])
