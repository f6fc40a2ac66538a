"""APT inside NVIDIA's Isaac GR00T N1.7: a model type of its own, so that a host without the plugin refuses it."""

from __future__ import annotations


def register() -> None:
    """Make `Gr00tN1d7Apt` known to transformers' Auto classes. Changes nothing else in the host.

    Raises:
        AptError: gr00t is missing, or lacks what this adapter relies on.
    """
    from apt_plugin.hosts import HOSTS

    HOSTS["gr00t"].require()
    import gr00t.model  # noqa: F401  a patched host calls back here from it: our modules must not be half imported then
    from transformers import AutoConfig, AutoModel

    from apt_plugin.hosts.gr00t.config import Gr00tN1d7AptConfig
    from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt

    AutoConfig.register(Gr00tN1d7AptConfig.model_type, Gr00tN1d7AptConfig, exist_ok=True)
    AutoModel.register(Gr00tN1d7AptConfig, Gr00tN1d7Apt, exist_ok=True)
