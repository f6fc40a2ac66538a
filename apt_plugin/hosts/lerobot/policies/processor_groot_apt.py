"""Processors of groot_apt: the host's own, unchanged.

No instruction mask is needed: images stand before the text, so the model finds the words by the last image token and
leaves them out (Stage 1) or gates them. Nothing in a saved processor is blind.
"""

from lerobot.policies.groot.processor_groot import make_groot_pre_post_processors


def make_groot_apt_pre_post_processors(config, dataset_stats=None, dataset_meta=None):
    """Stage 2 gets here only with norm_stats=data: otherwise it keeps the saved processors of its Stage 1."""
    return make_groot_pre_post_processors(config, dataset_stats=dataset_stats, dataset_meta=dataset_meta)
