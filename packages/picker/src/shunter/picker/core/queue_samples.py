"""What flow control counted, as it is shown: under the reference's names, without the labels that clients choose."""

from collections.abc import Iterator

from shunter.picker.core import families
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.queue_counters import OUTCOMES, QueueTally
from shunter.picker.core.samples import Samples, by_label

__all__ = ["queue_samples"]


def queue_samples(queue: QueueTally, pool: str) -> Iterator[Samples]:
    """Yield all of them; nothing where there is no flow control."""
    if not queue.bands:
        return
    bands = {(str(priority), pool): band for priority, band in sorted(queue.bands.items(), reverse=True)}
    yield Samples(families.QUEUE_SIZE, {key: band.requests for key, band in bands.items()})
    yield Samples(families.QUEUE_BYTES, {key: band.size_bytes for key, band in bands.items()})
    yield Samples(families.BAND_REQUESTS, {key: _share(band.requests, band.max_requests) for key, band in bands.items()})
    yield Samples(families.BAND_BYTES, {key: _share(band.size_bytes, band.max_bytes) for key, band in bands.items()})
    ends = {
        (outcome, *key): count for key, band in bands.items() for outcome, count in zip(OUTCOMES, band.outcomes, strict=True)
    }
    yield Samples(families.FLOW_REQUESTS, ends)
    waits = {("Dispatched", *key): Histogram(band.waits, band.waited_us / 1e6) for key, band in bands.items()}
    yield Samples(families.QUEUE_DURATION, waits)
    waiting = sum(band.requests for band in bands.values())
    yield by_label(families.GLOBAL_REQUESTS, {pool: _share(waiting, queue.max_requests)})
    waiting_bytes = sum(band.size_bytes for band in bands.values())
    yield by_label(families.GLOBAL_BYTES, {pool: _share(waiting_bytes, queue.max_bytes)})
    yield Samples(families.SATURATION, {(pool, "effective"): queue.saturation})


def _share(value: int, most: int) -> float:
    return value / most if most else 0.0
