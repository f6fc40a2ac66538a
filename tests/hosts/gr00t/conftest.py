"""The real Isaac GR00T N1.7 with tiny random weights. Skipped, with the reason, where gr00t does not import.

Run in a GR00T environment outside this checkout:  PYTHONPATH=<this checkout> python -m pytest tests/hosts/gr00t
"""

from __future__ import annotations

import json
import os

import pytest

for name, value in {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "TOKENIZERS_PARALLELISM": "false",
                    "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}.items():  # fmt: skip
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def where(tmp_path_factory):
    """A working directory with the tiny VLM where the host looks for it, base checkpoints, and a data set."""
    from tests.hosts.gr00t import tiny

    root = tmp_path_factory.mktemp("gr00t")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tiny.vlm()
        for adapter in (0, 2):
            tiny.base(root / f"base{adapter}", adapter)
        tiny.dataset(root / "data")
        yield root


@pytest.fixture(scope="session")
def run_of(where):
    """A whole run by the host's own command: Stage 1, proofs, Stage 2. Shared by the tests that look at its result."""
    from tests.hosts.gr00t import tiny

    out = where / "run"
    done = tiny.finetune(where, out, "--apt.fusion.kind", "host", "--apt.listen", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "log.txt").write_text(done.stdout + done.stderr)
    assert json.loads((out / "proofs.json").read_text())["holds"]
    return out
