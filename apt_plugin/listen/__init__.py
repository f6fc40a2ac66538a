"""`apt-plugin listen`: whether, where and why a policy listens, and what to do about it. No framework, no host.

subject       what is asked of a policy        instructions  what each frame is asked under
measure       paired losses and actions        scores        numbers with intervals
interval      the two cheap numbers, for a training loop
probe         does the data need language      verdict       numbers into words
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from apt_plugin.listen.interval import interval, interval_numbers
from apt_plugin.listen.run import Result, Settings, listen

__all__ = ["Result", "Settings", "interval", "interval_numbers", "listen"]


class _Callable(ModuleType):
    """`apt_plugin.listen` is this package and, to a user of the library, the function: so the package can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        return listen(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
