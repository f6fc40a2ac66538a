"""Processors of smolvla_apt: the host's own, with one step in place of its prompt steps."""

from lerobot.policies.smolvla import processor_smolvla

from apt_plugin.hosts.lerobot.processors import apt_processors


def make_smolvla_apt_pre_post_processors(config, dataset_stats=None):
    """See `apt_plugin.hosts.lerobot.processors.apt_processors`."""
    return apt_processors(config, dataset_stats, processor_smolvla, processor_smolvla.make_smolvla_pre_post_processors)
