"""What is smaller in the tests of the documents than on a reader's machine; the commands themselves are unchanged.

The size of a model and how much is run: a command, its checks and its plan see the numbers that are written.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

SHRINK = 5000  # of the steps of a run
ROWS = "K=4"  # of a bench
FEW = 6  # episodes written, frames asked
_held = ExitStack()  # a context manager that is collected leaves its block


def shrink() -> None:
    """For the life of this process."""
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.policies.groot import groot_n1_7

    from apt_plugin import listen_command
    from apt_plugin.hosts.lerobot import bench, listen, prove
    from apt_plugin.hosts.lerobot.families.groot import prove as prove_groot
    from apt_plugin.hosts.lerobot.sizes import sized
    from apt_plugin.listen import labels, run
    from apt_plugin.tabletop_command import Data, Trial
    from tests.hosts.lerobot.published import SIZES
    from tests.hosts.small.sitecustomize import fewer

    _held.enter_context(sized(SIZES))
    # The host knows the sizes of this VLM by heart: let it read what the folder says, as it does for others.
    groot_n1_7._is_cosmos_reason2_backbone = lambda name: False
    validate = TrainPipelineConfig.validate

    def validated(config: TrainPipelineConfig) -> None:
        validate(config)
        config.steps, config.num_workers = max(1, config.steps // SHRINK), 0
        config.eval_steps = min(config.eval_steps, config.steps)

    TrainPipelineConfig.validate = validated
    fewer(Data, labelled=FEW, unlabelled=FEW)
    fewer(Trial, episodes=2)
    opened, asked, table = listen.open_listener, run.listen, bench.rows_of
    listen.open_listener = lambda *a, frames=64, **k: opened(*a, frames=min(frames, FEW), **k)
    listen_command.listen = lambda listener, settings, *more: asked(
        listener, dataclasses.replace(settings, draws=2, instructions=4), *more
    )
    bench.rows_of = lambda family, size, device, rounds, batch: table(
        family, "tiny", device, 1, 1, only=lambda row: ROWS in row.name
    )
    # An untrained policy would be refused; test_label.py has that case.
    labels.calibrate = lambda *a: labels.Calibration(0.01, 3, 1.0, 0.3, 0.7, 0.5, 0.9, 1.0, 1.0, 0.5)
    # A fresh process of the host, half a minute of imports: test_groot.py and test_legacy.py ask it.
    prove.refuses_without_plugin = prove_groot.refuses_without_plugin = lambda folder: (True, "not asked here")
