"""Processors of pi0_apt: the host's own, with one step in place of its prompt steps."""

from lerobot.policies.pi0 import processor_pi0 as host

from apt_plugin.hosts.lerobot.processors import apt_processors


def make_pi0_apt_pre_post_processors(config, dataset_stats=None):
    """See `apt_plugin.hosts.lerobot.processors.apt_processors`."""
    return apt_processors(config, dataset_stats, host, host.make_pi0_pre_post_processors)
