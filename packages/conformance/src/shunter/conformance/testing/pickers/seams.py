"""Where the picker in process can be made wrong: a fault breaks one thing, and names the case that finds it.

A fault is a value with a few seams:

* `wait`: the picker says nothing any more, from this message on (None: the proxy has nothing more to say);
* `ear` changes what it hears (None: it has not heard it); `tongue` changes its answers to one message;
* `allow`: which of the pool a request may use; `pool`: who belongs to it; `cost`: what speaks against an endpoint;
* `text` is its own metrics page, and `count` whether it counts the tokens of a response;
* `traits` are words for what is inside.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shunter.conformance.sections.pickers.messages import Message, Mode, Part, Reply, Set

if TYPE_CHECKING:
    from shunter.conformance.testing.pickers.fake import FakePicker

__all__ = [
    "NO_FAULT",
    "Fault",
    "Illegal",
    "Known",
    "Talk",
    "answers",
    "at",
    "change",
    "narrow",
    "refusing",
    "setting",
    "strict",
    "without",
]


class Illegal(Exception):  # noqa: N818 – a word of the domain
    """The picker ends the stream with an error."""


change = msgspec.structs.replace


class Known(msgspec.Struct, frozen=True):
    """What the picker knows of a server."""

    queue: float = 0
    kv_usage: float = 0
    adapters: tuple[str, ...] = ()


class Talk:
    """What the picker remembers of one stream."""

    def __init__(self, picker: "FakePicker") -> None:
        self.picker = picker
        self.mode = Mode.FULL_DUPLEX_STREAMED
        self.headers: dict[str, bytes] = {}
        self.subset: list[str] | None = None
        self.pieces: list[bytes] = []
        self.endpoint = self.content_type = ""
        self.status = 0
        self.over_request = self.over = self.refused = False
        self.held: list[bytes] = []
        """What a fault holds back."""

    @property
    def body(self) -> bytes:
        """The request's body as far as it has come."""
        return b"".join(self.pieces)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One defect. Its methods are what the picker asks, with the answers of a right one where the fault has none."""

    name: str
    breaks: str
    case: str
    traits: frozenset[str] = frozenset()
    wait: Callable[[Talk, Message | None], bool] | None = None
    ear: Callable[[Talk, Message], Message | None] | None = None
    tongue: Callable[[Talk, list[Reply]], list[Reply]] | None = None
    allow: Callable[[Talk, list[str]], list[str]] | None = None
    pool: Callable[["FakePicker"], list[str]] | None = None
    cost: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
    text: Callable[[str], str] | None = None
    count: Callable[[Talk], bool] | None = None

    def has(self, trait: str) -> bool:
        return trait in self.traits

    def waits(self, talk: Talk, message: Message | None) -> bool:
        return bool(self.wait and self.wait(talk, message))

    def hear(self, talk: Talk, message: Message) -> Message | None:
        return self.ear(talk, message) if self.ear else message

    def say(self, talk: Talk, replies: list[Reply]) -> list[Reply]:
        return self.tongue(talk, replies) if self.tongue else replies

    def narrow(self, talk: Talk, pool: list[str]) -> list[str]:
        return self.allow(talk, pool) if self.allow else narrow(talk, pool)

    def members(self, picker: "FakePicker") -> list[str]:
        return self.pool(picker) if self.pool else picker.offered

    def weigh(self, *what: Any) -> tuple[Any, ...]:
        return self.cost(what) if self.cost else what

    def page(self, text: str) -> str:
        return self.text(text) if self.text else text

    def counts(self, talk: Talk) -> bool:
        return self.count is None or self.count(talk)


NO_FAULT = Fault(name="", breaks="", case="")


def narrow(talk: Talk, pool: list[str]) -> list[str]:
    """Whom the gateway allows."""
    return pool if talk.subset is None else [each for each in pool if each in talk.subset]


def at(*parts: Part) -> Callable[[Talk, Message | None], bool]:
    return lambda _, message: message is not None and message.part in parts


def answers(part: Part, alter: Callable[[Talk, Reply], Reply | None]) -> Callable[[Talk, list[Reply]], list[Reply]]:
    """Alter the answers to a part; None leaves one out."""

    def tongue(talk: Talk, replies: list[Reply]) -> list[Reply]:
        altered = (alter(talk, each) if each.part is part else each for each in replies)
        return [each for each in altered if each is not None]

    return tongue


def without(reply: Reply, name: str) -> Reply:
    return change(reply, sets=tuple(each for each in reply.sets if each.name != name))


def setting(reply: Reply, name: str, value: str, *, appends: bool = False) -> Reply:
    return change(without(reply, name), sets=(*without(reply, name).sets, Set(name, value, appends)))


def refusing(alter: Callable[[Reply], Reply]) -> Callable[[Talk, list[Reply]], list[Reply]]:
    return answers(Part.IMMEDIATE, lambda _, reply: alter(reply))


def strict(legal: Callable[[Talk, Message], bool]) -> Callable[[Talk, Message], Message]:
    """End the stream with an error where a message is not to the picker's taste."""

    def ear(talk: Talk, message: Message) -> Message:
        if not legal(talk, message):
            raise Illegal("unheard of")
        return message

    return ear
