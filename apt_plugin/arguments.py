"""Arguments that no command can follow, refused before a model is opened; and how a program of ours ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apt_plugin.errors import AptError, choose, disk_full, last_words

# Argument of any command -> the least that means something.
LEAST = {
    "seed": 0, "batch": 1, "rounds": 1, "frames": 1, "draws": 1, "episodes": 1, "known": 1, "ask": 2, "per_frame": 3,
}  # fmt: skip
DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")
INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


def check(command: Any) -> None:
    """
    Args:
        command: a command with its arguments as attributes.

    Raises:
        AptError: a number below its least, or a device of no known kind.
    """
    for name, least in LEAST.items():
        value = getattr(command, name, None)
        if value is not None and value < least:
            raise AptError(f"--{name.replace('_', '-')} is {value}; write {least} or more.")
    if device := str(getattr(command, "device", None) or ""):
        choose("--device", device.partition(":")[0], DEVICES)


@contextmanager
def in_words() -> Iterator[None]:
    """Around a program: what a user can mend, a missing host, a full disk and Ctrl-C end it in a sentence."""
    try:
        yield
    except AptError as error:
        sys.exit(f"apt-plugin: {last_words(error)}")
    except ModuleNotFoundError as error:
        if (error.name or "apt_plugin").startswith("apt_plugin"):
            raise
        sys.exit(
            f"apt-plugin: This needs {error.name}, which is not installed here. Run it in the environment of the host "
            'that it is about, or write: pip install "apt-plugin[lerobot]" (Python 3.12).'
        )
    except Exception as error:
        if not (words := disk_full(error)):
            raise
        sys.exit(f"apt-plugin: {words}")
    except KeyboardInterrupt:
        print("apt-plugin: ended by Ctrl-C.", file=sys.stderr)
        sys.exit(INTERRUPTED)
