"""A request that cannot be answered gets our words as its answer, and the connection stays.

openpi's server sends the traceback of any error and closes: a robot's loop then ends on one prompt that is too long.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)
_REPLACED = Replacements()


def keep_connections() -> None:
    """For the life of this process."""
    from openpi.serving.websocket_policy_server import WebsocketPolicyServer

    if not _REPLACED:
        _REPLACED.wrap(WebsocketPolicyServer, "_handler", _patient)


def _patient(host: Any) -> Any:
    async def _handler(server: Any, websocket: Any) -> None:
        kept = _Kept(websocket)
        while True:
            try:
                return await host(server, kept)
            except AptError as refusal:
                logger.warning("APT: a request was refused: %s", refusal)
            kept.greeted = True  # the handler begins again, and a client expects metadata once

    return _handler


class _Kept:
    """A connection as the host's handler sees it.

    Args:
        connection: the host's.
    """

    def __init__(self, connection: Any):
        self._connection, self.greeted = connection, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def send(self, message: Any) -> None:
        refusal = sys.exc_info()[1]  # the handler sends from its `except` block
        if isinstance(refusal, AptError):
            message = str(refusal)  # in place of the traceback
        elif self.greeted:
            self.greeted = False
            return
        await self._connection.send(message)

    async def close(self, *args: Any, **kwargs: Any) -> None:
        if not isinstance(sys.exc_info()[1], AptError):
            await self._connection.close(*args, **kwargs)
