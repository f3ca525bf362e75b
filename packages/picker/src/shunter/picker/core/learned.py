"""What Envoy's records taught about requests and endpoints, as one value that the collector publishes and others read.

Totals only grow. They are the collector's whole memory: one that is started again reads what its predecessor published last
and goes on from there. Rows are keyed by (slot, incarnation); ``endpoint`` is there for people.

Averages of an endpoint are running ones, over its last few dozen requests; ``None``: not enough is known.
"""

from statistics import median_low

import msgspec

from shunter.picker.core.ledger import Key
from shunter.picker.errors import PickerError

__all__ = ["Learned", "Row", "decode_learned", "encode_learned", "outliers", "row_key"]

# An endpoint is called an outlier if its time to first token is this many times the median of all, or if this share of its
# requests failed; of fewer requests nothing is said.
SLOW = 3.0
FAILING = 0.2
FEWEST = 20

SCHEMA = 2


class Row(msgspec.Struct, kw_only=True):
    """One endpoint. Times in seconds, rates in tokens per second."""

    slot: int
    incarnation: int
    endpoint: str  # ip:port
    requests: int = 0  # that it ended, as far as told
    failures: int = 0  # of these: status 500 and above, or cut off by the endpoint
    ttft_total_s: float = 0.0
    ttfts: int = 0
    ttft_s: float | None = None  # of streamed responses
    prefill_per_s: float | None = None  # uncached prompt tokens; queueing is in the time, so an engine under load looks slower
    decode_per_s: float | None = None  # of one response
    failing: float = 0.0  # share of the last requests that failed


class Learned(msgspec.Struct, kw_only=True):
    """Everything at once."""

    schema: int = SCHEMA
    records: int = 0  # of requests that ended
    unread: int = 0  # entries that were no records
    refused_peers: int = 0  # connections that did not speak the protocol, or were too many
    strangers: int = 0  # records of endpoints that are not in the snapshot
    blind: int = 0  # requests that went without a pick
    fallbacks: int = 0  # requests that another endpoint served than the picker's first choice
    retries: int = 0  # attempts beyond the first
    adopted: int = 0  # requests that this process keeps the account of, because nobody else does; so far
    expired: int = 0  # given up since no record came any more, of these and of those whose worker is told
    adopting: int = 0  # of the adopted, in flight now
    statuses: dict[str, int] = msgspec.field(
        default_factory=dict[str, int]
    )  # "2xx" …; without a response "left" if the client did, else "none"
    flags: dict[str, int] = msgspec.field(default_factory=dict[str, int])  # Envoy's, of requests that did not end well
    rows: dict[str, Row] = msgspec.field(default_factory=dict[str, Row])  # by "slot/incarnation"

    def row(self, key: Key) -> Row | None:
        """Return one endpoint's row."""
        return self.rows.get(row_key(key))


def row_key(key: Key) -> str:
    """Return the key of an endpoint's row."""
    return f"{key[0]}/{key[1]}"


def outliers(learned: Learned) -> list[Row]:
    """Return the endpoints that are much slower than the others, or fail."""
    rows = [row for row in learned.rows.values() if row.requests >= FEWEST]
    times = [row.ttft_s for row in rows if row.ttft_s is not None]
    usual_s = median_low(times) if times else 0.0
    return [row for row in rows if row.failing > FAILING or (row.ttft_s or 0.0) > SLOW * usual_s > 0]


_decoder = msgspec.msgpack.Decoder(Learned)


def encode_learned(learned: Learned) -> bytes:
    """Return its bytes."""
    return msgspec.msgpack.encode(learned)


def decode_learned(data: bytes) -> Learned:
    """Return what was learnt; raise PickerError if the bytes are anything else, or another release's."""
    try:
        learned = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise PickerError(f"not what a collector learnt: {error}") from error
    if learned.schema != SCHEMA:
        raise PickerError("what was learnt was learnt by another release")
    return learned
