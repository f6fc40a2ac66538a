"""lerobot imports this module at the start of every command (it looks for distributions named `lerobot_policy_*`).

It never raises: a host that the recipe cannot use still trains everything else, and `--policy.type=pi05_apt` is
answered by the reason, not by "invalid choice".
"""

import logging

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import register, register_types

try:
    register_types()
except ImportError as error:
    try:
        register()
    except AptError as reason:
        logging.warning("APT: %s Its policy types are not there.", reason)
    else:
        logging.warning("APT: the policy types are not there: %s.", error)
