"""Which endpoint really has the beginning of a prompt cached: what the engines announce, asked in tokens.

``core.prefix`` guesses from what was sent; here the engines say what they hold (``core.holders``). They say it in tokens, so a
prompt must be known in tokens first (``core.spellings``). What is not known is asked for, once, of the endpoint that gets the
request: the choice does not wait, it goes by the guess until the answer is there. So the first request with a new system prompt
is placed by a guess, and those that follow by knowledge, whoever cached it: also what came by another picker or a restart.

Workers tell each other what they have learnt, so that a prompt is asked for once and not once by each of them.

For an endpoint that announces nothing the guess holds as before. A prompt with images or sound is left to the guess, too.
"""

from collections.abc import Callable, Sequence

import msgspec

from shunter.picker.core.holders import Holders, HoldersSettings
from shunter.picker.core.prefix import Match, PrefixIndex
from shunter.picker.core.request import Request
from shunter.picker.core.spellings import Manner, Spellings, digest
from shunter.snapshot import Endpoint, names_of

__all__ = ["Precise", "PreciseSettings", "Want"]


# So many prompts in a row would hardly be evicted, or take longer than they are expected, each before it was announced.
DOUBTS = 20

SILENCE = (
    "no engine has announced yet what it has cached; if they had requests, switch KV events on, and tell the scraper their "
    "port (--kv-events-port)"
)
MISMATCH = (
    f"of {DOUBTS} prompts not one was announced by the engine it was sent to: its KV events and its /tokenize do not agree, or "
    "the scraper does not hear them; prompts are placed as if nothing were cached"
)


# A record of the journal has at most 32 KB, and all that the workers tell each other of bookings goes beside it. It is what a
# prompt of 50,000 tokens comes to; of a longer one each worker learns by itself.
MAX_TOLD_BYTES = 16 << 10


class PreciseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``precise-prefix-cache-producer`` comes down to."""

    producer: str  # its name in the configuration
    holders: HoldersSettings = HoldersSettings()
    max_tokens: int = 131_072  # of a prompt; what is behind is not looked at


class Want(msgspec.Struct, frozen=True, eq=False):
    """A prompt that somebody should ask an engine to tokenise."""

    key: int
    hashes: Sequence[int]
    request: Request
    slot: int  # of the endpoint that it was sent to
    incarnation: int
    authority: str


class Learnt(msgspec.Struct, frozen=True, array_like=True):
    """What one worker tells the others of a prompt."""

    key: int
    hashes: Sequence[int]
    size_bytes: int
    names: list[tuple[Manner, Sequence[int]]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Learnt).decode


class Precise:
    """What one judge knows of holders and spellings."""

    def __init__(self, settings: PreciseSettings, index: PrefixIndex, tell: Callable[[bytes], None]) -> None:
        """``index`` hashes the prompts, and guesses; ``tell`` carries what is learnt to the other workers' ``hear``."""
        self.holders = Holders(settings.holders)
        self.spellings = Spellings()
        self.producer = settings.producer
        self.ask: Callable[[Want], None] | None = None
        """What to do with a prompt whose tokens are not known; it must not raise. Its answer comes by ``learn``."""
        self._settings = settings
        self._index = index
        self._tell = tell

    @property
    def doubt(self) -> str | None:
        """What seems to be wrong with the setting-up: engines announce nothing, or never what they were sent."""
        holders = self.holders
        if not holders.sizes:
            return SILENCE
        return MISMATCH if holders.refuted >= DOUBTS and not holders.confirmed else None

    def match(self, request: Request, target: str | None, guess: Match, now_ns: int) -> Match:
        """Return who holds how much of a prompt for this model; ``guess``, which has its hashes, until its tokens are known.

        Of a prompt of which only the beginning is known, the guess is believed at those who hold all of that.
        """
        holders, hashes = self.holders, guess.hashes
        if not hashes or request.media or not holders.sizes:
            return guess
        key, adapted = self._key(request.prompt, hashes), target in holders.adapters
        share = {slot: part for slot, part in guess.share.items() if slot not in holders.block_sizes}
        cached: dict[int, float] = {}
        for size in holders.sizes:
            known = self.spellings.find(key, hashes, len(request.prompt), (size, adapted))
            if known is None or not known.names:
                return guess
            part, all_known = 1 / known.strides, len(known.names)
            counts, lost = holders.count(known.names, now_ns)
            held = holders.weigh(counts, lost)
            if held is not counts:
                cached |= {slot: count * part for slot, count in counts.items() if count > held[slot]}
            if known.whole:
                share |= {slot: count * part for slot, count in held.items()}
            else:
                guessed = guess.share
                for slot, count in held.items():
                    sure = count * part
                    share[slot] = max(sure, guessed.get(slot, 0.0)) if count == all_known else sure
        return self._index.express(hashes, share, cached)

    def booked(self, request: Request, endpoint: Endpoint) -> None:
        """Expect the endpoint to hold the prompt soon; have it asked for, if its tokens are of any use and not known."""
        hashes = request.prefix.hashes
        if not hashes or request.media or not self.holders.sizes:
            return
        key = self._key(request.prompt, hashes)
        if self.spellings.knows(key, self.holders.sizes):
            adapted = request.target_model in self.holders.adapters
            self._expect(key, hashes, endpoint.slot, endpoint.incarnation, request.at_ns, adapted=adapted)
        elif self.ask is not None:
            self.ask(Want(key, hashes, request, endpoint.slot, endpoint.incarnation, endpoint.authority))

    def sent(self, hashes: Sequence[int], slot: int, incarnation: int, now_ns: int) -> None:
        """Expect an endpoint to hold soon what another worker sent there: its hashes are known, not its end, nor its model."""
        for adapted in (False, True):  # nobody asks for the names in the manner that does not apply
            self._expect(0, hashes, slot, incarnation, now_ns, adapted=adapted)

    def learn(self, want: Want, tokens: Sequence[int]) -> None:
        """Take the tokens of a prompt that was asked for. Raises OverflowError if they are none."""
        tokens = tokens[: self._settings.max_tokens]
        request, names = want.request, dict[Manner, Sequence[int]]()
        for size in self.holders.sizes:
            # Whether the model is an adapter is known for sure when the first of its blocks is announced: later than now.
            for adapter in (None, request.target_model):
                names[size, adapter is not None] = names_of(tokens, size, adapter=adapter, salt=request.cache_salt)
        learnt = Learnt(want.key, want.hashes, len(request.prompt), list(names.items()))
        self._enter(learnt)
        told = _encode(learnt)
        if len(told) <= MAX_TOLD_BYTES:
            self._tell(told)
        adapted = request.target_model in self.holders.adapters
        self._expect(want.key, want.hashes, want.slot, want.incarnation, request.at_ns, adapted=adapted)

    def hear(self, told: bytes) -> None:
        """Take what another worker has learnt."""
        try:
            self._enter(_decode(told))
        except msgspec.MsgspecError:  # of another version
            return

    def knows(self, want: Want) -> bool:
        """Has a prompt that was asked for become known meanwhile?"""
        return self.spellings.knows(want.key, self.holders.sizes)

    def _enter(self, learnt: Learnt) -> None:
        ends = self._index.ends(learnt.hashes)
        self.spellings.learn(learnt.key, learnt.hashes, ends, learnt.size_bytes, dict(learnt.names))

    def _expect(self, key: int, hashes: Sequence[int], slot: int, incarnation: int, now_ns: int, *, adapted: bool) -> None:
        size = self.holders.block_sizes.get(slot)
        known = self.spellings.find(key, hashes, 0, (size, adapted)) if size is not None else None
        if known is not None:
            self.holders.expect(slot, incarnation, known.names, now_ns)

    def _key(self, prompt: memoryview, hashes: Sequence[int]) -> int:
        return digest(prompt[self._index.ends(hashes)[-1] :], hashes)
