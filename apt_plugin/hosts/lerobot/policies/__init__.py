"""The modules that lerobot finds by name: beside `configuration_<x>` it imports `modeling_<x>` and `processor_<x>`."""
