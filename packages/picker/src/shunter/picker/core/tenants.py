"""What is remembered of each endpoint, in a place that its slot's next owner takes over.

Slots are few and used again, so there are never more entries than there were endpoints at once; keyed by incarnation, too, they
would grow with every pod that ever lived.
"""

from typing import Generic, TypeVar

__all__ = ["Tenants"]

T = TypeVar("T")
Key = tuple[int, int]  # as in the ledger, which has such values itself


class Tenants(Generic[T]):
    """One value for each endpoint; a new owner of a slot has none."""

    def __init__(self) -> None:
        """Know nobody."""
        self._by_slot: dict[int, tuple[int, T]] = {}  # slot → incarnation, value

    def get(self, key: Key) -> T | None:
        """Return an endpoint's value, if it has one."""
        entry = self._by_slot.get(key[0])
        return entry[1] if entry is not None and entry[0] == key[1] else None

    def put(self, key: Key, value: T) -> None:
        """Keep a value, in place of the endpoint's last one or of who had the slot before; of who is gone nothing is kept."""
        entry = self._by_slot.get(key[0])
        if entry is None or entry[0] <= key[1]:
            self._by_slot[key[0]] = (key[1], value)

    def __len__(self) -> int:
        """Of how many endpoints there is a value."""
        return len(self._by_slot)
