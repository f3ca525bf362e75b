"""What one client asks for, was sent, accepted and refused of one kind of resources, and the messages that say so."""

from collections.abc import Mapping

import msgspec

from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.state import Item
from shunter.envoyconf.errors import EnvoyconfError

__all__ = ["ABSENT", "EVERYTHING", "MAX_NAMES", "Channel", "Request", "Response", "SubscriptionError"]

# Names that a client may ask for, of one kind. A thousand pools have a thousand; what asks for more wants our memory.
MAX_NAMES = 100_000

# The name that asks for all.
EVERYTHING = "*"

# The version of what a client was told does not exist.
ABSENT = ""


class SubscriptionError(EnvoyconfError):
    """A client asks for more than anybody needs; its stream is to be ended."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says: a subscription, an acceptance or a refusal, or both at once."""

    kind: Kind
    nonce: str = ""  # of the response it answers
    error: str | None = None  # why that was refused
    version: str = ""  # state of the world: the last that was accepted, also on an earlier stream
    names: tuple[str, ...] = ()  # all that are wanted; in the delta form, those that are wanted now too
    unwanted: tuple[str, ...] = ()  # delta: those that are wanted no longer
    held: Mapping[str, str] = {}  # delta, first on a stream: versions by name, from an earlier stream


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is sent."""

    kind: Kind
    items: tuple[Item, ...]
    version: str
    whole: bool = False  # state of the world: whether these are all there are
    removed: tuple[str, ...] = ()  # delta: names of what is there no longer, or is not there at all
    nonce: str = ""


class Channel:
    """One kind of resources on one stream."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.names: set[str] = set()
        self.everything = False
        self.silent = True  # whether nothing was sent yet
        self.sent: dict[str, Item] = {}  # what the client has, or was told (ABSENT); of earlier streams without body
        self.due: set[str] = set()  # to be sent again though the client has, or may have, this version
        self.waiting: Response | None = None  # the one response that is not yet answered
        self._before: dict[str, Item] = {}  # what the client had before that
        self.nonce = ""  # the last
        self.version = ""  # of the last response
        self.accepted = ""  # of the last one accepted
        self.refused: dict[str, str] = {}  # versions by name, not to be sent again
        self.error: str | None = None  # why the last response was refused; None when a later one was accepted

    def wanted(self, available: Mapping[str, Item]) -> dict[str, Item]:
        """Return those of the resources that the client asks for, in order of their names."""
        names = available.keys() if self.everything else self.names & available.keys()
        return {name: available[name] for name in sorted(names)}

    def ask(self, names: set[str]) -> None:
        """Set the names that are asked for; raise SubscriptionError if they are too many."""
        if len(names) > MAX_NAMES:
            raise SubscriptionError(f"{self.kind.short}: a client asks for {len(names)} resources; at most {MAX_NAMES}")
        self.names = names

    def forget(self, name: str) -> None:
        """Remember no longer that the client has it: who asks again is sent it again."""
        self.sent.pop(name, None)
        self.refused.pop(name, None)

    def changed(self, wanted: Mapping[str, Item]) -> tuple[Item, ...]:
        """Return what the client lacks, but for what it has refused."""
        return tuple(
            item
            for name, item in wanted.items()
            if (name in self.due or name not in self.sent or self.sent[name].version != item.version)
            and self.refused.get(name) != item.version
        )

    def put(self, response: Response, nonce: str) -> Response:
        """Return a response with its nonce, and remember that it was sent."""
        response = msgspec.structs.replace(response, nonce=nonce)
        items = {item.name: item for item in response.items}
        self._before = self.sent
        if response.whole:
            self.sent, self.due = items, set()
        else:
            self.sent = {name: item for name, item in self.sent.items() if name not in response.removed} | items
            self.sent |= {name: Item(name, ABSENT, b"") for name in response.removed if name in self.names}
            self.due -= items.keys()
        self.silent, self.waiting = False, response
        self.nonce, self.version = nonce, response.version
        return response

    def answer(self, nonce: str, error: str | None) -> None:
        """Take an acceptance or a refusal of the last response; of any other, and of one that was answered, it means nothing.

        What was refused may have been applied in part: Envoy takes the good clusters of a bad response. So whatever comes
        next of these names is sent, be it what the client had before.
        """
        if self.waiting is None or nonce != self.waiting.nonce:
            return
        whole, versions = self.waiting.whole, {item.name: item.version for item in self.waiting.items}
        self.waiting, self.error = None, error
        if whole:
            self.refused.clear()
        if error is None:
            self.accepted = self.version
            self.refused = {name: version for name, version in self.refused.items() if name not in versions}
        else:
            self.refused |= versions
            self.due |= versions.keys()
            if whole:  # nothing leads to what was new in it
                self.sent = self._before

    def refuses(self, wanted: Mapping[str, Item]) -> bool:
        """Whether something that the client should have is what it refused."""
        return any(self.refused.get(name) == item.version for name, item in wanted.items())
