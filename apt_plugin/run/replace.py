"""Names of a host that are bound to something of ours for a while: logged, exclusive, and put back.

Contract 7 rests on this one place. A second claim on a name is an error, because two parts that wrap one function would
undo each other; a name that is not there is an error, because the host has changed and replacing would do nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)
_MISSING: Any = object()
_SAID: set[str] = set()  # a fact has one line in a process: a policy is built more than once, by the same replacements
_CLAIMED: dict[tuple[int, Any], str] = {}  # (the owner's id, its name) -> how it is called in messages


class Replacements:
    """The names that one part of the plugin has replaced, in order."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, Any, Any, bool]] = []

    def __bool__(self) -> bool:
        """Whether anything is replaced now."""
        return bool(self._undo)

    def set(self, owner: Any, name: Any, value: Any, *, new: bool = False, over: bool = False) -> Any:
        """Bind `owner.name` (or `owner[name]` of a registry) to `value`; returns what was there.

        Args:
            owner: a module, a class or a mapping.
            new: the owner need not have the name: a built-in that the module looks up, for example.
            over: stand in front of a replacement that is there already and outlives this one.

        Raises:
            AptError: the owner has no such name, or it is replaced already.
        """
        return self.wrap(owner, name, lambda _: value, new=new, over=over)

    def wrap(self, owner: Any, name: Any, make: Callable[[Any], Any], *, new: bool = False, over: bool = False) -> Any:
        """Bind `owner.name` to `make(what was there)`; returns what was there (None where there was nothing).

        Raises:
            AptError: see `set`.
        """
        text, before = _text(owner, name), _get(owner, name)
        if before is _MISSING and not new:
            raise AptError(f"{text} does not exist: this version of the host differs from the tested one.")
        if (id(owner), name) in _CLAIMED and not over:
            raise AptError(f"{text} is replaced already: two claims on one name.")
        given = None if before is _MISSING else before
        value = make(given)
        self._undo.append((owner, name, before, (id(owner), name) in _CLAIMED))
        _CLAIMED[id(owner), name] = text
        _put(owner, name, value)
        logger.log(logging.DEBUG if text in _SAID else logging.INFO, "APT: replaced %s", text)
        _SAID.add(text)
        return given

    def restore(self) -> None:
        """Put everything back, the last first."""
        while self._undo:
            owner, name, before, stays_claimed = self._undo.pop()
            _put(owner, name, before)
            if not stays_claimed:
                _CLAIMED.pop((id(owner), name), None)
            logger.debug("APT: restored %s", _text(owner, name))


class Instead:
    """A module as one script of a host sees it: some names are ours, all others the module's."""

    def __init__(self, host: Any, **ours: Any):
        self.__dict__.update(ours, _host=host)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)


@contextmanager
def replaced(owner: Any, name: Any, value: Any, *, over: bool = False) -> Iterator[Any]:
    """Bind `owner.name` to `value` for the block; yields what was there. Restores after an error too.

    Raises:
        AptError: see `Replacements.set`.
    """
    replacements = Replacements()
    before = replacements.set(owner, name, value, over=over)
    try:
        yield before
    finally:
        replacements.restore()


def watch(owners: Mapping[Any, Sequence[str]]) -> Callable[[], list[str]]:
    """Note what names of modules are now; the call says which of them are bound to something else since.

    Args:
        owners: module -> its names.
    """
    before = {(owner, name): _get(owner, name) for owner, names in owners.items() for name in names}
    return lambda: [_text(owner, name) for (owner, name), was in before.items() if _get(owner, name) is not was]


def claimed() -> list[str]:
    """What is replaced in this process now, by name."""
    return sorted(_CLAIMED.values())


def _get(owner: Any, name: Any) -> Any:
    if isinstance(owner, MutableMapping):
        return owner.get(name, _MISSING)
    # A class's own entry, not what attribute access makes of it: a classmethod must go back as one.
    return vars(owner)[name] if name in vars(owner) else getattr(owner, name, _MISSING)


def _put(owner: Any, name: Any, value: Any) -> None:
    mapping = isinstance(owner, MutableMapping)
    if value is _MISSING:
        owner.pop(name) if mapping else delattr(owner, name)
    elif mapping:
        owner[name] = value
    else:
        setattr(owner, name, value)


def _text(owner: Any, name: Any) -> str:
    if isinstance(owner, MutableMapping):
        return f"[{getattr(name, '__name__', name)}] of a registry"
    module = getattr(owner, "__module__", None) if isinstance(owner, type) else None
    own = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", type(owner).__name__)
    return ".".join(part for part in (module, own, str(name)) if part)
