"""What flow control counts, in memory and as metrics."""

from shunter.picker.core.buckets import WAITS_S
from shunter.picker.core.flow import BandSettings, FlowSettings
from shunter.picker.core.queue_counters import OUTCOMES, ROWS
from shunter.picker.core.queue_samples import queue_samples
from shunter.picker.core.tables import COUNTERS_BYTES, Counters, fold
from shunter.picker.plugins.flow_policies import FirstCome, GlobalStrict, StaticLimit
from shunter.picker.shell.metrics import as_metrics

PLAIN = BandSettings(fairness=GlobalStrict(), ordering=FirstCome(), max_requests=10, max_bytes=1000)
SETTINGS = FlowSettings(default=PLAIN, limits=StaticLimit(), max_requests=20)


def make_counters():
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=1, now_ns=1)
    counters.queue.begin(SETTINGS)
    return counters


def test_workers_add_up():
    one, other = make_counters(), make_counters()
    one.queue.wait(10, 5, 500, PLAIN)
    one.queue.wait(10, -2, -200, PLAIN)
    one.queue.wait(-1, 1, 1, PLAIN)
    other.queue.wait(10, 2, 200, PLAIN)
    one.queue.read(0.25)
    other.queue.read(0.5)
    for waited_s in (0.0, 0.3, 100.0):
        one.queue.end(10, "Dispatched", waited_s)
    other.queue.end(10, "EvictedTTL", 60.0)
    total = fold([one.tally(), other.tally()]).queue
    assert (total.saturation, total.max_requests) == (0.5, 20)
    band = total.bands[10]
    assert (band.requests, band.size_bytes, band.max_requests) == (5, 500, 10)
    assert dict(zip(OUTCOMES, band.outcomes, strict=True))["Dispatched"] == 3
    assert dict(zip(OUTCOMES, band.outcomes, strict=True))["EvictedTTL"] == 1
    assert [at for at, count in enumerate(band.waits) if count] == [0, WAITS_S.index(0.5), len(WAITS_S)]
    assert band.waited_us == 100_300_000
    assert total.bands[-1].requests == 1


def test_what_waited_before_a_dead_worker_waits_no_longer_and_totals_go_on():
    counters = make_counters()
    counters.queue.wait(0, 3, 300, PLAIN)
    counters.queue.end(0, "Dispatched", 0.1)
    counters.clear_in_flight()
    assert counters.tally().queue.bands[0].requests == 0
    counters.begin(2, pid=2, now_ns=2)
    counters.queue.begin(SETTINGS)
    counters.queue.end(0, "Dispatched", 0.1)
    assert counters.tally().queue.bands[0].outcomes[0] == 2


def test_more_priorities_than_there_is_room_for_are_counted_with_the_last():
    counters = make_counters()
    for priority in range(ROWS + 5):
        counters.queue.end(priority, "Dispatched", 0.0)
    tally = counters.tally().queue
    assert len(tally.bands) == ROWS
    assert sum(band.outcomes[0] for band in tally.bands.values()) == ROWS + 5


def test_the_metrics_have_the_names_and_labels_of_the_reference():
    counters = make_counters()
    counters.queue.wait(10, 5, 500, PLAIN)
    counters.queue.read(0.5)
    counters.queue.end(10, "Dispatched", 0.3)
    samples = {
        (sample.name.removeprefix("llm_d_epp_flow_control_"), *sorted(sample.labels.values())): sample.value
        for samples in queue_samples(counters.tally().queue, "p")
        for metric in as_metrics(samples)
        for sample in metric.samples
    }
    assert samples["queue_size", "10", "p"] == 5
    assert samples["queue_bytes", "10", "p"] == 500
    assert samples["capacity_utilization_requests", "10", "p"] == 0.5
    assert samples["global_capacity_utilization_requests", "p"] == 0.25
    assert samples["global_capacity_utilization_bytes", "p"] == 0.0
    assert samples["pool_saturation", "effective", "p"] == 0.5
    assert samples["requests_total", "10", "Dispatched", "p"] == 1
    assert samples["request_queue_duration_seconds_bucket", "+Inf", "10", "Dispatched", "p"] == 1
    assert samples["request_queue_duration_seconds_bucket", "0.25", "10", "Dispatched", "p"] == 0
    assert samples["request_queue_duration_seconds_bucket", "0.5", "10", "Dispatched", "p"] == 1
    assert samples["request_queue_duration_seconds_sum", "10", "Dispatched", "p"] == 0.3


def test_without_flow_control_there_are_none():
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=1, now_ns=1)
    assert list(queue_samples(counters.tally().queue, "p")) == []
