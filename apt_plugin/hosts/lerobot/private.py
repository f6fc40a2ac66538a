"""The private names of lerobot, and of what it brings, that the plugin uses. Each is probed; imports no host."""

from apt_plugin.probes import Private

_POLICY, _GROOT = "policies.pretrained", "policies.groot.modeling_groot"
PRIVATE = (
    Private(_POLICY, "PreTrainedPolicy._save_pretrained", "the hub's hook behind save_pretrained; records join it"),
    Private(_POLICY, "PreTrainedPolicy._get_default_peft_targets", "its own hook: what LoRA wraps by default"),
    Private(_POLICY, "PreTrainedPolicy._validate_peft_config", "its own hook: refusing LoRA where nothing would train"),
    Private("configs.policies", "PreTrainedConfig._save_pretrained", "the hub's hook; the record is noted behind it"),
    Private("processor.pipeline", "DataProcessorPipeline._forward", "an observation before its steps, for guidance"),
    Private("datasets.lerobot_dataset", "LeRobotDataset._ensure_reader", "the reader, made before its first frame"),
    Private("datasets.dataset_reader", "DatasetReader._query_videos", "reading frames without decoding images"),
    Private("policies.pi05.modeling_pi05", "PI05Policy._preprocess_images", "images as the model gets them"),
    Private("policies.pi0.modeling_pi0", "PI0Policy._preprocess_images", "images as the model gets them"),
    Private("policies.pi05.modeling_pi05", "PI05Pytorch._rtc_enabled", "whether acting is guided by the last chunk"),
    Private("policies.pi0.modeling_pi0", "PI0Pytorch._rtc_enabled", "whether acting is guided by the last chunk"),
    Private("policies.smolvla.modeling_smolvla", "VLAFlowMatching._rtc_enabled", "whether acting is guided likewise"),
    Private("policies.smolvla.modeling_smolvla", "SmolVLAPolicy._get_action_chunk", "where both ways to act meet"),
    Private("envs.libero", "LiberoEnv._init_states", "LIBERO: where an episode begins"),
    Private("envs.libero", "LiberoEnv._env", "LIBERO: the simulator, once it is there"),
    Private("envs.libero", "LiberoEnv._ensure_env", "LIBERO: the host's own hook that makes it"),
    Private("environments.base", "MujocoEnv._observables", "LIBERO: the cameras that it draws", "robosuite"),
    Private("envs.utils", "_LazyAsyncVectorEnv", "LIBERO: simulators that begin with their task"),
    Private(_GROOT, "GrootPolicy._create_groot_model", "its own hook: the model is built here"),
    Private(_GROOT, "GrootPolicy._groot_model", "the model; ours is made of it in place"),
    Private(_GROOT, "GrootPolicy._filter_groot_inputs", "a batch as the model gets it"),
    Private(_GROOT, "GrootPolicy._build_weight_decay_parameter_groups", "which weights the host lets decay"),
    Private(
        "policies.groot.groot_n1_7", "GR00TN17ActionHead._encode_features", "features behind the adapter, to listen"
    ),
)  # fmt: skip
