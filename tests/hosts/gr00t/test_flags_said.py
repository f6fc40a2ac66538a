"""Every flag that a text of Isaac GR00T's rooms names is one of its programs, or of a command of ours."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

from pathlib import Path

import pytest
import tyro
from gr00t.configs.base_config import Config, get_default_config
from gr00t.configs.finetune_config import FinetuneConfig
from gr00t.eval.run_gr00t_server import ServerConfig

import apt_plugin.hosts.gr00t as room
from tests import said

OTHERS = {"--module", "--peft"}  # torchrun's; of another host, in the sentence that this one has no such thing


def test_they_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = said.OURS | said.RUN | OTHERS
    for config, more in ((FinetuneConfig, {}), (Config, {"default": get_default_config()}), (ServerConfig, {})):
        with pytest.raises(SystemExit):
            tyro.cli(config, args=["--help"], **more)
        known |= set(said.FLAG.findall(capsys.readouterr().out))
    assert {"--embodiment-tag", "--model.state-dropout-prob", "--model-path"} <= known
    assert said.wrong(Path(room.__file__).parent, known) == []
