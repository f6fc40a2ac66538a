"""`apt-plugin listen`: find the host, open the policy on its data, measure, print, write HTML and JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin import report
from apt_plugin.card import listened
from apt_plugin.errors import AptError
from apt_plugin.hosts import host_of, named
from apt_plugin.listen import Settings, listen, scored
from apt_plugin.listen.causes import Cause, found, sentence, weights
from apt_plugin.listen.instructions import Variant, load, load_libero_pro
from apt_plugin.listen.loaded import NotLoadedError
from apt_plugin.listen.pages import console_causes, quick_sections, sections
from apt_plugin.listen.run import Result, quick
from apt_plugin.tabletop import register

logger = logging.getLogger(__name__)


def variants_from(instructions: Sequence[str], libero_pro: Path | None) -> list[Variant]:
    """`instructions` is one file, or texts to ask every frame under."""
    own: list[Variant] = []
    if len(instructions) == 1 and Path(instructions[0]).suffix in (".yaml", ".yml", ".json"):
        own = load(Path(instructions[0]))
    else:
        if len(set(instructions)) < len(instructions):
            twice = next(text for text in instructions if list(instructions).count(text) > 1)
            raise AptError(f"--instructions names {twice!r} twice.")
        own = [Variant(text, "swap") for text in instructions]
    return own + ([] if libero_pro is None else load_libero_pro(libero_pro))


def run(
    policy: str,
    dataset: str,
    host: str,
    settings: Settings,
    instructions: Sequence[str],
    libero_pro: Path | None,
    base: str,
    output: Path,
    card: bool = False,
    asked: list[list[Variant]] | None = None,
    **options: Any,
) -> Result:
    """Everything, files included; instructions are read before a model is touched.

    Args:
        card: also write the verdict into the checkpoint's model card. asked: see `listen`.
    """
    own = variants_from(instructions, libero_pro)
    host = host or host_of(policy)
    adapter = named(host)
    register()
    listener = adapter.open_listener(policy, dataset, seed=settings.seed, **options)
    beside = adapter.open_base(base, listener, **options) if base else None
    result = listen(listener, settings, own, beside, asked)
    write(sections(result), output)
    if card:
        fresh = getattr(listener, "model_card", lambda: "")()
        logger.info("listen: the verdict stands in %s", listened(result, fresh))
    return result


def run_quick(
    policy: str, dataset: str, host: str, base: str, output: Path, seed: int, suite: str = "", **options: Any
) -> list[Cause]:
    """Only the cheap causes, files included. A checkpoint that its host did not load is an answer here, no refusal.

    Args:
        suite: of LIBERO, whose evaluator is looked at too; "" for none.
    """
    evaluator = [scored.look(scored.suite(suite))] if suite else []
    host = host or host_of(policy)
    adapter = named(host)
    register()
    facts: Mapping[str, str] = {"host": host, "checkpoint": policy, "data": dataset}
    try:
        listener = adapter.open_listener(policy, dataset, seed=seed, **options)
    except NotLoadedError as error:
        causes = [weights.lost(error.lost, error.total, error.where)]
    else:
        facts = listener.facts
        causes = quick(listener, adapter.open_base(base, listener, **options) if base else None)
    causes += evaluator
    write(quick_sections(causes, facts), output)
    return causes


def quick_status(*given: Any, **options: Any) -> int:
    """`listen --quick`: the answers on the terminal; 1 when a cause is found."""
    causes = run_quick(*given, **options)
    console_causes(causes)
    print(sentence(causes))
    return 1 if found(causes) else 0


def write(sections: Sequence[Any], output: Path) -> None:
    """`listen.html` and `listen.json` in `output`."""
    report.write(output / "listen.html", output / "listen.json", sections)
    logger.info("listen: %s", output / "listen.html")
