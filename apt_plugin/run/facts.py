"""How a host's child process gathers the facts of `preflight`: what is the same whatever the host is."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.run import preflight
from apt_plugin.run.preflight import Facts, about

logger = logging.getLogger(__name__)

Job = Mapping[str, Any]
JOB = "APT_PREFLIGHT"  # the child's task: JSON of {"answer": path, "flags": {stage: tokens}, ...}
EPISODE = "episode_index"
SECONDS = 10.0  # for the numbers of one data set: a pre-flight takes less than a minute
APART = 0.5  # standard deviations between two means from which data and statistics do not belong together


def answer(parsed: Callable[[Job, str, list[str]], Any], of: Callable[[Job, str, Any], Facts]) -> None:
    """The child process of a pre-flight: the flags of both stages first, then the facts of each.

    Args:
        parsed: (job, stage, flags) -> the host's settings of the stage. of: (job, stage, settings) -> its facts.

    Raises:
        AptError: which stage is refused, and why.
    """
    job = json.loads(os.environ[JOB])
    settings = {stage: parsed(job, stage, flags) for stage, flags in job["flags"].items()}
    gathered = {}
    for stage, each in settings.items():
        with parsing(stage):
            gathered[stage] = of(job, stage, each)
    preflight.write(Path(job["answer"]), gathered)


@contextmanager
def parsing(stage: str, argv: Sequence[str] = ()) -> Iterator[None]:
    """Around the host's own parser, and what is read by its flags: a refusal says which stage it is about.

    Args:
        argv: the command line that the parser shall see; none leaves this process's own.

    Raises:
        AptError: the parser raised, or ended the process (its own words stand above).
    """
    before = sys.argv
    try:
        sys.argv = list(argv) or before
        yield
    except AptError as error:
        raise error if str(error).startswith("Stage ") else AptError(f"{about(stage)}{error}") from error
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        hint = f" A flag of this stage only is written --apt.stage{stage}.<flag>." if stage else ""
        raise AptError(f"{about(stage)}the host refuses these flags (its own words stand above).{hint}") from stop
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise AptError(f"{about(stage)}{kind}{error}") from error
    finally:
        sys.argv = before


def first_line(error: Exception) -> str:
    """A host's exception in one line."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def vlm_of(stage: str, recipe: Recipe) -> str:
    """What trains of the VLM, in words."""
    how = "frozen" if stage == "1" else recipe.vlm
    if how == "frozen":
        return "nothing trains"
    part = "LoRA factors train" if how == "lora" else "all parameters train"
    since = f" after the first {recipe.frozen_share:.0%} of the steps" if recipe.frozen_share else ""
    return f"{part}{since}, at {recipe.vlm_lr_scale:g} of the learning rate"


def instructions(texts: Iterable[Any]) -> dict[str, Any]:
    """Facts about a task table's entries."""
    found = ["" if text is None or text != text else str(text).strip() for text in texts]  # a table may hold NaN
    spoken = [text for text in found if text]
    return {
        "instructions": len(found),
        "empty_instructions": len(found) - len(spoken),
        "distinct_instructions": len(set(spoken)),
    }


def longest(texts: Iterable[Any], tokens: Callable[[str], int]) -> dict[str, Any]:
    """The longest prompt, the empty instruction's among them.

    Args:
        tokens: instruction -> tokens of the whole prompt.
    """
    counts = {text: tokens(text) for text in {"", *(str(text) for text in texts if text is not None)}}
    worst = max(counts, key=lambda text: counts[text])
    return {"longest_prompt": counts[worst], "longest_instruction": worst}


def statistics(stored: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Which statistics a policy wants and does not find, and which are no numbers.

    Args:
        stored: column -> name -> values. wanted: column -> names, such as q01.
    """
    missing, broken = [], []
    for column, names in wanted.items():
        have = {name: value for name, value in stored.get(column, {}).items() if value is not None}
        if lacking := [name for name in names if name not in have]:
            missing.append(f"{column}: {', '.join(lacking)}")
        values = {name: np.asarray(have[name], np.float64) for name in names if name in have}
        if bad := [name for name, value in values.items() if not np.isfinite(value).all()]:
            broken.append(f"{column}: {', '.join(bad)}")
    return {"statistics_missing": missing, "statistics_not_finite": broken}


@dataclass
class Column:
    """Numbers of one column, summed up as they are read; [D] over its finite rows."""

    rows: int = 0
    not_finite: int = 0
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        """values: [N, D]"""
        finite = np.isfinite(values)
        self.not_finite += int((~finite).sum())
        whole = values[finite.all(-1)]
        self.rows += len(whole)
        self.total = self.total + whole.sum(0)
        self.squares = self.squares + (whole**2).sum(0)

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(self.rows, 1)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.squares / max(self.rows, 1) - self.mean**2, 0))


def numbers(
    files: Sequence[Path], names: Sequence[str], episodes: Collection[int] | None = None, seconds: float = SECONDS
) -> dict[str, Column]:
    """Read columns of parquet files, without images, in `seconds` at most.

    Args:
        episodes: the only ones that are trained on (by the column episode_index); None for all.
        names: columns of numbers or of lists of numbers; those that a file lacks are left out.
    """
    import pyarrow.parquet as parquet

    found: dict[str, Column] = {}
    end = time.monotonic() + seconds
    for place, path in enumerate(files):
        try:
            file = parquet.ParquetFile(path)
            have = [name for name in names if name in file.schema_arrow.names]
            index = [EPISODE] if episodes is not None and EPISODE in file.schema_arrow.names else []
            for batch in file.iter_batches(batch_size=16384, columns=[*have, *index]):
                rows = np.isin(batch.column(EPISODE).to_numpy(), list(episodes or ())) if index else slice(None)
                for name in have:
                    found.setdefault(name, Column()).add(_matrix(batch.column(name))[rows])
        except (ValueError, TypeError, IndexError, OSError) as error:  # what is odd to us the host may well read
            logger.warning("APT: cannot look at the numbers of %s (%s).", path, error)
        if time.monotonic() > end and place + 1 < len(files):
            logger.info("APT: looked at the numbers of %d of %d data files in %.0f s.", place + 1, len(files), seconds)
            break
    return found


def _matrix(column: Any) -> np.ndarray:
    """[N, D] float64 of a column of numbers or of (nested) lists; a missing number is NaN."""
    rows = len(column)
    while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
        column = column.flatten()
    flat = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    return flat.reshape(rows, -1) if rows and flat.size % rows == 0 else flat[:, None]


def of_numbers(columns: Mapping[str, Column], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of what was read, and whether the statistics describe it.

    Args:
        stored: column -> "mean", "std" -> [D]; columns that are not named are not compared.
    """
    apart = []
    for name, column in columns.items():
        mean, std = (stored.get(name, {}).get(part) for part in ("mean", "std"))
        if mean is None or std is None or not column.rows or np.shape(mean) != np.shape(column.mean):
            continue
        scale = np.maximum(np.maximum(np.asarray(std, np.float64), column.std), 1e-6)
        distance = np.abs(np.asarray(mean, np.float64) - column.mean) / scale
        if (worst := int(np.argmax(distance))) >= 0 and distance[worst] > APART:
            apart.append(f"{name}[{worst}] is {column.mean[worst]:.3g} on average, they say {mean[worst]:.3g}")
    return {
        "not_finite": {name: column.not_finite for name, column in columns.items() if column.not_finite},
        "statistics_of_other_data": apart,
    }


def mixed(stored: Mapping[str, Any], name: str, columns: Mapping[str, Column]) -> dict[str, Any]:
    """A stage's facts with those of the unlabelled data that is mixed in: its numbers, under both names."""
    more = of_numbers(columns, {})["not_finite"]
    both = {
        column: stored["not_finite"].get(column, 0) + more.get(column, 0) for column in {*stored["not_finite"], *more}
    }
    return {**stored, "not_finite": both, "data": f"{stored['data']} + {name}"}


def free(folder: Path) -> int:
    """Bytes free where a folder lies or will lie."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container that this process is in, has."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max" is no number
        have = min(have, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return have


def saved(steps: int, every: int | None, keep: int | None = None) -> int:
    """How many checkpoints a stage leaves.

    Args:
        every: steps between two; None or less than one saves the last only. keep: at most so many.
    """
    count = 1 if not every or every < 1 else max(1, -(-steps // every))
    return count if not keep or keep < 1 else min(count, keep)
