"""What Isaac GR00T must do, tried on a tiny one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apt_plugin.backends import torch_groot_canaries as shared
from apt_plugin.backends.torch_groot_bench import SIZES
from apt_plugin.canaries import Canary
from apt_plugin.hosts.gr00t.bench import Bench


def canaries() -> Sequence[Canary]:
    def on(check: Callable[..., str | None], *, fed: bool = True) -> Callable[[], str | None]:
        def run() -> str | None:
            bench = Bench(SIZES["tiny"], "cpu")
            model = bench.model().eval()
            return check(model, bench.inputs()) if fed else check(model)

        return run

    return [
        Canary("features", on(shared.features)),
        Canary("text blocks", on(shared.blocks)),
        Canary("names", on(shared.names, fed=False)),
    ]
