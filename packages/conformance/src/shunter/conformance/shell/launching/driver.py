"""What whoever starts a model server owes the exam, however he does it."""

from types import TracebackType
from typing import Protocol

import msgspec

from shunter.conformance.sections.servers.target import Control, Means

__all__ = ["Driver", "Served"]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A model server that has been started and is ready; what is empty is found out. `version` is for the report.

    `lag_s` is how much later the server may notice what its client does because of what lies between, or the client what the
    server does.
    """

    url: str
    profile: str
    model: str = ""
    metrics_url: str = ""
    means: Means = Means()
    version: str = ""
    lag_s: float = 0.0


class Driver(Control, Protocol):
    """One server, started by entering the block, and gone, with all its children and files, when it ends.

    Entering waits until the server is ready and raises LaunchError (with the end of its log) if it never is. Power over it
    (`Control`) lasts as long as the block; `log` is what it has said so far.
    """

    async def __aenter__(self) -> Served: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def log(self) -> str:
        """Return what the server has printed, its end at least."""
        ...
