"""Every flag that a text of lerobot's rooms names is one of lerobot's parser, or of a command of ours."""

from __future__ import annotations

from pathlib import Path

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig

import apt_plugin.hosts.lerobot as room
from tests import said

# Of lerobot's main, where 0.6.1 has nothing of the kind: said there alone, or refused by its own parser before.
NEWER = {"--checkpoint_format", "--parallelism.dp_shard", "--job.target", "--policy.use_peft"}
SCRIPTS = {"--repo-id", "--root"}  # of lerobot.scripts.augment_dataset_quantile_stats
# torchrun's; what the host takes out before it parses
OTHERS = {"--module", "--policy.path", "--config_path"}
OTHERS |= {"--policy.discover_packages_path", "--packages.discover_packages_path"}


def test_they_exist(capsys: pytest.CaptureFixture[str]) -> None:
    room.register()
    with pytest.raises(SystemExit):
        draccus.parse(config_class=TrainPipelineConfig, args=["--help"])  # of every policy type
    known = said.OURS | said.RUN | NEWER | SCRIPTS | OTHERS | set(said.FLAG.findall(capsys.readouterr().out))
    assert "--policy.tokenizer_max_length" in known
    assert said.wrong(Path(room.__file__).parent, known) == []
