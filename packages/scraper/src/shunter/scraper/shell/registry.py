"""What a place that says who exists owes the scraper: files, or a Kubernetes API."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from shunter.scraper.core.cluster import Cluster
from shunter.scraper.core.complaints import Complaint, Place

__all__ = ["Following", "Registry"]


class Following(Struct, frozen=True, kw_only=True):
    """One thing that is followed: a resource of a namespace, or a path of files.

    ``known``: read at least once, or known not to exist. ``trouble``: why it cannot be read now, for people; empty if it can.
    """

    resource: str
    place: str
    known: bool
    trouble: str = ""
    relists: int = 0  # whole readings after the first
    restarts: int = 0  # watches after the first, those that ended when it was time included


class Registry(Protocol):
    """The desired state, as it changes."""

    @property
    def title(self) -> str:
        """Its name, for people."""
        ...

    @property
    def following(self) -> Sequence[Following]:
        """How it stands with everything that is followed."""
        ...

    @property
    def complaints(self) -> Mapping[Place, Complaint]:
        """What is wrong with objects of the state that was returned last."""
        ...

    def load(self) -> Cluster | None:
        """Return what is known at once, None if that takes time; raises ConfigError if it never will be."""
        ...

    async def run(self) -> None:
        """Follow it until cancelled, and log what cannot be used; the state before stays in force then."""
        ...

    async def changed(self) -> Cluster:
        """Wait for a state that differs from the last one returned."""
        ...
