"""Isaac GR00T's run under every blow at every moment, see tests/hosts/blows.py.

Behind a resume the host draws its frames anew, and says that this cannot be reproduced. Here a stage is fed one batch
again and again (one_batch.py), and nothing is dropped out: what is left is the plugin's to take up again.
"""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import sys
from pathlib import Path

import pytest

from tests.hosts import blows
from tests.hosts.blows import left_alone, test_a_run_struck_at_every_moment_ends_as_one_left_alone  # noqa: F401
from tests.hosts.gr00t import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6000)]


@pytest.fixture(scope="module")
def host(where: Path, tmp_path_factory: pytest.TempPathFactory) -> blows.Host:
    tiny.base(where / "steady", dropout=0.0)
    command = [
        sys.executable, "-m", "apt_plugin", "run", "gr00t/experiment/launch_finetune.py", "--base-model-path", "steady",
        "--dataset-path", "data", "--embodiment-tag", tiny.TAG, "--save-steps", "2", "--global-batch-size", "4",
        "--state-dropout-prob", "0",
        "--dataloader-num-workers", "0", "--num-shards-per-epoch", "10", "--episode-sampling-rate", "1.0",
        "--modality-config-path", str(Path(__file__).with_name("one_batch.py")), "--recipe", "apt",
        "--apt.listen", "0", "--apt.stage1.max-steps", "4", "--apt.stage2.max-steps", "4",
    ]  # fmt: skip
    env = tiny.environment() | {"APT_TEST_BATCHES": str(tmp_path_factory.mktemp("batches"))}
    return blows.Host(lambda run: [*command, "--output-dir", run], ["--resume-from-checkpoint"], env, where)
