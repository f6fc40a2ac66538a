"""The evaluation files are read by lerobot's own config classes; the simulators themselves are not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("lerobot")
import draccus
from lerobot.configs.eval import EvalPipelineConfig

FOLDER = Path(__file__).parents[3] / "configs" / "evaluation"
WALK = Path(__file__).parents[3] / "examples" / "libero_pro.md"


@pytest.mark.parametrize("name", ["lerobot_libero_pro", "lerobot_libero_plus"])
def test_the_host_reads_the_file(name):
    """A renamed field of a later lerobot would otherwise be met on a machine with a GPU, after the download."""
    from lerobot.envs.configs import EnvConfig

    import apt_plugin.libero.host.configuration_env  # noqa: F401  # `libero_scored`, without LIBERO

    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    known = EvalPipelineConfig.__dataclass_fields__
    assert set(told) <= set(known)
    env = draccus.decode(EnvConfig, told["env"])
    assert env.type == told["env"]["type"]
    assert env.task == told["env"]["task"]
    made = draccus.decode(known["eval"].default_factory().__class__, told["eval"])
    assert made.n_episodes == told["eval"]["n_episodes"]
    assert f"configs/evaluation/{name}.yaml" in WALK.read_text()
