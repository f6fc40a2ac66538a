"""What lerobot finds by `--env.discover_packages_path=apt_plugin.libero.host`: the environment `libero_scored`.

lerobot imports every module in here, which is why nothing else lives here.
"""
