"""What a list and then a watch of one resource say, as a machine without IO: bytes in, objects out.

The rules are those of the Kubernetes API (Efficient detection of changes): a list gives a resource version, a watch goes on
from it, bookmarks and events move it forward, and 410 Gone means that the list must be made again. Until the last page of a
new list is there, what was known before stays: nothing that still exists is ever gone in between.

An object that does not fit its shape is kept out and its reason kept (``refused``); the others keep working.
"""

from typing import Any, NamedTuple

import msgspec

from shunter.scraper.core.excerpt import printable
from shunter.scraper.core.manifests import Key
from shunter.scraper.core.resources import Object, Resource
from shunter.scraper.errors import ApiError

__all__ = ["Reflection", "Refusal", "VersionGoneError"]

GONE = 410


class Refusal(NamedTuple):
    """Why an object is kept out, which one it is of all that ever had its name, and the generation of its specification."""

    reason: str
    uid: str
    generation: int


class VersionGoneError(ApiError):
    """The server no longer knows what happened since our resource version: list again."""


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    uid: str = ""
    generation: int = 0
    name: str = ""
    namespace: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Item(msgspec.Struct):
    metadata: _Meta


class _Page(msgspec.Struct):
    metadata: _Meta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class Reflection:
    """One resource as far as its lists and watches have told.

    ``version`` is where a watch goes on; empty: a list is needed. ``listed`` tells whether there ever was a whole one.
    """

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.objects: dict[Key, Object] = {}
        self.refused: dict[Key, Refusal] = {}
        self.version = ""
        self.listed = False
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(resource.shape)
        self._begun: tuple[dict[Key, Object], dict[Key, Refusal]] = ({}, {})

    def begin(self) -> None:
        """A new list begins; whatever came of an unfinished one is forgotten."""
        self._begun = ({}, {})

    def take_page(self, body: bytes) -> str:
        """Take one page of the list; returns the token of the next, empty after the last. Raises ApiError."""
        try:
            page = msgspec.json.decode(body, type=_Page)
            items = [msgspec.json.decode(raw, type=_Item) for raw in page.items or ()]
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(f"a list of {self.resource.title} cannot be read: {error}") from None
        for raw, item in zip(page.items or (), items, strict=True):
            self._put(raw, item.metadata, *self._begun)
        if page.metadata.continue_:
            return page.metadata.continue_
        self.objects, self.refused = self._begun
        self.version, self.listed = page.metadata.resource_version, True
        self.begin()
        return ""

    def take_line(self, line: bytes) -> bool:
        """Take one event of the watch; tell whether it changed anything. Raises ApiError, VersionGoneError for 410."""
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                status = msgspec.json.decode(event.object, type=_Status)
                kind = VersionGoneError if status.code == GONE else ApiError
                raise kind(f"the watch of {self.resource.title} ended: {status.code} {printable(status.message)}")
            meta = msgspec.json.decode(event.object, type=_Item).metadata
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(f"an event of {self.resource.title} cannot be read: {error}") from None
        self.version = meta.resource_version or self.version
        if event.type == "BOOKMARK":
            return False
        key = Key(meta.namespace, meta.name)
        before = self.objects.pop(key, None), self.refused.pop(key, None)
        if event.type != "DELETED":
            self._put(event.object, meta, self.objects, self.refused)
        return (self.objects.get(key), self.refused.get(key)) != before

    def forget(self) -> None:
        """The resource does not exist on this server: there is none of it."""
        self.objects, self.refused, self.version = {}, {}, ""

    def _put(self, raw: msgspec.Raw, meta: _Meta, objects: dict[Key, Object], refused: dict[Key, Refusal]) -> None:
        key = Key(meta.namespace, meta.name)
        try:
            objects[key] = self._decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            refused[key] = Refusal(printable(str(error)).replace("`", ""), meta.uid, meta.generation)
