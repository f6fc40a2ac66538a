"""Features of a frozen encoder on disk: computed once, by several processes, read by every training step after.

    key   (frame, view, words): which frame of the data set, which augmented view, and in Stage 2 which instruction
    entry named arrays of one key, ragged on their first axis
    shard consecutive entries in one safetensors file, with a sidecar that holds its SHA-256

Framework-free: a host says what an entry is (`Field`s) and how to compute it; nothing here imports torch or jax.
"""

from apt_plugin.cache.building import Plan, Worker, build
from apt_plugin.cache.keys import Key, words_of
from apt_plugin.cache.shards import Field
from apt_plugin.cache.stamp import Stamp, check_stamp, read_stamp, settle_views
from apt_plugin.cache.store import Cache

__all__ = [
    "Cache", "Field", "Key", "Plan", "Stamp", "Worker", "build", "check_stamp", "read_stamp", "settle_views",
    "words_of",
]  # fmt: skip
