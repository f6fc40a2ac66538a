"""A small tabletop world in which one can see, within minutes on a laptop CPU, whether a policy listens.

`world` (scenes and who names what), `splits` (the tests), `words` (the language), `episodes` (what a batch of them can
do), `arm` (dynamics, demonstrator, success) and `drawing` (camera) need numpy only; the other modules connect them to
lerobot and are imported by name where they are used.
"""

from __future__ import annotations


def register() -> None:
    """Make the demo's own stock policy known to lerobot, where that is here: it is opened like any other."""
    from apt_plugin.hosts import HOSTS

    if HOSTS["lerobot"].standing().usable:
        import apt_plugin.tabletop.host.configuration_pi05_tiny  # noqa: F401
