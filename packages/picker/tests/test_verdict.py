"""What is wrong is said in a sentence, the gravest first, and leads to a section of the runbook."""

import inspect
import re

import pytest

from shunter.picker.core import thresholds
from shunter.picker.core import verdict as judging
from shunter.picker.core.alerts import ALERTS
from shunter.picker.core.overview import Overview, Row
from shunter.picker.core.pulse import Recent
from shunter.picker.core.verdict import Post, judge

WELL = Recent(over_s=60, picks=600, picks_per_s=10.0, records=600)


def row(n, **facts):
    usual = {"pools": (), "ready": True, "health": "fresh", "age_s": 0.1, "waiting": 0.0, "running": 0.0, "kv_usage": 0.0}
    counts = {"in_flight": 0, "prefill_tokens": 0, "decode_tokens": 0, "picks": 0, "prefix_hit_blocks": 0, "prefix_blocks": 0}
    return Row(**({"name": f"pod-{n}", "authority": f"10.0.0.{n}:8000", "reason": ""} | usual | counts | facts))


def overview(*rows, **facts):
    usual = {"snapshot_age_s": 0.1, "trouble": None, "picks": 1, "refusals": {}, "complaints": {}}
    return Overview(endpoints=rows or (row(1), row(2)), **(usual | facts))


def post(worker="0", *, ready=True, hindrances=(), expires_s=None):
    return Post(worker=worker, ready=ready, hindrances=hindrances, certificate_expires_s=expires_s)


def recent(**facts):
    return Recent(**({"over_s": 60, "picks": 95, "records": 100} | facts))


def test_all_is_well():
    verdict = judge(overview(), WELL, posts=[post()])
    assert verdict.state == "well"
    assert verdict.sentence == "All is well: 2 endpoints ready, 10.0 picks a second, nothing refused."


@pytest.mark.parametrize(
    ("state", "alert", "words", "given"),
    [
        (
            "critical",
            "SnapshotOld",
            "is the scraper running",
            {"overview": overview(snapshot_age_s=None), "hindrances": ["no snapshot yet"]},
        ),
        ("critical", "SnapshotOld", "cannot be read: torn", {"overview": overview(trouble="torn")}),
        ("warning", "SnapshotOld", "silent for 9 s", {"overview": overview(snapshot_age_s=9.0)}),
        ("critical", "SnapshotOld", "silent for 90 s", {"overview": overview(snapshot_age_s=90.0)}),
        ("critical", "PickerDown", "draining", {"hindrances": ["draining"]}),
        (
            "warning",
            "WorkerCrashLoop",
            "Worker 1 is not ready: not running",
            {"posts": [post("1", ready=False, hindrances=("not running",))]},
        ),
        (
            "warning",
            "WorkerCrashLoop",
            "The collector was started again twice in the last minute (signal)",
            {"recent": recent(restarts={"collector signal": 2})},
        ),
        (
            "warning",
            "ReplicasApart",
            "Replicas do not know what the others send where: redis://h/1 does not answer.",
            {"posts": [post(), post("sharer", ready=False, hindrances=("redis://h/1 does not answer",))]},
        ),
        ("warning", "CertificateExpires", "worker 0 expires in 24 hours", {"posts": [post(expires_s=86_400.0)]}),
        ("warning", "WorkerHung", "Worker 1 was started again once", {"recent": recent(restarts={"1 hung": 1})}),
        ("critical", "ResponsesFail", "10 requests of the last minute, 10 %, failed", {"recent": recent(failed=10)}),
        ("warning", "ConfigRefused", "The last reload has failed", {"last_reload": "failed"}),
        ("critical", "NoReadyEndpoints", "No endpoint is ready", {"overview": overview(row(1, ready=False))}),
        ("critical", "PickerBypassed", "40 requests of the last minute, 40 %", {"recent": recent(bypassed=40)}),
        (
            "critical",
            "PicksNotFollowed",
            "80 requests of the last minute, 80 %, went to endpoints that are not in the snapshot",
            {"recent": recent(strangers=80)},
        ),
        (
            "critical",
            "RequestsShed",
            "95 requests of the last minute, 50 %, refused: 90 rejected-saturated, 5 evicted",
            {"recent": recent(refusals={"evicted": 5, "rejected-saturated": 90})},
        ),
        (
            "warning",
            "RequestsShed",
            "95 requests of the last minute, 50 %, refused: 90 BadRequest, 5 rejected-context-cancelled",
            {"recent": recent(refusals={"BadRequest": 90, "rejected-context-cancelled": 5})},
        ),
        (
            "warning",
            "RequestsShed",
            "1 request of the last minute, 1 %, refused",
            {"recent": recent(refusals={"rejected-saturated": 1})},
        ),
        (
            "warning",
            "PoolSaturated",
            "12 requests waiting in the picker; 90 % of the last minute's are the tenant loud's.",
            {"overview": overview(queued={0: 12}, saturation=1.0), "recent": recent(tenants={"loud": 90, "quiet": 10})},
        ),
        (
            "warning",
            "PoolSaturated",
            "12 requests waiting in the picker.",
            {"overview": overview(queued={0: 12}, saturation=1.0), "recent": recent(tenants={"only": 90})},
        ),
        (
            "warning",
            "PrefixHitsLost",
            "cached where they go to 3 %, those of the minutes before to 40 %: they begin otherwise, or caches were lost.",
            {"recent": recent(hit_share=0.03, usual_hit_share=0.4)},
        ),
        (
            "warning",
            "EndpointHidesLoad",
            "pod-1 says that it runs nothing, and has 7 requests: its gauges lie, or it hangs.",
            {"overview": overview(row(1, in_flight=7), row(2)), "recent": recent(hidden={"10.0.0.1:8000": 7})},
        ),
        ("warning", "PoolSaturated", "12 requests waiting", {"overview": overview(queued={0: 12}, saturation=1.0)}),
        (
            "warning",
            "EndpointUnscraped",
            "pod-1 does not answer: refused",
            {"overview": overview(row(1, health="unreachable", reason="refused"), row(2))},
        ),
        (
            "warning",
            "EndpointUnscraped",
            "pod-1 gives no metrics: no complete answer within 1 s; 28 requests in flight there.",
            {"overview": overview(row(1, health="failed", reason="no complete answer within 1 s", in_flight=28), row(2))},
        ),
        (
            "warning",
            "EndpointUnscraped",
            "2 of 3 endpoints (pod-1, pod-2) give no metrics",
            {"overview": overview(row(1, health="failed"), row(2, health="failed"), row(3))},
        ),
        ("warning", "EndpointOutlier", "pod-2 is much slower", {"outliers": ["10.0.0.2:8000"]}),
        ("warning", "ConfigRefused", "The last reload was rejected", {"last_reload": "rejected"}),
        (
            "warning",
            "PluginComplains",
            "Plugin angry: OSError: no",
            {"overview": overview(complaints={"angry": "OSError: no"})},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(state, alert, words, given):
    verdict = judge(given.pop("overview", overview()), given.pop("recent", WELL), given.pop("outliers", ()), **given)
    assert (verdict.state, verdict.findings[0].alert) == (state, alert)
    assert words in verdict.sentence


def test_a_dying_workers_few_requests_without_a_pick_wake_nobody():
    assert judge(overview(), recent(records=1000, bypassed=3)).state == "warning"


def test_the_last_requests_of_an_endpoint_that_went_are_no_news():
    assert judge(overview(), recent(picks=0, records=19, strangers=19)).state == "well"


def test_a_body_router_needs_no_snapshot():
    assert judge(overview(snapshot_age_s=None), WELL, posts=[post()]).state == "well"


def test_each_finding_leads_to_an_alert_that_there_is():
    named = set(re.findall(r'"([A-Z][a-z]+[A-Z]\w+)"', inspect.getsource(judging)))
    assert len(named) > 10
    assert named <= {alert.name for alert in ALERTS}


@pytest.mark.parametrize(
    ("alert", "compares", "threshold", "state", "measured"),
    [
        ("SnapshotOld", "> {:g}", thresholds.SNAPSHOT_LOST_S, "critical", lambda age_s: {"snapshot_age_s": age_s}),
        ("PickerBypassed", "> {:g}", thresholds.BYPASSED_SHARE, "critical", lambda share: {"bypassed": round(share * 1000)}),
        ("ResponsesFail", "> {:g}", thresholds.FAILED_SHARE, "critical", lambda share: {"failed": round(share * 1000)}),
        ("PicksNotFollowed", "> {:g}", thresholds.STRANGE_SHARE, "critical", lambda share: {"strangers": round(share * 1000)}),
        (
            "RequestsShed",
            "> {:g}",
            thresholds.REFUSED_SHARE,
            "critical",
            lambda share: {"refusals": {"evicted": round(share * 1000)}},
        ),
        ("PoolSaturated", ">= {:g}", thresholds.SATURATED, "warning", lambda level: {"saturation": level}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_page_and_the_alert_begin_at_the_same_number(alert, compares, threshold, state, measured):
    """A little beyond it the page says so, a little below it not, or less gravely; the alert's expression has the number."""

    def told(value):
        given = measured(value)
        seen = {name: given.pop(name) for name in ("snapshot_age_s", "saturation") if name in given}
        refused = sum(given.get("refusals", {}).values())
        verdict = judge(overview(**seen), recent(picks=1000 - refused, records=1000, **given))
        return [(finding.alert, finding.severity) for finding in verdict.findings]

    assert (alert, state) in told(threshold * 1.2)
    assert (alert, state) not in told(threshold * 0.8)
    (expression,) = (each.expr for each in ALERTS if each.name == alert)
    assert expression.endswith(compares.format(threshold))


def test_the_gravest_comes_first():
    verdict = judge(overview(row(1, health="failed"), row(2)), recent(bypassed=40), posts=[post(ready=False)])
    assert [finding.severity for finding in verdict.findings] == ["critical", "warning", "warning"]
    assert verdict.findings[0].alert == "PickerBypassed"


def test_of_many_endpoints_some_are_named():
    rows = [row(n, health="unreachable") for n in range(1, 8)]
    assert "7 of 7 endpoints (pod-1, pod-2, pod-3 and 4 more) do not answer" in judge(overview(*rows), WELL).sentence


@pytest.mark.parametrize(
    "facts",
    [
        {"hit_share": 0.21, "usual_hit_share": 0.4},
        {"hit_share": 0.0, "usual_hit_share": 0.19},
        {"hit_share": 0.0, "usual_hit_share": 0.9, "picks": 19},
        {"hit_share": 0.0},
        {"usual_hit_share": 0.9},
    ],
)
def test_fewer_hits_are_no_news_where_they_are_few_or_hardly_fewer(facts):
    assert judge(overview(), recent(**facts)).state == "well"
