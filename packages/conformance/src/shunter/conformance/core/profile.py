"""Profiles: what a kind of examined thing lacks, and which of its failures are known.

The requirements are the same for everybody. A profile excuses: a feature that is lacking makes a case *not supported*, a
known failure makes it *known* (with a reason and a reference), and a known failure that passes is reported as such, so that
a profile cannot go stale unnoticed. Each side of the exam adds to it where to look for what.
"""

import difflib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from shunter.conformance.errors import UsageError

__all__ = ["GIE", "GIE_LORA", "Kind", "KnownFailure", "Profile", "named"]

GIE = "gie"
"""The suite of the cases that the Gateway API Inference Extension demands of every model server (`Case.suites`)."""

GIE_LORA = "gie-lora"
"""The suite of those that it demands of servers with LoRA adapters."""


class KnownFailure(msgspec.Struct, frozen=True):
    """A case that is known to fail: why, and who says so."""

    case: str
    reason: str
    reference: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of server, picker or gateway. `lacks`: why it cannot be asked for a feature."""

    name: str
    lacks: dict[str, str] = {}
    known_failures: tuple[KnownFailure, ...] = ()

    def lack(self, features: tuple[str, ...]) -> str | None:
        """Why it cannot be asked for one of the features, or None."""
        return next((self.lacks[feature] for feature in features if feature in self.lacks), None)

    def known_failure(self, case_id: str) -> KnownFailure | None:
        """The known failure of a case, or None."""
        return next((known for known in self.known_failures if known.case == case_id), None)


Kind = TypeVar("Kind", bound=Profile)
"""A profile of one side."""


def named(profiles: Iterable[Kind], name: str) -> Kind:
    """Look a profile up by name; raises UsageError with near matches."""
    by_name = {profile.name: profile for profile in profiles}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"no profile {name!r}{hint}; there are {', '.join(by_name)}")
    return by_name[name]
