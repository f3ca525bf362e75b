"""What counts as load in flight, for those who go by the tokens that endpoints have still to compute."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Setting
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, register

__all__ = ["InflightLoad", "find_load"]

Count = Annotated[int, Meta(ge=0)]


@register("inflight-load-producer", Kind.PRODUCER)
class InflightLoad(Plugin, frozen=True):
    """The account of requests in flight, which is always there; and what counts in it as tokens in flight.

    Those are the uncached prompt tokens that an endpoint has still to compute (``Ledger.prefill_backlog``), with
    addEstimatedOutputTokens also those that its answers are expected to have until they end. Their length is learnt and bounded
    by the request's own limit, so the reference's outputRatio and maxEstimatedOutputTokens are refused; and the workers always
    share the account. Source: llm-d's plugin of that name.
    """

    add_estimated_output_tokens: bool = False
    output_ratio: float = 1.5
    max_estimated_output_tokens: Count | None = None
    prefix_match_info_producer_name: str = ""  # what is cached, the account knows anyway
    sync_cross_replica_state: bool = True

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        if self.output_ratio != 1.5 or self.max_estimated_output_tokens is not None:
            raise ValueError("how long answers are is learnt; remove outputRatio and maxEstimatedOutputTokens")
        if not self.sync_cross_replica_state:
            raise ValueError("workers always share the account; remove syncCrossReplicaState")

    @classmethod
    def all_references(cls) -> Sequence[Reference]:
        """Return its references: no prefixes need to be remembered for its sake."""
        return (Reference("prefixMatchInfoProducerName", Kind.PRODUCER),)

    def tokens(self, fleet: Fleet, positions: Iterable[int] | None, now_ns: int) -> list[float]:
        """Return the tokens in flight of these candidates; None: of all."""
        ledger = fleet.ledger
        keys = fleet.keys if positions is None else [fleet.key(at) for at in positions]
        backlogs = ledger.prefill_backlogs(keys, now_ns)
        if not self.add_estimated_output_tokens:
            return backlogs
        return [backlog + ledger.decode_tokens(key) for backlog, key in zip(backlogs, keys, strict=True)]


def find_load(setting: Setting, name: str) -> InflightLoad:
    """Return what a plugin's inFlightLoadProducerName means; without a configuration around it, the defaults."""
    found = setting.find(name) if name else None
    return found if isinstance(found, InflightLoad) else InflightLoad()
