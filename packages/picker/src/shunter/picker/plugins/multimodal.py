"""Images, videos and recordings go where they have been encoded before."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec
import xxhash
from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.request import Request
from shunter.picker.core.tenants import Tenants
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, register

__all__ = ["Encoded", "EncodedMedia", "EncoderCache"]

Positive = Annotated[int, Meta(ge=1)]

# What the reference takes an item to be worth of an encoder's cache.
ITEM_MB = 2

# The profiles whose choice encodes media, the first of them that ran; without any it is whoever serves the request.
ENCODING = ("encode", "prefill")


class Encoded(msgspec.Struct, frozen=True):
    """How much of one request's media each slot has encoded before, in tokens. A slot that has nothing is not listed."""

    items: Mapping[int, int] = {}  # hash → tokens
    matched: Mapping[int, int] = {}  # slot → tokens

    @property
    def tokens(self) -> int:
        """Of all items."""
        return sum(self.items.values())


NOTHING = Encoded()


class Told(msgspec.Struct, frozen=True, array_like=True):
    """An endpoint was sent these items."""

    slot: int
    incarnation: int
    items: list[int]


_told = msgspec.msgpack.Decoder(Told).decode


@register("mm-embeddings-cache-producer", Kind.PRODUCER)
class EncodedMedia(Plugin, frozen=True):
    """Guesses who has encoded which media from who was sent what: the last cacheSizeInMBPerServer / 2 MB items of each.

    An item is what holds or names it: its URL, or its data. Source: llm-d's plugin of that name.
    """

    cache_size_in_mb_per_server: Positive = msgspec.field(default=4096, name="cacheSizeInMBPerServer")

    def start(self, setting: Setting) -> "Encoders":
        """Return the producer at work."""
        return Encoders(self, setting)


class Encoders:
    """Which items each endpoint was sent last."""

    def __init__(self, parameters: EncodedMedia, setting: Setting) -> None:
        """Remember nothing yet."""
        self._most = max(1, parameters.cache_size_in_mb_per_server // ITEM_MB)
        self._name = setting.name
        self._tell = setting.tell
        self._seen = Tenants[OrderedDict[int, None]]()  # items, the oldest first

    def produce(self, request: Request, fleet: Fleet) -> Encoded:
        """Return who has encoded what of the request's media."""
        if not request.media:
            return NOTHING
        items = {xxhash.xxh3_64_intdigest(each.source): each.tokens for each in request.media}
        matched: dict[int, int] = {}
        for key in fleet.keys:
            seen = self._seen.get(key)
            if seen is not None and (tokens := sum([size for item, size in items.items() if item in seen])):
                matched[key[0]] = tokens
        return Encoded(items, matched)

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Remember who encodes them: the stage before, if there is one, else who serves the request."""
        found = request.facts.get(self._name)
        if isinstance(found, Encoded) and found.items:
            stages = [verdict.of(name) for name in ENCODING]
            decision = next((each for each in stages if each is not None and each.chosen), verdict.decision)
            first = decision.candidates[decision.chosen[0]]
            told = Told(first.slot, first.incarnation, list(found.items))
            self._take(told)
            self._tell(msgspec.msgpack.encode(told))
        return (), ()

    def hear(self, data: bytes) -> None:
        """Follow what another worker did."""
        self._take(_told(data))

    def _take(self, told: Told) -> None:
        key = (told.slot, told.incarnation)
        seen = self._seen.get(key)
        if seen is None:
            seen = OrderedDict[int, None]()
            self._seen.put(key, seen)
        for item in told.items:
            seen[item] = None
            seen.move_to_end(item)
        while len(seen) > self._most:
            seen.popitem(last=False)


@register("mm-embeddings-cache-scorer", Kind.SCORER)
class EncoderCache(Plugin, frozen=True):
    """Who has encoded more of the request's media before is better: the part of their tokens that it has.

    Source: llm-d's plugin of that name.
    """

    producer_name: str = ""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("producerName", Kind.PRODUCER, implied="mm-embeddings-cache-producer"),
    )

    def score(self, request: Request, fleet: Fleet) -> Mapping[int, float]:
        """Score those who have anything."""
        found = request.facts.get(self.producer_name)
        if not isinstance(found, Encoded) or not found.tokens:
            return {}
        whole, index = found.tokens, fleet.index
        return {index[slot]: tokens / whole for slot, tokens in found.matched.items() if slot in index}
