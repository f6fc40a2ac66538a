"""The host's own commands on a patched copy of its checkout: no launcher, and inert until the recipe is named.

The copy lies in a temporary folder; the checkout itself is not touched.
"""

from __future__ import annotations

import json
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
from tests import processes
from tests.hosts.openpi.test_round_trip import ask
from tests.ports import free_port

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


def environment(root: Path, source: Path | None = None) -> dict[str, str]:
    path = os.pathsep.join(str(p) for p in (source or root / "openpi" / "src", root / "site", REPOSITORY))
    return os.environ | {
        "PYTHONPATH": path, "APT_PRELOAD": "tests.hosts.openpi.preload", "APT_TEST_ROOT": str(root),
        "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu", "WANDB_MODE": "disabled",
    }  # fmt: skip


def call(root: Path, *command: str, source: Path | None = None) -> subprocess.CompletedProcess:
    done = processes.run([sys.executable, *command], cwd=root, env=environment(root, source))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done


@pytest.mark.parametrize("script", ["train.py", "train_pytorch.py"])
def test_the_hosts_own_commands_take_the_recipe_and_its_own_server_the_result(root, script):
    """Both stages by `scripts/train.py ... --recipe apt`, then `scripts/serve_policy.py`: no launcher anywhere."""
    folder = root / "openpi" / "scripts"
    more = [f"--exp-name={Path(script).stem}", "--num-train-steps=2", "--save-interval=2"]
    recipe = ["--recipe", "apt", "--apt.listen", "0", "--apt.prove", "false"]
    recipe += [f"--apt.stage{stage}.num-train-steps=2" for stage in (1, 2)]
    call(root, str(folder / script), "tiny_pi0", *more, *recipe)
    step = "1" if script == "train.py" else "2"
    result = root / "checkpoints/tiny_pi0_apt2" / Path(script).stem / step
    assert (result / "assets" / "apt.json").is_file()
    port = free_port()
    # The test's configs and sizes come in by import, the script is the host's own; a stock name is named.
    code = (
        "import runpy, sys, openpi\n"
        f"assert openpi.__file__.startswith({str(root)!r})\n"
        "import tests.hosts.openpi.preload\n"
        "from openpi.training import config\n"
        "assert type(config.get_config('tiny_pi0').model).__module__ == 'openpi.models.pi0_config'\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    flags = [f"--port={port}", "policy:checkpoint", "--policy.config=tiny_pi0", f"--policy.dir={result}"]
    with open(root / "log.txt", "a") as log:
        command = [sys.executable, "-c", code, str(folder / "serve_policy.py"), *flags]
        process = processes.start(command, cwd=root, env=environment(root), stdout=log, stderr=log)
    told, actions = ask(process, port, root)
    assert (told["stage"], told["config"]) == (2, "tiny_pi0")
    assert np.isfinite(actions).all()


@pytest.mark.parametrize("script", ["train.py", "train_pytorch.py"])
def test_one_stage_by_the_hosts_own_command_is_looked_at_first(root, script):
    """The pre-flight of the launcher, though none is there."""
    command = [str(root / "openpi/scripts" / script), "tiny_pi05", "--exp-name=looked", "--model.max-token-len=30"]
    command += ["--recipe", "apt", "--apt.stage", "1"]
    done = processes.run([sys.executable, *command], cwd=root, env=environment(root))
    assert done.returncode == 1
    assert "Stage 1: the longest prompt has" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "checkpoints/tiny_pi05_apt1/looked").exists()


def test_patches_come_off_again_and_refuse_any_other_content(tmp_path):
    for part in ("src", "scripts"):
        shutil.copytree(CHECKOUT / part, tmp_path / part)
    (tmp_path / "pyproject.toml").write_bytes((CHECKOUT / "pyproject.toml").read_bytes())
    changed = list(patching.Series("openpi", tmp_path).index["files"])
    patching.run("openpi", "apply", tmp_path)
    assert all((tmp_path / name).read_bytes() != (CHECKOUT / name).read_bytes() for name in changed)
    patching.run("openpi", "revert", tmp_path)
    assert all((tmp_path / name).read_bytes() == (CHECKOUT / name).read_bytes() for name in changed)
    script = tmp_path / "scripts" / "train.py"
    script.write_text(script.read_text() + "\n")
    with pytest.raises(AptError, match=r"scripts/train\.py"):
        patching.run("openpi", "apply", tmp_path)


MENDS = """
import dataclasses, json, sys
sys.path.insert(0, sys.argv[1])
import tests.hosts.openpi.preload
import jax, jax.numpy as jnp, numpy as np
from openpi.models.pi0_config import Pi0Config
from openpi.training import config, data_loader, sharding, weight_loaders
from scripts import train

fields = {f.name for f in dataclasses.fields(weight_loaders.CheckpointWeightLoader)}
sample = data_loader.FakeDataset(config.get_config("tiny_pi0").model, 1)[0]
from apt_plugin.hosts.openpi.derive import Frozen
from apt_plugin.hosts.openpi.names import VLM
toy = dataclasses.replace(config.get_config("tiny_pi0"), freeze_filter=Frozen((f"^{VLM}$",)), batch_size=1)
state, _ = train.init_train_state(toy, jax.random.key(0), sharding.make_mesh(1), resume=False)
obs, actions = toy.model.fake_obs(1), toy.model.fake_act(1)
new, _ = jax.jit(lambda s: train.train_step(toy, jax.random.key(1), s, (obs, actions)))(state)
held = [np.asarray(s.ema_params.filter(toy.freeze_filter).flat_state()[key].value, np.float32)
        for key in [k for k in state.params.filter(toy.freeze_filter).flat_state() if "q_einsum" in str(k)]
        for s in (state, new)]
print("MENDS " + json.dumps({
    "missing_regex": "missing_regex" in fields,
    "ema": all((a == b).all() for a, b in zip(held[::2], held[1::2])),
    "siglip_variant": "siglip_variant" in {f.name for f in dataclasses.fields(Pi0Config)},
    "true_masks": bool(np.all(sample["tokenized_prompt_mask"])),
}))
"""


@pytest.mark.parametrize("where", ["stock", "patched"])
def test_each_patch_mends_what_its_entry_says(root, where):
    checkout = CHECKOUT if where == "stock" else root / "openpi"
    done = call(root, "-c", MENDS, str(checkout), source=checkout / "src")
    line = next(line for line in done.stdout.splitlines() if line.startswith("MENDS "))
    found = json.loads(line.removeprefix("MENDS "))
    assert found == dict.fromkeys(found, where == "patched")
    assert len(found) == 4


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
