"""The private names of Isaac GR00T, and of what it brings, that the plugin uses. Each is probed; imports no host."""

from apt_plugin.probes import Private

_PROCESSOR, _SETUP = "model.gr00t_n1d7.processing_gr00t_n1d7", "model.gr00t_n1d7.setup"
_LOADER = "data.dataset.lerobot_episode_loader"
PRIVATE = (
    Private(_PROCESSOR, "Gr00tN1d7Processor._apply_vlm_processing", "the prompt, which Stage 1 goes without"),
    Private(_PROCESSOR, "Gr00tN1d7Processor._get_vlm_inputs", "left out where features come from a cache"),
    Private("policy.gr00t_policy", "Gr00tPolicy._get_action", "guidance asks it twice, between its checks"),
    Private(_SETUP, "Gr00tN1d7Pipeline._create_model", "its own hook: the loaded model becomes one of a stage"),
    Private(_SETUP, "Gr00tN1d7Pipeline._create_dataset", "its own hook: other data in Stage 1, and a cache"),
    Private(_LOADER, "LeRobotEpisodeLoader._load_parquet_data", "episodes without task annotation have no words"),
    Private(_LOADER, "LeRobotEpisodeLoader._load_video_data", "a trial's first pictures, without whole videos"),
    Private("model.gr00t_n1d7.gr00t_n1d7", "Gr00tN1d7ActionHead._encode_features", "features, to listen"),
    Private("trainer", "Trainer._save", "the host's trainer saves through it; records join", "transformers"),
    Private(
        "modeling_utils", "PreTrainedModel._keys_to_ignore_on_load_unexpected",
        "a cached run leaves the VLM in its file", "transformers",
    ),
    Private("modeling_utils", "PreTrainedModel._from_config", "bench: a VLM of random weights", "transformers"),
)  # fmt: skip
