"""What Prometheus reads, of what its source tells: every name and every label is one that core.families has."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shunter.picker.core import families
from shunter.picker.core.account_book import ACCOUNT_WORDS, FIGURES, STRANGE_ROWS, AccountBook, ClassTally
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.class_samples import class_samples
from shunter.picker.core.families import Twin
from shunter.picker.core.learned import Learned
from shunter.picker.core.learned import Row as LearnedRow
from shunter.picker.core.overview import Overview, Row, look
from shunter.picker.core.queue_counters import BandTally, QueueTally
from shunter.picker.core.samples import Samples, fold
from shunter.picker.core.service_levels import Level, LevelTally
from shunter.picker.core.shadow import Account
from shunter.picker.core.tables import Tally
from shunter.picker.shell.metrics import Metrics, as_metrics, everything
from shunter.picker.shell.report import WorkerReport


class Source:
    """A picker of which everything is known."""

    def overview(self):
        return Overview(
            snapshot_age_s=0.1,
            trouble=None,
            picks=3,
            refusals={"BadRequest": 2},
            complaints={"angry": "OSError: no", "blind": "it needs to see responses"},
            endpoints=(endpoint("10.0.0.1:8000", waiting=2.0), endpoint("10.0.0.2:8000", waiting=4.0)),
        )

    def tally(self):
        seen = {name: Histogram([1, *[0] * len(figure.bounds)], 0.001) for name, figure in FIGURES.items()}
        return Tally(
            rulings={("InferenceModelRewrite default/canary", "chat", "chat-v2"): 4},
            classes={
                ("chat", "chat-v1", "default-flow", 0): ClassTally(2, 1, {"ModelServerError": 1}, {"decode-only": 2}, seen),
                ("chat", "chat-v1", "tenant", 1): ClassTally(
                    3, 0, {}, {"decode-only": 1, "prefill-decode": 2}, {"duration": seen["duration"]}
                ),
            },
            levels={"chat": LevelTally([10, 0, 5], [9, 0, 5]), "former": LevelTally()},
            queue=QueueTally(0.5, 20, 0, {10: BandTally(requests=5)}),
        )

    def workers(self):
        own = {"address": "", "seat": 0, "life": 1, "ready": True, "hindrances": (), "restarts": {"signal": 1}}
        return [
            WorkerReport(worker=name, pid=pid, streams=7, certificate_expires_s=2e9, **own)
            for name, pid in (("0", 1), ("collector", 0))
        ]

    def pool(self):
        return "default"

    def reloads(self):
        return {"done": 1}

    def learned(self):
        row = LearnedRow(slot=0, incarnation=1, endpoint="10.0.0.1:8000", requests=99, prefill_per_s=1.0, decode_per_s=1.0)
        row.failing = 1.0
        return Learned(blind=3, statuses={"2xx": 1}, flags={"UF": 1}, rows={"0/1": row})

    def service_levels(self):
        return [Level(name="chat", target=0.99, ttft_s=0.5, e2e_s=30.0)]

    def shadow(self):
        return Account(decided=5, differed=3, refused=1, spent_s=0.25)


def endpoint(authority, **figures):
    own = {"name": authority, "pools": (), "ready": True, "health": "fresh", "age_s": 0.1, "reason": "", "in_flight": 1}
    counts = dict.fromkeys(("prefill_tokens", "decode_tokens", "picks", "prefix_hit_blocks", "prefix_blocks"), 1)
    return Row(**{"authority": authority, "running": 1.0, "kv_usage": 0.5} | own | counts | figures)


def page(names="current"):
    return {family.name: family for family in text_string_to_metric_families(Metrics(Source(), names).render().decode())}


def value(name, names="current", /, **labels):
    found = [
        sample.value
        for family in page(names).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, name
    return sum(found)


def test_what_rarely_happens_is_counted_from_the_beginning():
    """Prometheus sees no growth in a series that begins with 1."""
    assert value("shunter_picker_worker_restarts_total", worker="0", reason="hung") == 0
    assert value("shunter_picker_worker_restarts_total", worker="0", reason="signal") == 1
    assert value("shunter_picker_config_reloads_total", result="rejected") == 0


def test_a_page_has_every_family_and_nothing_else():
    shown = {samples.family.name for samples in everything(Source())}
    assert shown == {family.name for family in families.families()}


@pytest.mark.parametrize("names", ["current", "both", "legacy"])
def test_every_series_has_the_name_the_kind_and_the_labels_of_its_family(names):
    known = {family.name: family for family in families.families()}
    twins = {twin.name: (twin, family) for family in families.families() for twin in family.twins}
    seen = set()
    for name, found in page(names).items():
        full = name + "_total" if found.type == "counter" else name
        labels, family = (known[full].labels, known[full]) if full in known else (twins[full][0].labels, twins[full][1])
        assert found.type == family.kind
        assert (full in twins and names == "current") is False
        assert (full in known and names == "legacy" and bool(family.twins)) is False
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(labels), sample
        seen.add(full)
    expected = {"current": known.keys(), "both": known.keys() | twins.keys()}.get(names)
    assert expected is None or seen == expected


def test_names_are_told_once():
    names = [name for family in families.families() for name in (family.name, *(twin.name for twin in family.twins))]
    assert len(names) == len(set(names))


def test_a_twin_is_the_sum_over_the_labels_that_it_lacks():
    assert value("llm_d_epp_request_total", fairness_id="tenant") == 3
    both = {"model_name": "chat", "target_model_name": "chat-v1"}
    assert value("inference_objective_request_total", "both", **both, priority="1") == 3
    assert value("inference_objective_running_requests", "legacy", model_name="chat") == 1
    assert value("inference_objective_request_duration_seconds_count", "legacy", **both) == 2
    assert value("inference_pool_per_pod_queue_size", "legacy", name="default", model_server_pod="10.0.0.2:8000") == 4


def test_sums_under_one_name_are_of_one_kind():
    samples = Samples(families.REQUESTS, {("a", "a", "x", "0"): 1, ("a", "a", "y", "0"): Histogram([1])})
    with pytest.raises(TypeError, match="int and Histogram"):
        fold(samples, Twin("twin", ("model_name",)))
    with pytest.raises(TypeError, match="is a counter, and Histogram is none"):
        list(as_metrics(samples))


def test_stages_are_told_by_model():
    stages = {sample.labels["decision_type"]: sample.value for sample in page()["llm_d_epp_disagg_decision"].samples}
    assert stages == {"decode-only": 3, "prefill-decode": 2}


def test_averages_come_with_how_much_endpoints_differ():
    assert value("llm_d_epp_average_queue_size", name="default") == 3
    assert value("llm_d_epp_std_dev_queue_size", name="default") == 1
    assert value("llm_d_epp_per_endpoint_queue_size", model_server_endpoint="10.0.0.2:8000") == 4


def test_what_a_pick_takes_is_of_all_classes_together():
    assert value("llm_d_epp_request_processing_duration_seconds_count") == 1
    assert value("llm_d_epp_prefix_indexer_hit_ratio_bucket", le="0.0") == 1


def test_the_levels_in_force_are_shown_with_their_promises():
    assert value("shunter_picker_service_level_requests_total", level="chat", signal="ttft") == 10
    assert value("shunter_picker_service_level_good_total", level="chat", signal="e2e") == 5
    assert value("shunter_picker_service_level_target_ratio", level="chat", signal="ttft") == 0.99
    assert value("shunter_picker_service_level_threshold_seconds", level="chat", signal="e2e") == 30
    shown = {
        (sample.labels["level"], sample.labels["signal"]) for sample in page()["shunter_picker_service_level_good"].samples
    }
    assert shown == {("chat", "ttft"), ("chat", "e2e")}


def test_the_load_asks_for_endpoints():
    assert value("shunter_picker_desired_replicas", role="both") == 2


def test_only_the_workers_streams_are_ext_proc_streams():
    assert value("llm_d_epp_extproc_streams_inflight") == 7


def test_what_the_shadow_would_do_is_a_metric():
    results = {each.labels["result"]: each.value for each in page()["shunter_picker_shadow_decisions"].samples}
    assert results == {"agreed": 2, "differed": 2, "refused": 1}
    assert value("shunter_picker_shadow_seconds_total") == 0.25


def test_a_plugin_that_is_complained_of_is_a_metric():
    complaints = page()["shunter_picker_plugin_complaints"].samples
    assert [(sample.labels, sample.value) for sample in complaints] == [({"plugin": "angry"}, 1.0), ({"plugin": "blind"}, 1.0)]


def test_a_hostile_client_can_make_a_page_of_a_few_thousand_lines():
    """Ten thousand models for ten thousand tenants, each with all that can be known of a request."""
    book = AccountBook(memoryview(bytearray(8 * ACCOUNT_WORDS)).cast("Q"))
    book.begin()
    values = [0.5]
    for at in range(10_000):
        row = book.row((f"model-{at}", f"target-{at}", f"tenant-{at % 7}", 0), set)
        book.begin_requests(row, 1)
        for name in FIGURES:
            book.distribute(row, name, values)
    lines = [
        sample
        for samples in class_samples(book.tally(), book.folded, book.given_up)
        for metric in as_metrics(samples)
        for sample in metric.samples
    ]
    assert len(lines) < 17_000
    folded = [sample.value for sample in lines if sample.name == "shunter_picker_folded_requests_total"]
    assert folded == [10_000 - STRANGE_ROWS]
    assert sum(sample.value for sample in lines if sample.name == "llm_d_epp_request_total") == 10_000


class Newcomer(Source):
    """One that has no snapshot yet, or needs none."""

    def __init__(self, *hindrances):
        self._hindrances = hindrances

    def overview(self):
        return look(None, None, self.tally(), 0)

    def hindrances(self):
        return self._hindrances


def test_a_body_router_has_no_pool_that_could_be_empty():
    pools = {families.SNAPSHOT_AGE.name, families.READY.name}
    assert pools <= {samples.family.name for samples in everything(Newcomer("no snapshot yet"))}
    assert not pools & {samples.family.name for samples in everything(Newcomer())}
