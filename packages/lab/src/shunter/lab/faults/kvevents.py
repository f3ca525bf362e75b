"""KV events: what is published of the cache, wrongly."""

from shunter.lab.faults.seams import Fault, Json

__all__ = ["FAULTS"]

STORED = "BlockStored"


def _lose_token(_: int, event: Json) -> None:
    if event["type"] == STORED:
        del event["token_ids"][-1]


def _orphan(_: int, event: Json) -> None:
    if event["type"] == STORED:
        event["parent_block_hash"] = event["block_hashes"][-1] ^ 1


def _other_tokens(_: int, event: Json) -> None:
    if event["type"] == STORED:
        event["token_ids"] = [token + 1 for token in event["token_ids"]]


def _hash_blocks_alone(_: int, event: Json) -> None:
    """Call blocks after their own tokens and their place, but for the first one."""
    if event["type"] == STORED and event["parent_block_hash"] is None:
        size, tokens = event["block_size"], event["token_ids"]
        ends = range(size, len(tokens) + 1, size)
        event["block_hashes"] = [hash((at, *tokens[end - size + 1 : end])) & (1 << 64) - 1 for at, end in enumerate(ends)]


def _first_block_alone(_: int, event: Json) -> None:
    if event["type"] == STORED:
        event["block_hashes"] = event["block_hashes"][:1]
        event["token_ids"] = event["token_ids"][: event["block_size"]]


FAULTS = (
    Fault(
        name="kv-events-torn",
        case="ms.kv-events.readable",
        breaks="events of stored blocks lack a token",
        batch=_lose_token,
    ),
    Fault(
        name="kv-events-skip",
        case="ms.kv-events.contiguous",
        breaks="every third number of KV events is left out",
        number=lambda sequence: sequence + sequence // 2,
    ),
    Fault(
        name="kv-parents-wrong",
        case="ms.kv-events.chained",
        breaks="the parent of stored blocks is one that nobody knows",
        batch=_orphan,
    ),
    Fault(
        name="kv-tokens-wrong",
        case="ms.kv-events.tokens",
        breaks="stored blocks have other tokens than were asked",
        batch=_other_tokens,
    ),
    Fault(
        name="kv-hashes-collide",
        case="ms.kv-events.hashes",
        breaks="hashes do not depend on what comes before a block",
        batch=_hash_blocks_alone,
    ),
    Fault(
        name="kv-replay-forgets",
        case="ms.kv-events.replay",
        breaks="a replay leaves out every second message",
        repeat=lambda sequence, payload: payload if sequence % 2 else None,
    ),
    Fault(
        name="kv-replay-differs",
        case="ms.kv-events.replay",
        breaks="a replay repeats messages without their last byte",
        repeat=lambda _, payload: payload[:-1],
    ),
    Fault(
        name="kv-events-forget",
        case="ms.kv-events.predicted",
        breaks="only the first block of a prompt is published",
        batch=_first_block_alone,
    ),
)
