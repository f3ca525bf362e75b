"""Fuzz target: any bytes are a publication of KV events or an error, and what an endpoint is said to hold makes sense."""

import msgspec

from shunter.scraper.core.holdings import Holdings
from shunter.scraper.core.kvevents import decode
from shunter.scraper.errors import KvEventError
from shunter.snapshot import Cleared, Dropped, Held, decode_statement, encode_statement
from shunter.snapshot.log import MAX_RECORD_BYTES

STORED = {
    "type": "BlockStored",
    "block_hashes": [14549860257199381808, 7315767174135168903],
    "parent_block_hash": None,
    "token_ids": list(range(64)),
    "block_size": 32,
    "lora_id": 4,
    "medium": "GPU",
    "lora_name": "lora-b",
    "extra_keys": [["lora-b", "salt"], ["lora-b"]],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
}
REMOVED = {"type": "BlockRemoved", "block_hashes": [7315767174135168903], "medium": "GPU", "group_idx": 0}
SIGNED = {"block_hashes": [-1512444685475629517], "token_ids": list(range(16)), "block_size": 16, "lora_name": None}

CORPUS = [
    msgspec.msgpack.encode([1795427711.7, events, 0])
    for events in (
        [],
        [STORED],
        [STORED, STORED | {"parent_block_hash": 7315767174135168903, "block_hashes": [1, 2]}, REMOVED],
        [STORED | {"extra_keys": [None, ["an image", 3]], "kv_cache_spec_kind": "sliding_window"}],
        [{"type": "BlockStored", **SIGNED}, {"type": "AllBlocksCleared"}],
        [["BlockStored", *list(STORED.values())[1:]], ["BlockRemoved", *list(REMOVED.values())[1:]], ["AllBlocksCleared"]],
        [STORED, {"type": "BlockStored", "block_hashes": [7315767174135168903], "token_ids": [], "medium": "CPU"}],
    )
]


def target(data: bytes) -> None:
    holdings = Holdings(0, 1, max_blocks=50)
    held: set[tuple[str, int]] = set()
    for _ in range(2):  # what is announced again changes nothing that was not true already
        try:
            statements = holdings.apply(decode(data))
        except KvEventError:
            return
        for statement in statements:
            record = encode_statement(statement)
            assert len(record) <= MAX_RECORD_BYTES
            assert decode_statement(record) == statement
            match statement:
                case Held():
                    held |= {(statement.tier, name) for name in statement.names}
                case Dropped():
                    assert all((statement.tier, name) in held for name in statement.names)
                    held -= {(statement.tier, name) for name in statement.names}
                case Cleared():
                    held.clear()
        assert len(holdings) <= 50
