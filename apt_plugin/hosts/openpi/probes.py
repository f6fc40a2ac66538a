"""What we rely on in openpi beside the names that our files import. It calls itself 0.1.0 whatever it holds."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.probes import Probe, every, imports_of, names, parameters, says

PROBES = (
    Probe("π0.5", every(
        names("models.pi0_config", "Pi0Config.pi05", "Pi0Config.discrete_state_input", "Pi0Config.get_freeze_filter"),
        names("models.pi0", "Pi0.embed_prefix", "Pi0.embed_suffix", "Pi0.compute_loss", "Pi0.sample_actions"),
    )),
    Probe("imports", imports_of(Path(__file__).parent)),
    Probe("data loader", names(
        "training.data_loader", "create_torch_dataset", "transform_dataset", "TorchDataLoader", "DataLoaderImpl",
    )),
    Probe("checkpoints", names("training.checkpoints", "save_state", "restore_state")),
    Probe("suffix", parameters("models.pi0", "Pi0.embed_suffix", "obs", "noisy_actions", "timestep", first=True)),
    Probe("π0.5 prompt", says("models.tokenizer", "Task: {}, State: {};\nAction: ")),
    Probe("train configs", names("training.config", "TrainConfig.ema_decay", "TrainConfig.freeze_filter", "cli")),
    Probe("PyTorch model", names("models_pytorch.pi0_pytorch", "PI0Pytorch")),
)  # fmt: skip
