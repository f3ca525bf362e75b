"""Equal prompts that come at the same moment go to the same endpoint, so that their prompt is computed once."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import xxhash
from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.prefix import BLOCK_FLOOR_TOKENS, NO_MATCH, Match
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register

__all__ = ["BurstPrefix"]

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]

BYTES_PER_TOKEN = 4

# More groups than come in any window; about 200 bytes each.
MOST_GROUPS = 10_000


@register("burst-prefix-cache-producer", Kind.PRODUCER, stability=Stability.ALPHA)
class BurstPrefix(Plugin, frozen=True):
    """Sends the members of a burst after its first: a full prefix match where an equal prompt went within the last window.

    Equal are prompts that are the same to the last byte of maxPrefixTokensToMatch (0: of all), or with minColocateBlocks
    those that share as many blocks. Of one group an endpoint gets up to maxPerReplica (-1: all); the next one is placed by the
    other scorers and begins anew. prefix-cache-scorer makes a score of it by prefixMatchInfoProducerName.

    The reference collects requests for windowDurationMs and places them together. Here nobody waits: the first of a group is
    placed as it comes and the others follow it, which is the same placement without the delay. maxBatchSize and balanceBy have
    no effect: the balance is that of the other scorers. Source: llm-d's plugin of that name.
    """

    window_duration_ms: Positive = 100
    max_per_replica: Annotated[int, Meta(ge=-1)] = -1
    block_size_tokens: Positive = BLOCK_FLOOR_TOKENS
    max_prefix_tokens_to_match: Count = 0
    min_colocate_blocks: Count = 0
    max_batch_size: Positive = 1000
    balance_by: Literal["requests", "tokens"] = "requests"

    gives_prefix: ClassVar[bool] = True

    def start(self, setting: Setting) -> "Bursts":
        """Return the producer at work."""
        return Bursts(self, setting)


class Group(msgspec.Struct, array_like=True):
    """Equal prompts; also what workers tell each other of them."""

    prompt: int  # hash
    slot: int
    incarnation: int
    members: int  # sent there
    first_ns: int


_group = msgspec.msgpack.Decoder(Group).decode


class Bursts:
    """Where the prompts of the last window went."""

    def __init__(self, parameters: BurstPrefix, setting: Setting) -> None:
        """Remember nothing yet."""
        self._window_ns = parameters.window_duration_ms * 1_000_000
        self._most = parameters.max_per_replica
        blocks_tokens = parameters.min_colocate_blocks * parameters.block_size_tokens
        self._least_bytes = blocks_tokens * BYTES_PER_TOKEN
        self._bytes = (blocks_tokens or parameters.max_prefix_tokens_to_match) * BYTES_PER_TOKEN
        self._tell = setting.tell
        self._groups: OrderedDict[int, Group] = OrderedDict()  # the oldest first

    def produce(self, request: Request, fleet: Fleet) -> Match:
        """Return a full match of the endpoint that the request's group goes to."""
        group = self._groups.get(self._hash(request))
        if group is None or self._is_over(group, request.at_ns):
            return NO_MATCH
        at = fleet.index.get(group.slot)
        if at is None or fleet.endpoints[at].incarnation != group.incarnation:
            return NO_MATCH
        return Match(tokens=request.prompt_tokens, blocks={group.slot: 1}, share={group.slot: 1.0})

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Let the next ones follow."""
        prompt, now_ns = self._hash(request), request.at_ns
        if not prompt:
            return (), ()
        first = verdict.decision.candidates[verdict.decision.chosen[0]]
        group = self._groups.get(prompt)
        if group is None or self._is_over(group, now_ns) or (group.slot, group.incarnation) != (first.slot, first.incarnation):
            group = Group(prompt, first.slot, first.incarnation, 0, now_ns)
        group.members += 1
        self._put(group)
        self._tell(msgspec.msgpack.encode(group))
        return (), ()

    def hear(self, data: bytes) -> None:
        """Follow what another worker did."""
        self._put(_group(data))

    def _hash(self, request: Request) -> int:
        """Return what stands for the request's group; 0 if it has none."""
        prompt = request.prompt
        if not prompt or len(prompt) < self._least_bytes:
            return 0
        begin = prompt[: self._bytes] if self._bytes else prompt
        seed = xxhash.xxh3_64_intdigest(f"{request.target_model}\0".encode() + request.seed)
        return xxhash.xxh3_64_intdigest(begin, seed)

    def _is_over(self, group: Group, now_ns: int) -> bool:
        return now_ns - group.first_ns > self._window_ns or 0 <= self._most <= group.members

    def _put(self, group: Group) -> None:
        self._groups.pop(group.prompt, None)
        self._groups[group.prompt] = group
        if len(self._groups) > MOST_GROUPS:
            self._groups.popitem(last=False)
