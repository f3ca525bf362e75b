"""What Envoy's records taught, as it is shown: of all requests, picked or not, and of each endpoint.

Of an endpoint there are counts and sums, whose quotients are averages. A histogram for each would be 35 series more: 70,000 at
a thousand endpoints.
"""

from collections.abc import Iterator

from shunter.picker.core import families
from shunter.picker.core.learned import Learned, outliers
from shunter.picker.core.samples import Samples, Sum, by_label, single

__all__ = ["outcome_samples"]


def outcome_samples(learned: Learned) -> Iterator[Samples]:
    """Yield all of them."""
    yield single(families.RECORDS, learned.records)
    yield single(families.UNREAD, learned.unread)
    yield single(families.REFUSED_PEERS, learned.refused_peers)
    yield single(families.STRANGERS, learned.strangers)
    yield single(families.BYPASSED, learned.blind)
    yield single(families.FALLBACKS, learned.fallbacks)
    yield single(families.RETRIES, learned.retries)
    yield single(families.ADOPTED, learned.adopted)
    yield single(families.EXPIRED, learned.expired)
    yield single(families.ADOPTING, learned.adopting)
    yield by_label(families.RESPONSES, learned.statuses)
    yield by_label(families.FLAGS, learned.flags)
    rows = sorted(learned.rows.values(), key=lambda row: row.slot)
    yield by_label(families.ENDPOINT_REQUESTS, {row.endpoint: row.requests for row in rows})
    yield by_label(families.ENDPOINT_FAILURES, {row.endpoint: row.failures for row in rows})
    yield by_label(families.ENDPOINT_TTFT, {row.endpoint: Sum(row.ttfts, row.ttft_total_s) for row in rows})
    prefill = {row.endpoint: row.prefill_per_s for row in rows if row.prefill_per_s is not None}
    yield by_label(families.ENDPOINT_PREFILL, prefill)
    decode = {row.endpoint: row.decode_per_s for row in rows if row.decode_per_s is not None}
    yield by_label(families.ENDPOINT_DECODE, decode)
    yield by_label(families.ENDPOINT_OUTLIER, {row.endpoint: 1 for row in outliers(learned)})
