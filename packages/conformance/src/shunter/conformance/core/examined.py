"""What the engine needs of whatever it examines, on any side of the protocol."""

from collections.abc import Sequence
from typing import Protocol

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.events import Started, Timeline
from shunter.conformance.core.exchange import Evidence
from shunter.conformance.core.profile import Profile

__all__ = ["Examined"]


class Examined(Protocol):
    """A target as the engine sees it; what its cases may do with it is the business of its side."""

    @property
    def profile(self) -> Profile:
        """What kind of thing this is taken for."""
        ...

    def started(self, date: str, cases: Sequence[AnyCase]) -> Started:
        """Say what is examined, for the first event."""
        ...

    def forget(self) -> None:
        """Drop what was recorded: another case begins."""
        ...

    async def adapt(self, *, longer: bool = False) -> None:
        """Find out how fast it is by now, for a try was late, or disturbed; what is to last shall last `longer` from now on."""
        ...

    def evidence(self) -> Sequence[Evidence]:
        """Return what was recorded since, the latest last."""
        ...

    def timelines(self) -> Sequence[Timeline]:
        """Return what gauges said over time since."""
        ...

    async def unreachable(self) -> str | None:
        """Why nobody accepts connections there, or None if somebody does."""
        ...
