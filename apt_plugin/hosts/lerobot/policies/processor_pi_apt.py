"""Processors of pi05_apt and pi0_apt: the host's own, with one step in place of its prompt steps."""

from lerobot.policies.pi0 import processor_pi0
from lerobot.policies.pi05 import processor_pi05

from apt_plugin.hosts.lerobot.processors import apt_processors


def make_pi05_apt_pre_post_processors(config, dataset_stats=None):
    """See `apt_plugin.hosts.lerobot.processors.apt_processors`."""
    return apt_processors(config, dataset_stats, processor_pi05, processor_pi05.make_pi05_pre_post_processors)


def make_pi0_apt_pre_post_processors(config, dataset_stats=None):
    """See `apt_plugin.hosts.lerobot.processors.apt_processors`."""
    return apt_processors(config, dataset_stats, processor_pi0, processor_pi0.make_pi0_pre_post_processors)
