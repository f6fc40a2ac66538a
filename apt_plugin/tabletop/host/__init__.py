"""What the tabletop registers with lerobot: the environment `tabletop` and the stock policy `pi05_tiny`.

Loaded by `--env.discover_packages_path=apt_plugin.tabletop.host` or `--policy.discover_packages_path=...`
(one is enough; lerobot imports every module in here, which is why nothing else lives here), or by importing
its modules.
"""
