"""What lerobot's GR00T must do, tried on a tiny one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from apt_plugin.backends import torch_groot_canaries as shared
from apt_plugin.backends.torch_groot_bench import SIZES
from apt_plugin.canaries import Canary
from apt_plugin.hosts.lerobot.families.groot.bench import Bench


def canaries() -> Sequence[Canary]:
    def on(check: Callable[..., str | None], *, fed: bool = True) -> Callable[[], str | None]:
        def run() -> str | None:
            bench = Bench(SIZES["tiny"], "cpu")
            model: Any = bench.policy("groot").eval()._groot_model
            return check(model, bench.inputs()) if fed else check(model)

        return run

    return [
        Canary("groot features", on(shared.features)),
        Canary("groot text blocks", on(shared.blocks)),
        Canary("groot names", on(shared.names, fed=False)),
    ]
