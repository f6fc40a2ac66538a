"""What we rely on in openpi beside the names that our files import. It calls itself 0.1.0 whatever it holds."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from apt_plugin.hosts.openpi.private import PRIVATE
from apt_plugin.probes import Probe, every, imports_of, names, parameters, private, says

# The files of models whose passes the recipe stands in front of, as of commit 15a9616, or with patches/openpi applied.
CONTENT = MappingProxyType({
    "models/pi0.py": ("24b32d7c6ed5e409459afa8ca5af96a4dae09c2dcdf48e828907e411f4f12342",
                      "6ff8f7a2d438c35e2abe28f9986cd230e77141f94c901cff525d6e372cf66699"),
    "models/gemma.py": ("7e42ada4ae7e9995f0ef3e33a0c224758323c2015e2d9d72ec15726a8a001d2a",),
    "models/siglip.py": ("14b4df0be280d5769fb0dc31a40cde27525dbb1980cc998c28475d62fa3cad32",),
    "models/model.py": ("0d74bc1d8f4623ac3d8e543710b8bf75f9b95e588a3ebf6127c659e001385cff",),
    "models/tokenizer.py": ("965be8b3c393a6811875bbc32da9e01a5d01cc2f87802de801cf7293e049748c",),
    "models_pytorch/pi0_pytorch.py": ("dcd7b6f508808ce4b7170a1720a4c62c6da04edae3652d16c94a469dca924e16",),
    "models_pytorch/gemma_pytorch.py": ("225092e06509da0ae37bb9dca55c00d2804255bb1496f7c8700304b4c52a95eb",),
})  # fmt: skip

PROBES = (
    Probe("π0.5", every(
        names("models.pi0_config", "Pi0Config.pi05", "Pi0Config.discrete_state_input", "Pi0Config.get_freeze_filter"),
        names("models.pi0", "Pi0.embed_prefix", "Pi0.embed_suffix", "Pi0.compute_loss", "Pi0.sample_actions"),
    )),
    Probe("imports", imports_of(Path(__file__).parent)),
    private(PRIVATE),
    Probe("data loader", names(
        "training.data_loader", "create_torch_dataset", "transform_dataset", "TorchDataLoader", "DataLoaderImpl",
    )),
    Probe("checkpoints", names("training.checkpoints", "save_state", "restore_state")),
    Probe("suffix", parameters("models.pi0", "Pi0.embed_suffix", "obs", "noisy_actions", "timestep", first=True)),
    Probe("π0.5 prompt", says("models.tokenizer", "Task: {}, State: {};\nAction: ")),
    Probe("train configs", names("training.config", "TrainConfig.ema_decay", "TrainConfig.freeze_filter", "cli")),
    Probe("PyTorch model", names("models_pytorch.pi0_pytorch", "PI0Pytorch")),
)  # fmt: skip
