"""The two snapshots, Topology (who exists) and Load (how they are), and their bytes.

Rules of evolution, which the golden files in the tests enforce:

1. Structs are ``array_like``: fields are only ever appended, each with a default. Nothing is renamed, reordered or removed.
2. A reader ignores fields it does not know; an older writer's missing fields take their defaults.
3. ``SCHEMA`` counts incompatible changes. A reader refuses a snapshot whose schema is not its own.

Identity: an endpoint is ``(slot, incarnation)``. The scraper hands out small slot numbers, keeps them over its own restart and
raises the incarnation whenever a slot gets a new owner; everything shared between processes is keyed by this pair and never by
a position in a list, because two readers may look at different generations.

Time: ``*_ns`` are nanoseconds of CLOCK_MONOTONIC, one clock for all processes of a machine; ``NEVER`` (0): not yet.

Unknown is ``None``, never zero: a fabricated zero attracts traffic.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, TypeVar

import msgspec
from msgspec.structs import astuple

from shunter.snapshot.errors import SnapshotError

__all__ = [
    "NEVER",
    "SCHEMA",
    "Endpoint",
    "Health",
    "InferenceModel",
    "Load",
    "LoadRow",
    "Objective",
    "Pool",
    "Rewrite",
    "RewriteRule",
    "Target",
    "Topology",
    "decode_load",
    "decode_topology",
    "encode",
]

SCHEMA = 1
NEVER = 0


class Health(IntEnum):
    """What the last scrape of an endpoint was."""

    UNSCRAPED = 0  # no answer yet: its load is unknown
    FRESH = 1  # the last scrape succeeded
    FAILED = 2  # the last scrape failed; the row holds the last values known, with their age
    UNREACHABLE = 3  # the same, and nobody accepts connections where requests would go


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Base of everything in a snapshot."""


class Pool(Record, frozen=True, array_like=True, kw_only=True):
    """An InferencePool (GIE v1; v1alpha2 is converted by the scraper)."""

    name: str
    namespace: str = "default"
    selector: dict[str, str] = {}
    target_ports: tuple[int, ...] = ()
    app_protocol: str = "http"  # or kubernetes.io/h2c
    failure_mode: str = "FailClose"  # or FailOpen


class Endpoint(Record, frozen=True, array_like=True, kw_only=True, dict=True):
    """One place a request can go: an address and port of a model server (one data-parallel rank)."""

    slot: int
    incarnation: int
    name: str
    namespace: str = "default"
    address: str  # an IP address, without brackets
    port: int
    rank: int = 0  # which of the pool's target ports, counted from 0
    pools: tuple[int, ...] = ()  # indices into Topology.pools
    labels: dict[str, str] = {}
    ready: bool = True
    engine: str = "vllm"  # the dialect its metrics are read in
    models: tuple[str, ...] = ()  # as it lists them itself, where somebody asked it; empty: not known
    adapters: tuple[str, ...] = ()  # those of them that it lists with a parent: others may lack them

    @cached_property
    def authority(self) -> str:
        """``address:port`` as the endpoint picker protocol writes it; IPv6 in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Objective(Record, frozen=True, array_like=True, kw_only=True):
    """An InferenceObjective: a request names it by header and takes its priority."""

    name: str
    namespace: str = "default"
    pool: str
    priority: int | None = None


class Target(Record, frozen=True, array_like=True, kw_only=True):
    """One weighted target model of a rewrite or an InferenceModel."""

    model: str
    weight: int | None = None  # 1 to 1,000,000


class RewriteRule(Record, frozen=True, array_like=True, kw_only=True):
    """One rule of an InferenceModelRewrite."""

    models: tuple[str, ...] = ()  # exact client model names; empty matches all
    targets: tuple[Target, ...]


class Rewrite(Record, frozen=True, array_like=True, kw_only=True):
    """An InferenceModelRewrite; ``created`` (RFC 3339) orders resources of equal precedence, oldest first.

    Requests that say the same in the header ``sticky``, if it names one, are for the same target.
    """

    name: str
    namespace: str = "default"
    pool: str
    created: str = ""
    rules: tuple[RewriteRule, ...]
    sticky: str = ""


class InferenceModel(Record, frozen=True, array_like=True, kw_only=True):
    """An InferenceModel v1alpha2 (GIE v0.3): a client model name, its criticality and weighted targets."""

    name: str
    namespace: str = "default"
    pool: str
    model: str
    criticality: str | None = None  # Critical, Standard, Sheddable
    targets: tuple[Target, ...] = ()
    created: str = ""


class Topology(Record, frozen=True, array_like=True, kw_only=True):
    """Who exists: changes when the cluster or the endpoint file does."""

    schema: int = SCHEMA
    epoch: int  # names one run of the writer
    generation: int  # rises with every published topology, also over restarts
    pools: tuple[Pool, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    objectives: tuple[Objective, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    models: tuple[InferenceModel, ...] = ()


class LoadRow(Record, frozen=True, array_like=True, kw_only=True):
    """What is known of one endpoint's load. Counts are requests; ``kv_usage`` is a fraction from 0 to 1."""

    slot: int
    incarnation: int
    health: Health = Health.UNSCRAPED
    sampled_ns: int = NEVER  # when the values below were true
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    block_size: int | None = None  # tokens
    num_blocks: int | None = None
    max_adapters: int | None = None
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    failures: int = 0  # in a row
    reason: str = ""  # of the last failure, for people

    def age_s(self, now_ns: int) -> float:
        """Seconds since the values were true; infinite if they never were (or lie in the future: another boot's clock)."""
        if self.sampled_ns == NEVER or self.sampled_ns > now_ns:
            return float("inf")
        return (now_ns - self.sampled_ns) / 1e9


class Load(Record, frozen=True, array_like=True, kw_only=True):
    """How everybody is: one column per field of LoadRow, aligned with each other.

    Belongs to exactly one topology: ``epoch`` and ``topology_generation`` must match it. Columns instead of rows because a
    reader decodes and scores a thousand endpoints twenty times a second.
    """

    schema: int = SCHEMA
    epoch: int
    topology_generation: int
    published_ns: int = NEVER
    slot: tuple[int, ...] = ()
    incarnation: tuple[int, ...] = ()
    health: tuple[Health, ...] = ()
    sampled_ns: tuple[int, ...] = ()
    waiting: tuple[float | None, ...] = ()
    running: tuple[float | None, ...] = ()
    kv_usage: tuple[float | None, ...] = ()
    block_size: tuple[int | None, ...] = ()
    num_blocks: tuple[int | None, ...] = ()
    max_adapters: tuple[int | None, ...] = ()
    running_adapters: tuple[tuple[str, ...], ...] = ()
    waiting_adapters: tuple[tuple[str, ...], ...] = ()
    failures: tuple[int, ...] = ()
    reason: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[LoadRow], *, epoch: int, topology_generation: int, published_ns: int = NEVER) -> "Load":
        """Turn rows into columns."""
        # No rows have no columns: hence not strict.
        columns: dict[str, Any] = dict(zip(LoadRow.__struct_fields__, zip(*map(astuple, rows), strict=True), strict=False))
        return cls(epoch=epoch, topology_generation=topology_generation, published_ns=published_ns, **columns)

    def row(self, index: int) -> LoadRow:
        """Return one endpoint's row; a column that an older writer did not send takes LoadRow's default."""
        columns = ((name, getattr(self, name)) for name in LoadRow.__struct_fields__)
        return LoadRow(**{name: column[index] for name, column in columns if column})

    def rows(self) -> tuple[LoadRow, ...]:
        """Return all rows."""
        return tuple(self.row(index) for index in range(len(self.slot)))


Snapshot = TypeVar("Snapshot", Topology, Load)
# What msgspec raises on foreign bytes: besides its own errors, invalid UTF-8 and bottomless nesting come through as they are.
DAMAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encoder = msgspec.msgpack.Encoder()
_topology = msgspec.msgpack.Decoder(Topology)
_load = msgspec.msgpack.Decoder(Load)


def encode(snapshot: Topology | Load) -> bytes:
    """Return the MessagePack bytes of a snapshot."""
    return _encoder.encode(snapshot)


def decode_topology(data: bytes | memoryview) -> Topology:
    """Return the Topology in ``data``; raise SnapshotError if it is anything else."""
    return _checked(_topology, data)


def decode_load(data: bytes | memoryview) -> Load:
    """Return the Load in ``data``; raise SnapshotError if it is anything else."""
    return _checked(_load, data)


def _checked(decoder: "msgspec.msgpack.Decoder[Snapshot]", data: bytes | memoryview) -> Snapshot:
    try:
        snapshot = decoder.decode(data)
    except DAMAGE as error:
        # Of a newer schema everything but the first field may look wrong: say so instead.
        raise SnapshotError(_foreign_schema(data) or f"not a snapshot: {error}") from error
    if snapshot.schema != SCHEMA:
        raise SnapshotError(_foreign_schema(data) or "not a snapshot")
    return snapshot


def _foreign_schema(data: bytes | memoryview) -> str | None:
    try:
        head = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
        schema = msgspec.msgpack.decode(head[0], type=int)
    except (*DAMAGE, IndexError):
        return None
    if schema == SCHEMA:
        return None
    return f"the writer speaks schema {schema}, this reader {SCHEMA}: run the same version of scraper and picker"
