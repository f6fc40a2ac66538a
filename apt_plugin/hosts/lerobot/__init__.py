"""APT inside lerobot: policy types pi05_apt, pi0_apt and groot_apt, registered as lerobot registers third parties."""

from __future__ import annotations


def register() -> None:
    """Make the policy types known to lerobot. Changes nothing else in the host.

    Raises:
        AptError: lerobot is missing or of a version nobody tested.
    """
    from apt_plugin.hosts import HOSTS

    HOSTS["lerobot"].require()
    import apt_plugin.hosts.lerobot.configuration_groot_apt
    import apt_plugin.hosts.lerobot.configuration_pi0_apt
    import apt_plugin.hosts.lerobot.configuration_pi05_apt
    import apt_plugin.hosts.lerobot.processors  # noqa: F401  # the step is looked up by name in saved processors
