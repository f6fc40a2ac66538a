"""lerobot imports this module at the start of every command (it looks for distributions named `lerobot_policy_*`)."""

from apt_plugin.hosts.lerobot import register

register()
