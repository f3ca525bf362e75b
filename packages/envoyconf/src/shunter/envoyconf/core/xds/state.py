"""Everything that a control plane serves, immutable, each resource named by a hash of its content.

The hash is the version: a server that starts again says the same of the same, so that Envoys which come back are sent nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.errors import IntentError

__all__ = ["EMPTY", "Item", "State", "fingerprint", "make_item"]

# Of SHA-256, in hexadecimal digits: 64 bits, which nobody's mistake makes collide.
DIGITS = 16

# Which kind a resource of a kind refers to by name, and must find.
TARGETS = {Kind.CLUSTER: Kind.ENDPOINTS, Kind.LISTENER: Kind.ROUTES, Kind.ROUTES: Kind.CLUSTER}


class Item(msgspec.Struct, frozen=True):
    """One resource, encoded."""

    name: str
    version: str
    body: bytes  # the message, without the Any around it
    refers: tuple[str, ...] = ()  # the resources of TARGETS[kind] without which it is of no use


def make_item(name: str, body: bytes, refers: Iterable[str] = ()) -> Item:
    """Return a resource with the version that its content gives it."""
    return Item(name, hashlib.sha256(body).hexdigest()[:DIGITS], body, tuple(refers))


def fingerprint(items: Iterable[Item]) -> str:
    """Return the version of several resources together, in whatever order they come."""
    parts = sorted(f"{item.name} {item.version}" for item in items)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


class State:
    """All resources of every kind."""

    def __init__(self, items: Mapping[Kind, Iterable[Item]]) -> None:
        """Take resources; raise IntentError if two have one name, or one refers to another that is not there."""
        self.items: Mapping[Kind, Mapping[str, Item]] = MappingProxyType(
            {kind: _by_name(kind, items.get(kind, ())) for kind in Kind}
        )
        for kind, target in TARGETS.items():
            for item in self.items[kind].values():
                if missing := [name for name in item.refers if name not in self.items[target]]:
                    raise IntentError(f"{kind.short} {item.name!r} refers to {target.short} {missing[0]!r}, which is not there")

    def of(self, kind: Kind) -> Mapping[str, Item]:
        """Return the resources of a kind, by name."""
        return self.items[kind]

    def replace(self, kind: Kind, items: Iterable[Item]) -> "State":
        """Return the same with these resources instead of those that have their names, or beside them."""
        merged = {**self.items[kind], **{item.name: item for item in items}}
        return State({each: merged.values() if each is kind else self.items[each].values() for each in Kind})

    def version(self, kind: Kind) -> str:
        """Return the version of all resources of a kind together."""
        return fingerprint(self.items[kind].values())


def _by_name(kind: Kind, items: Iterable[Item]) -> Mapping[str, Item]:
    named: dict[str, Item] = {}
    for item in items:
        if item.name in named:
            raise IntentError(f"{kind.short} {item.name!r} is there twice")
        named[item.name] = item
    return MappingProxyType(named)


EMPTY = State({})
