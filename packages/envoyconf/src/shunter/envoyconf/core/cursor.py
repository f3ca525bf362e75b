"""A place in somebody's document: asked for what is not there, it answers with nothing rather than with an error."""

from collections.abc import Iterator
from typing import Any, NoReturn, cast

import msgspec

from shunter.envoyconf.core.documents import Document, Path
from shunter.envoyconf.errors import IntentError

__all__ = ["Cursor", "place", "refuse"]


class Cursor(msgspec.Struct, frozen=True):
    """A document, a path in it, and what stands there: None if nothing does."""

    document: Document
    path: Path
    value: Any

    @classmethod
    def root(cls, document: Document) -> "Cursor":
        """Return the place of a whole document."""
        return cls(document, (), document.body)

    def __getitem__(self, step: str | int) -> "Cursor":
        value = self._fields.get(step) if isinstance(step, str) else next(iter(self._items[step : step + 1]), None)
        return Cursor(self.document, (*self.path, step), value)

    def at(self, *steps: str | int) -> "Cursor":
        """Return the place that several steps lead to."""
        place = self
        for step in steps:
            place = place[step]
        return place

    def __bool__(self) -> bool:
        return self.value is not None

    def __iter__(self) -> Iterator["Cursor"]:
        """The items of a list; nothing else has any."""
        for index in range(len(self._items)):
            yield self[index]

    def fields(self) -> Iterator[tuple[str, "Cursor"]]:
        """The fields of a mapping; nothing else has any."""
        for name in self._fields:
            yield name, self[name]

    @property
    def _items(self) -> list[Any]:
        value: object = self.value
        return cast("list[Any]", value) if isinstance(value, list) else []

    @property
    def _fields(self) -> dict[str, Any]:
        value: object = self.value
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    @property
    def text(self) -> str:
        """What stands there if it is text; else nothing."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        """What stands there if it is a whole number."""
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    @property
    def labels(self) -> dict[str, str]:
        """What stands there if it is a mapping of texts, such as labels; of a mapping of anything, its texts."""
        return {name: field.text for name, field in self.fields() if isinstance(field.value, str)}


def place(at: Cursor) -> str:
    """Return file and line."""
    return f"{at.document.file}:{at.document.line(at.path)}"


def refuse(at: Cursor, message: str) -> NoReturn:
    """Raise IntentError about a place."""
    raise IntentError(f"{place(at)}: {message}")
