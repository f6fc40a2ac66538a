"""The host's own commands on a patched copy of its checkout: no launcher, and inert until the recipe is named.

The copy lies in a temporary folder; the checkout itself is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openpi
import pytest

from apt_plugin import patching
from apt_plugin.errors import AptError

CHECKOUT = Path(openpi.__file__).parents[2]
REPOSITORY = Path(__file__).parents[3]


def matches() -> bool:
    try:
        return patching.Series("openpi", CHECKOUT).state() == "stock"
    except AptError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not matches(), reason="this openpi is not the commit that patches/openpi was made for"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("patched")
    for part in ("src", "scripts"):
        shutil.copytree(CHECKOUT / part, root / "openpi" / part)
    shutil.copy(CHECKOUT / "pyproject.toml", root / "openpi")
    assert "Applied" in patching.run("openpi", "apply", root / "openpi")
    # What an installation of the plugin leaves behind: entry points that importlib.metadata finds on the path
    info = root / "site" / "apt_plugin-0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apt-plugin\nVersion: 0.0\n")
    pairs = {"recipes": "recipe", "checkpoints": "checkpoint"}
    text = "".join(f"[openpi.{g}]\napt = apt_plugin.hosts.openpi.patched:{f}\n" for g, f in pairs.items())
    (info / "entry_points.txt").write_text(text)
    return root


def call(root: Path, *command: str, source: Path | None = None) -> subprocess.CompletedProcess:
    path = os.pathsep.join(str(p) for p in (source or root / "openpi" / "src", root / "site", REPOSITORY))
    environment = os.environ | {
        "PYTHONPATH": path, "APT_PRELOAD": "tests.hosts.openpi.preload", "APT_TEST_ROOT": str(root),
        "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu", "WANDB_MODE": "disabled",
    }  # fmt: skip
    done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done


def test_the_hosts_own_command_takes_the_recipe_and_its_own_server_the_result(root):
    script = str(root / "openpi" / "scripts" / "train.py")
    call(root, script, "tiny_pi0", "--recipe", "apt", "--apt.stage", "1", "--num-train-steps=2")
    folder = root / "checkpoints/tiny_pi0_apt1/e1/1"
    code = (
        "import sys, numpy as np, openpi\n"
        f"assert openpi.__file__.startswith({str(root)!r})\n"
        "import tests.hosts.openpi.preload\n"
        "from openpi.policies import policy_config\n"
        "from openpi.training import config\n"
        "from tests.hosts.openpi.test_round_trip import observation\n"
        "made = config.get_config('tiny_pi0')\n"
        "assert type(made.model).__module__ == 'openpi.models.pi0_config'\n"  # a stock name, a stock call
        "policy = policy_config.create_trained_policy(made, sys.argv[1])\n"
        "assert policy.metadata['apt']['stage'] == 1\n"
        "words = [policy.infer(observation() | {'prompt': p}, noise=np.ones((5, 8), np.float32))['actions']"
        " for p in ('push', 'pull the bowl')]\n"
        "np.save(sys.argv[2], words)\n"
    )
    call(root, "-c", code, str(folder), str(root / "a.npy"))
    one, other = np.load(root / "a.npy")
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, other)  # Stage 1 does not hear


UNIT_TESTS = (
    "models/pi0_test.py", "models/lora_test.py", "models/tokenizer_test.py", "transforms_test.py",
    "shared/image_tools_test.py", "shared/normalize_test.py", "training/data_loader_test.py", "policies/policy_test.py",
)  # fmt: skip
TOKENIZER = Path(os.environ.get("OPENPI_DATA_HOME", "~/.cache/openpi")).expanduser() / "big_vision"


@pytest.mark.parametrize("where", ["installed", "patched"])
def test_the_hosts_unit_tests_pass(root, where):
    """With the plugin installed (its entry points on the path) beside the stock checkout, and on the patched copy."""
    checkout = CHECKOUT if where == "installed" else root / "openpi"
    paths = [str(checkout / "src" / "openpi" / name) for name in UNIT_TESTS]
    paths.append(str(CHECKOUT / "packages" / "openpi-client" / "src"))
    offline = "not with_real_dataset and not fast_tokenizer"  # these download
    if not (TOKENIZER / "paligemma_tokenizer.model").is_file():
        offline += " and not tokenize"
    options = ["-q", "-p", "no:cacheprovider", "-m", "not manual", "-k", offline]
    done = call(root, "-m", "pytest", *options, *paths, source=checkout / "src")
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
    print(where, done.stdout.splitlines()[-1])
