"""The private names of openpi, and of what it brings, that the plugin uses. Each is probed; imports no host."""

from apt_plugin.probes import Private

_LOADER = "training.data_loader"
PRIVATE = (
    Private("training.config", "_CONFIGS_DICT", "a derived config is entered where get_config finds it"),
    Private(_LOADER, "TransformedDataset._dataset", "the LeRobot data set behind the transforms, for frame numbers"),
    Private(_LOADER, "TransformedDataset._transform", "transforms without the resizing of images that nobody reads"),
    Private(_LOADER, "DataLoaderImpl._data_loader", "the batches themselves, with cached features in them"),
    Private("models.tokenizer", "PaligemmaTokenizer._tokenizer", "instruction and template are encoded apart"),
    Private("models.tokenizer", "PaligemmaTokenizer._max_len", "the canary builds a tokenizer without its download"),
    Private("policies.policy", "Policy._rng", "guidance looks twice at one observation, and draws once"),
    Private("policies.policy", "Policy._sample_actions", "where both backends are asked for a chunk, for guidance"),
    Private(
        "serving.websocket_policy_server", "WebsocketPolicyServer._handler",
        "a refused request keeps its connection, and is told in a sentence",
    ),
    Private(
        "datasets.lerobot_dataset", "LeRobotDataset._query_videos", "reading frames without decoding images", "lerobot"
    ),
)  # fmt: skip
