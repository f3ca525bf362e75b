"""A value somewhere in a document, for reading protobuf's JSON as anybody may write it."""

import re
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, cast

import msgspec

from shunter.envoyconf.core.documents import Document, Path

__all__ = ["Node", "snake", "walk"]

DURATION = re.compile(r"(-?\d{1,12}(?:\.\d{1,9})?)s")
CAMEL = re.compile(r"_([a-z0-9])")
CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")

# Structs in an Any, for messages that whoever wrote them has no type of.
TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")


class Node(msgspec.Struct, frozen=True):
    """A value and where it stands. Nothing raises: what is not there, or of another type, is an empty value of the asked one.

    Fields are asked for in the spelling of the protobuf file; protobuf's JSON may also spell them in camel case.
    """

    document: Document
    path: Path = ()
    value: Any = None  # None: not there, or null, which protobuf's JSON takes for the same

    @classmethod
    def of(cls, document: Document) -> "Node":
        """Return the root of a document."""
        return cls(document, (), document.body)

    def __bool__(self) -> bool:
        """Whether there is anything at this place."""
        return self.value is not None

    def at(self, *fields: str) -> "Node":
        """Return what stands at a field, and its field, and so on."""
        value, path = self.value, self.path
        for field in fields:
            name = field
            if isinstance(value, dict):
                mapping = cast("dict[str, Any]", value)
                if field not in mapping and (camel := CAMEL.sub(lambda found: found[1].upper(), field)) in mapping:
                    name = camel
                value = mapping.get(name)
            else:
                value = None
            path = (*path, name)
        return Node(self.document, path, value)

    def entry(self, key: str) -> "Node":
        """Return the value of a map's key, which is a name and has one spelling."""
        value = self.value
        found = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
        return Node(self.document, (*self.path, key), found)

    @property
    def length(self) -> int:
        """How many items the list has that stands here."""
        value = self.value
        return len(cast("list[Any]", value)) if isinstance(value, list) else 0

    def item(self, index: int) -> "Node":
        """Return an item of the list that stands here; behind the last one it is empty."""
        return Node(self.document, (*self.path, index), self.value[index] if index < self.length else None)

    def items(self) -> Iterator["Node"]:
        """Yield the items of a list."""
        for index in range(self.length):
            yield self.item(index)

    def entries(self) -> Iterator[tuple[str, "Node"]]:
        """Yield the entries of a map."""
        value = self.value
        if isinstance(value, dict):
            for key, entry in cast("dict[str, Any]", value).items():
                yield key, Node(self.document, (*self.path, key), entry)

    @property
    def text(self) -> str:
        """The text that stands here."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def texts(self) -> list[str]:
        """The texts in the list that stands here."""
        return [item.text for item in self.items()]

    @property
    def is_true(self) -> bool:
        """Whether true stands here."""
        return self.value is True

    @property
    def seconds(self) -> float | None:
        """The duration that stands here; None if there is none."""
        found = DURATION.fullmatch(self.text)
        return float(found[1]) if found else None

    @property
    def number(self) -> float | None:
        """The number that stands here, which 64-bit fields write as text; None if there is none."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            return self.value if isfinite(self.value) else None
        return float(self.value) if self.text.isdecimal() and self.text.isascii() and len(self.text) < 20 else None

    def choice(self, names: Sequence[str]) -> str:
        """Return the name of the enum value that stands here, which may be its number; the first if nothing does."""
        if isinstance(self.value, int) and not isinstance(self.value, bool) and 0 <= self.value < len(names):
            return names[self.value]
        return self.text or names[0]

    @property
    def type(self) -> str:
        """The full name of the message in the Any that stands here."""
        name = self.at("@type").text.rpartition("/")[2]
        if name in TYPED_STRUCTS:
            return self.at("type_url").text.rpartition("/")[2]
        return name

    @property
    def message(self) -> "Node":
        """The message in the Any that stands here."""
        return self.at("value") if self.at("@type").text.rpartition("/")[2] in TYPED_STRUCTS else self


def snake(field: str) -> str:
    """Return a field in the spelling of the protobuf file."""
    return CAPITAL.sub(r"_\1", field).lower()


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all in it, however deep."""
    pending = [node]
    while pending:
        each = pending.pop()
        yield each
        pending += each.items()
        pending += (value for _, value in each.entries())
