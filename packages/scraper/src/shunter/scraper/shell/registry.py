"""What a place that says who exists owes the scraper: files, or a Kubernetes API."""

from typing import Protocol

from shunter.scraper.core.cluster import Cluster

__all__ = ["Registry"]


class Registry(Protocol):
    """The desired state, as it changes."""

    @property
    def title(self) -> str:
        """Its name, for people."""
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
