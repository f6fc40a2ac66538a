"""`--policy.type=smolvla_apt`."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.config import StageFields


@PreTrainedConfig.register_subclass("smolvla_apt")
@dataclass
class SmolVLAAptConfig(StageFields, SmolVLAConfig):
    """lerobot's SmolVLAConfig plus the recipe. Sizes and tokenizer are those of `vlm_model_name`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapt_to_pi_aloha:
            raise AptError(
                "--policy.adapt_to_pi_aloha=true changes states and actions inside the host's own forward pass, which "
                "the recipe replaces. Convert the data set once, and leave the flag out."
            )
        if self.num_expert_layers > 0 and "cross" in self.attention_mode and self.self_attn_every_n_layers > 0:
            raise AptError(
                f"--policy.num_expert_layers={self.num_expert_layers} with --policy.self_attn_every_n_layers="
                f"{self.self_attn_every_n_layers}: lerobot's SmolVLA mixes up its two kinds of layers then and stops. "
                "Write --policy.num_expert_layers=-1, or --policy.self_attn_every_n_layers=-1."
            )

    @property
    def tokenizer_name(self) -> str:
        """As the prompt step of ours reads it."""
        return self.vlm_model_name
