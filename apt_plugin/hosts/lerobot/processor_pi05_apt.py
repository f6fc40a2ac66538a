"""Processors of pi05_apt: the host's own, with one step in place of its prompt steps."""

from lerobot.policies.pi05 import processor_pi05 as host

from apt_plugin.hosts.lerobot.processors import apt_processors


def make_pi05_apt_pre_post_processors(config, dataset_stats=None):
    """See `apt_plugin.hosts.lerobot.processors.apt_processors`."""
    return apt_processors(config, dataset_stats, host, host.make_pi05_pre_post_processors)
