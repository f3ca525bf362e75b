"""The encoder of one engine: what it has encoded lately, what others have, and how long the rest takes.

The rules are vLLM's, with one simplification (4):

1. A medium is encoded in the step that computes the first of its tokens which the cache of keys and values does not have; one
   of which it has all tokens is not encoded.
2. What is encoded stays in the *encoder cache*, least recently used out first, and in a *storage* that engines share, if there
   is one: whoever finds it there need not encode it. Getting it costs nothing beside a pass: it is some 8 KB a token.
3. It gets into the storage when the step has ended, so that nobody finds what an engine died over.
4. A step is not cut short where the encoder cache is full of what the step itself needs.

Before all that whatever takes requests prepares each medium, unless it has lately: that is the multi-modal cache of vLLM's
metrics. It is no work of the engine and takes no time of it.
"""

from collections import OrderedDict
from collections.abc import Sequence as Items
from typing import Protocol

from shunter.lab.core.media import Medium
from shunter.lab.core.params import EngineParams
from shunter.lab.core.sequence import Sequence
from shunter.lab.core.tally import Tally

__all__ = ["Encoder", "Storage"]

# So many pictures of some 8 MB, prepared, fit in the 4 GiB that vLLM takes for them.
PREPARED = 512


class Storage(Protocol):
    """What encoders share, by the key of a medium."""

    def holds(self, key: str) -> bool:
        """Say whether it is there."""
        ...

    def store(self, key: str, tokens: int) -> bool:
        """Put it there; False if that is impossible."""
        ...


class Encoder:
    """Tallies what it does."""

    def __init__(self, params: EngineParams, tally: Tally) -> None:
        self.storage: Storage | None = None
        self._encode_s = params.encode_s
        self._room = params.encoder_room
        self._tally = tally
        self._prepared: OrderedDict[str, None] = OrderedDict()
        self.clear()

    def clear(self) -> None:
        """Forget what is encoded, and what is about to be."""
        self._known: OrderedDict[str, int] = OrderedDict()
        self._held = 0
        self._begun: list[Medium] = []

    def prepare(self, media: Items[Medium]) -> None:
        """Take the media of a request that has come."""
        self._tally.mm_cache_queries += len(media)
        self._tally.mm_cache_hits += sum(medium.key in self._prepared for medium in media)
        for medium in media:
            self._prepared[medium.key] = None
            self._prepared.move_to_end(medium.key)
        while len(self._prepared) > PREPARED:
            self._prepared.popitem(last=False)

    def encode(self, sequence: Sequence, computed: int) -> float:
        """Begin with what a step needs that computes a prompt from there to where its path ends; returns the seconds of it."""
        upto, seconds = sequence.path.tokens, 0.0
        for medium in sequence.request.media:
            if sequence.encoded <= medium.begin < upto and medium.end > computed:
                seconds += self._need(medium)
        sequence.encoded = upto
        return seconds

    def finish(self) -> None:
        """The step has ended."""
        begun, self._begun = self._begun, []
        if self.storage is not None:
            self._tally.encodings_unsaved += sum(not self.storage.store(each.key, each.tokens) for each in begun)

    def _need(self, medium: Medium) -> float:
        encodings, key = self._tally.encodings, medium.key
        if key in self._known:
            self._known.move_to_end(key)
            encodings["cache"] += 1
            return 0.0
        self._known[key] = medium.tokens
        self._held += medium.tokens
        while self._held > self._room:
            self._held -= self._known.popitem(last=False)[1]
        if self.storage is not None and self.storage.holds(key):
            encodings["storage"] += 1
            return 0.0
        encodings["computed"] += 1
        self._begun.append(medium)
        return self._encode_s
