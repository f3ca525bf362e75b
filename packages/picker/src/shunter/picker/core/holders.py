"""Who holds which blocks, as the engines say: what the scraper's log tells, and what was sent a moment ago.

A block is known by the name that stands for the whole prompt up to its end (``snapshot.blocks``), and its holders are bits of
one int, as in ``core.prefix``; there is one table for each tier of memory. A prompt's score at an endpoint is the sum, over the
strides it holds from the beginning without a gap, of the weight of the best tier each is in, as in the reference.

An engine announces a block when it has computed it. Until then whoever was sent a prompt is *expected* to hold it, for some
seconds: the second of two equal prompts must not go elsewhere only because it came soon.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile

import msgspec

from shunter.snapshot import Begun, Cleared, Dropped, Held, decode_statement

__all__ = ["EXPECTED", "MAX_PAIRS", "MAX_TIERS", "PAIR_BYTES", "Holders", "HoldersSettings"]

EXPECTED = ""
"""The tier of blocks that were sent and not announced yet; what the scraper names tiers is never empty."""

FOREVER = 1 << 63

# What a pair of endpoint and block was measured to cost.
PAIR_BYTES = 150

# 30 MB. Strides are of 64 tokens, so these are 12.8 million.
MAX_PAIRS = 200_000

# As many adapters are told apart from models; more names than that are a mistake, and bounded.
MAX_ADAPTERS = 10_000

# Each is looked at in every match; an engine has three.
MAX_TIERS = 16


class HoldersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Names and defaults are those of ``precise-prefix-cache-producer``."""

    weights: tuple[tuple[str, float], ...] = (("gpu", 1.0), ("cpu", 0.8))  # of tiers; one not listed has the least of them
    max_pairs: int = MAX_PAIRS
    expect_ns: int = 2_000_000_000  # how long; 0: nothing is expected


class Holders:
    """The memory of who holds what."""

    def __init__(self, settings: HoldersSettings) -> None:
        """Know nothing yet."""
        self._settings = settings
        self._weights = dict(settings.weights)
        self._best = max(self._weights.values(), default=1.0)
        self._least = min(self._weights.values(), default=1.0)
        self._owners: dict[str, dict[int, int]] = {}  # tier → name → bits of the slots
        # slot → tier → name → until when, in ns; first the one entered longest ago
        self._held: dict[int, dict[str, dict[int, int]]] = {}
        self._due: deque[tuple[int, int]] = deque()  # when the expected ones of a slot are over, in order
        self._incarnations: dict[int, int] = {}
        self.block_sizes: dict[int, int] = {}
        """Of every endpoint that announces blocks, in tokens."""
        self.sizes: frozenset[int] = frozenset()
        """Which of these there are."""
        self.adapters: set[str] = set()
        """All that anything was announced of."""
        self.pairs = 0
        self.confirmed = 0
        """How often an engine announced what it was expected to hold."""
        self.refuted = 0
        """How often it did not."""

    def read(self, records: Iterable[bytes]) -> None:
        """Take what the log says."""
        for record in records:
            match decode_statement(record):
                case Held() as held:
                    if self._meets(held.slot, held.incarnation):
                        self.block_sizes[held.slot] = held.block_size
                        if held.adapter is not None and len(self.adapters) < MAX_ADAPTERS:
                            self.adapters.add(held.adapter)
                        self._hold(held.slot, held.tier, held.names, FOREVER)
                case Dropped() as dropped:
                    if self._incarnations.get(dropped.slot) == dropped.incarnation:
                        self._drop(dropped.slot, dropped.tier, dropped.names)
                case Cleared() as cleared:
                    if self._incarnations.get(cleared.slot) == cleared.incarnation:
                        self._empty(cleared.slot)
                case Begun():
                    self.forget_all()
                case None:
                    pass
        self._count_sizes()

    def expect(self, slot: int, incarnation: int, names: Sequence[int], now_ns: int) -> None:
        """Whoever was sent these blocks will hold them soon, if it does not hold the last of them already."""
        if not (names and self._settings.expect_ns and self._meets(slot, incarnation)):
            return
        self._expire(now_ns)  # a worker that is asked nothing hears of the others' requests all the same
        until_ns = now_ns + self._settings.expect_ns
        for tier, held in self._held.get(slot, {}).items():
            if names[-1] in held and (tier != EXPECTED or held[names[-1]] >= until_ns):
                return
        self._hold(slot, EXPECTED, names, until_ns)
        self._due.append((until_ns, slot))

    def match(self, names: Sequence[int], now_ns: int) -> dict[int, float]:
        """Return slot → weighted number of strides held from the beginning; a slot that holds none is not listed."""
        return self.weigh(*self.count(names, now_ns))

    def weigh(self, held: dict[int, float], lost: Mapping[int, float]) -> dict[int, float]:
        """Return what the strides that are held are worth; the same where every one is worth 1."""
        if lost or self._best != 1.0:
            return {slot: count * self._best - lost.get(slot, 0.0) for slot, count in held.items()}
        return held

    def count(self, names: Sequence[int], now_ns: int) -> tuple[dict[int, float], dict[int, float]]:
        """Return slot → number of strides held from the beginning, in whatever tier, and what slower tiers cost each slot."""
        self._expire(now_ns)
        fast: list[Callable[[int, int], int]] = []  # tiers of the best weight: nearly always there are no others
        slow: list[tuple[float, dict[int, int]]] = []
        for tier, owners in self._owners.items():
            weight = self._weight(tier)
            if owners and weight == self._best:
                fast.append(owners.get)
            elif owners:
                slow.append((weight, owners))
        found: dict[int, float] = {}
        lost: dict[int, float] = {}  # what slots have lost to slower tiers
        alive = -1
        for depth, name in enumerate(names):
            best = 0
            for get in fast:
                best |= get(name, 0)
            here = best
            for _, owners in slow:
                here |= owners.get(name, 0)
            still = alive & here
            if still != alive:
                if depth:
                    _assign(found, alive & ~still, depth)
                alive = still
                if not alive:
                    break
            if slow:
                self._charge(alive & ~best, name, slow, lost)
        if names:
            _assign(found, alive, len(names))
        return found, lost

    def _charge(self, bits: int, name: int, slow: Sequence[tuple[float, dict[int, int]]], lost: dict[int, float]) -> None:
        """Take down what a block in slower tiers costs these slots."""
        while bits:
            lowest = bits & -bits
            bits ^= lowest
            slot = lowest.bit_length() - 1
            weight = max(weight for weight, owners in slow if owners.get(name, 0) & lowest)
            lost[slot] = lost.get(slot, 0.0) + self._best - weight

    def retain(self, live: Mapping[int, int]) -> None:
        """Forget every slot that is not in ``live`` (slot → incarnation) with the same incarnation."""
        for slot in [slot for slot, incarnation in self._incarnations.items() if live.get(slot) != incarnation]:
            self.forget(slot)

    def forget(self, slot: int) -> None:
        """Forget all about one slot."""
        self._empty(slot)
        self._incarnations.pop(slot, None)
        if self.block_sizes.pop(slot, None) is not None:
            self._count_sizes()

    def forget_all(self) -> None:
        """Forget everything, as after something of the log was missed."""
        self._owners.clear()
        self._held.clear()
        self._due.clear()
        self._incarnations.clear()
        self.block_sizes.clear()
        self.sizes = frozenset()
        self.pairs = 0

    def _count_sizes(self) -> None:
        self.sizes = frozenset(self.block_sizes.values())

    def _meets(self, slot: int, incarnation: int) -> bool:
        """Is this the slot's newest owner so far? What was said of a former one is void then."""
        known = self._incarnations.get(slot, -1)
        if known < incarnation:
            self.forget(slot)
            self._incarnations[slot] = incarnation
        return known <= incarnation

    def _weight(self, tier: str) -> float:
        return self._best if tier == EXPECTED else self._weights.get(tier, self._least)

    def _hold(self, slot: int, tier: str, names: Iterable[int], until_ns: int) -> None:
        if tier != EXPECTED and tier not in self._owners and len(self._owners) >= MAX_TIERS:
            return
        held = self._held.setdefault(slot, {}).setdefault(tier, {})
        owners = self._owners.setdefault(tier, {})
        bit, before = 1 << slot, len(held)
        for name in names:
            held.pop(name, None)  # so that it is entered last
            held[name] = until_ns
            owners[name] = owners.get(name, 0) | bit
        self.pairs += len(held) - before
        while self.pairs > self._settings.max_pairs:
            self._forget_oldest()

    def _drop(self, slot: int, tier: str, names: Iterable[int]) -> None:
        held = self._held.get(slot, {}).get(tier)
        if held:
            owners = self._owners[tier]
            for name in names:
                if held.pop(name, None) is not None:
                    self.pairs -= 1
                    _disown(owners, name, slot)

    def _empty(self, slot: int) -> None:
        for tier, held in self._held.pop(slot, {}).items():
            self.pairs -= len(held)
            owners = self._owners[tier]
            for name in held:
                _disown(owners, name, slot)

    def _expire(self, now_ns: int) -> None:
        while self._due and self._due[0][0] <= now_ns:
            _, slot = self._due.popleft()
            held = self._held.get(slot, {}).get(EXPECTED, {})
            over = [name for name, _ in takewhile(lambda each: each[1] <= now_ns, held.items())]
            if over:
                told = any(over[0] in names for tier, names in self._held[slot].items() if tier != EXPECTED)
                self.confirmed += told
                self.refuted += not told
            self._drop(slot, EXPECTED, over)

    def _forget_oldest(self) -> None:
        """Memory is full: an eighth of the largest cache goes, at once, because to find it means to look at all."""
        slot, tier = max(
            ((slot, tier) for slot, tiers in self._held.items() for tier in tiers),
            key=lambda each: len(self._held[each[0]][each[1]]),
        )
        held = self._held[slot][tier]
        self._drop(slot, tier, [name for name, _ in zip(held, range(1 + len(held) // 8), strict=False)])


def _disown(owners: dict[int, int], name: int, slot: int) -> None:
    left = owners[name] & ~(1 << slot)
    if left:
        owners[name] = left
    else:
        del owners[name]


def _assign(found: dict[int, float], bits: int, depth: int) -> None:
    while bits > 0:
        lowest = bits & -bits
        found[lowest.bit_length() - 1] = depth
        bits ^= lowest
