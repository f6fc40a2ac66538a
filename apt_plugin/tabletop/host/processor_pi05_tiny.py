"""Processors of `pi05_tiny`: the host's own factory, with the tokenizer's name replaced."""

from lerobot.policies.pi05 import processor_pi05

from apt_plugin.run.replace import replaced
from apt_plugin.tabletop.host.configuration_pi05_tiny import PI05TinyConfig


def make_pi05_tiny_pre_post_processors(config: PI05TinyConfig, dataset_stats=None):
    """(pre-processor, post-processor), as `make_pi05_pre_post_processors`; `config.tokenizer_name` instead of
    the hard-coded hub name."""
    step = processor_pi05.TokenizerProcessorStep

    def with_our_tokenizer(*args, tokenizer_name: str, **kwargs):
        return step(*args, tokenizer_name=config.tokenizer_name, **kwargs)

    with replaced(processor_pi05, "TokenizerProcessorStep", with_our_tokenizer):
        return processor_pi05.make_pi05_pre_post_processors(config, dataset_stats)
