"""APT inside lerobot: the policy types of `families`, registered as lerobot registers third parties."""

from __future__ import annotations


def register() -> None:
    """Make the policy types known to lerobot. Changes nothing else in the host.

    Raises:
        AptError: lerobot is missing, or lacks what the recipe relies on.
    """
    from apt_plugin.hosts import HOSTS

    HOSTS["lerobot"].require()
    register_types()


def register_types() -> None:
    """The same without asking: a policy's config refuses at its making what the host cannot carry.

    Raises:
        ImportError: the host lacks a name that the types are made of.
    """
    import apt_plugin.hosts.lerobot.processors  # noqa: F401  # the step is looked up by name in saved processors
    from apt_plugin.hosts.lerobot.families import FAMILIES

    for family in FAMILIES:
        family.register()
