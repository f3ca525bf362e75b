"""Each check is seen to fail at what it is there for, and to be content with what is well."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.stack.core.cluster import Cluster, Complaint, Following
from shunter.stack.core.doctor import CHECKS, Facts, Verdict, as_json, as_text, examine, exit_code
from shunter.stack.core.doctor.facts import (
    Condition,
    EnvoyFacts,
    KubeFacts,
    Page,
    PickerFacts,
    PodFacts,
    PoolFacts,
    Right,
    ScraperFacts,
    ServiceFacts,
    TlsFacts,
    read_picker,
    read_scraper,
)

NOW_S, DAY_S = 1_000_000.0, 86_400.0
GIE = "inference.networking.k8s.io"
ACCEPTED = Condition("Accepted", "True")
CLUSTER = Cluster(version="1", schema=1, now_s=NOW_S, generation=1, following=(Following("pods", "/pods", known=True),))
PICKER = PickerFacts(where="p", snapshot_age_s=0.1, endpoints={"10.0.0.1:8000": "fresh"}, version="1")
POOL = PoolFacts(
    namespace="llm", name="a", selector={"app": "a"}, ports=(8000,), picker="epp", picker_port=9002, conditions=(ACCEPTED,)
)
POD = PodFacts(namespace="llm", name="a-0", labels={"app": "a"}, ready=True, ports=frozenset({8000}))
KUBE = KubeFacts(
    server="https://k",
    version="v1.36",
    namespaces=("llm",),
    resources=frozenset(
        {f"inferencepools.{GIE}/v1", "inferenceobjectives.llm-d.ai/v1alpha2", "inferencemodelrewrites.llm-d.ai/v1alpha2"}
    ),
    skew_s=0.5,
    account="llm/shunter",
    rights=(Right("list pods in llm", allowed=True),),
    pools=(POOL,),
    pods=(POD,),
    services={"llm/epp": ServiceFacts(ports=frozenset({9002}), ready=2)},
)
WELL = Facts(
    version="1",
    schema=1,
    now_s=NOW_S,
    dead=(),
    kube=KUBE,
    pickers=(PICKER,),
    scrapers=(ScraperFacts(where="s", cluster=CLUSTER),),
    envoys=(EnvoyFacts(where="e"),),
    tls=(TlsFacts(where="t", wanted="epp.llm.svc", names=("*.llm.svc",), expires_s=NOW_S + 90 * DAY_S),),
)
replace = msgspec.structs.replace


def kube(**changes):
    return replace(WELL, kube=replace(KUBE, **changes))


def pool(**changes):
    return kube(pools=(replace(POOL, **changes),))


def picker(**changes):
    return replace(WELL, pickers=(replace(PICKER, **changes),))


def cluster(**changes):
    return replace(WELL, scrapers=(ScraperFacts(where="s", cluster=replace(CLUSTER, **changes)),))


def tls(**changes):
    return replace(WELL, tls=(replace(WELL.tls[0], **changes),))


def test_an_installation_that_is_well_is_told_so_by_every_check():
    answers = examine(WELL, CHECKS)
    assert {each.verdict for each in answers} == {Verdict.OK}
    assert exit_code(answers) == 0
    assert len({each.id for each in answers}) == len(CHECKS)


def test_where_there_is_nothing_every_check_is_skipped_and_says_why():
    answers = examine(Facts(version="1", schema=1, now_s=NOW_S), CHECKS)
    assert {each.verdict for each in answers} == {Verdict.SKIPPED}
    assert all(each.evidence for each in answers)
    assert exit_code(answers) == 2


WRONG = [
    ("api", kube(trouble="connection refused"), "fail", "https://k: connection refused"),
    ("definitions", kube(resources=frozenset()), "fail", "none of inferencepools.inference.networking.k8s.io/v1"),
    ("definitions", kube(resources=frozenset({f"inferencepools.{GIE}/v1"})), "warn", "no inferenceobjectives, no inference"),
    (
        "definitions",
        kube(
            resources=KUBE.resources - {f"inferencepools.{GIE}/v1"} | {"inferencepools.inference.networking.x-k8s.io/v1alpha2"}
        ),
        "warn",
        "v1alpha2 only",
    ),
    ("rights", kube(rights=(Right("watch pods in llm", allowed=False),)), "fail", "llm/shunter may not watch pods in llm"),
    ("pools", kube(pools=()), "fail", "no InferencePool in llm"),
    ("selectors", kube(pods=()), "fail", "llm/a: no pod has app=a"),
    ("selectors", kube(pods=(replace(POD, ready=False),)), "fail", "1 pods have app=a, none is ready"),
    ("selectors", kube(pods=(replace(POD, namespace="other"),)), "fail", "llm/a: no pod has app=a"),
    ("ports", kube(pods=(replace(POD, ports=frozenset({9000})),)), "warn", "no pod declares the port 8000, a-0 has 9000"),
    ("picker-service", kube(services={}), "fail", "llm/a: there is no Service epp"),
    ("picker-service", pool(picker_port=9), "fail", "Service epp has no port 9, but 9002"),
    ("picker-service", kube(services={"llm/epp": ServiceFacts(ports=frozenset({9002}))}), "fail", "nobody ready behind it"),
    (
        "status",
        pool(conditions=(Condition("ResolvedRefs", "False", "InvalidExtensionRef", "no such"),)),
        "fail",
        "InvalidExtensionRef no such",
    ),
    (
        "status",
        kube(conditions={"InferenceObjective llm/o": (Condition("Accepted", "False", "PoolNotFound"),)}),
        "fail",
        "InferenceObjective llm/o",
    ),
    ("status", pool(conditions=()), "warn", "no gateway has accepted InferencePool llm/a"),
    ("processes", replace(WELL, dead=("envoy",)), "fail", "not running: envoy"),
    ("scraper", replace(WELL, scrapers=(ScraperFacts(where="s", trouble="refused"),)), "fail", "s: refused"),
    (
        "reads",
        replace(WELL, scrapers=(ScraperFacts(where="s", hindrances=("pods: HTTP 403",), cluster=CLUSTER),)),
        "fail",
        "pods: HTTP 403",
    ),
    ("reads", cluster(following=(Following("pods", "/pods", known=True, trouble="HTTP 403"),)), "warn", "/pods: HTTP 403"),
    (
        "objects",
        cluster(complaints=(Complaint("pods", "llm", "p", "UnknownEngine", "no engine"),)),
        "warn",
        "pods llm/p: no engine",
    ),
    ("picker", picker(trouble="refused"), "fail", "p: refused"),
    ("ready", picker(hindrances=("no snapshot",)), "fail", "p: no snapshot"),
    ("snapshot", picker(snapshot_trouble="schema 2"), "fail", "schema 2"),
    ("snapshot", picker(snapshot_age_s=9.0), "fail", "p: 9 s old"),
    ("snapshot", picker(snapshot_age_s=None), "fail", "p: none yet"),
    ("endpoints", picker(endpoints={}), "fail", "no endpoints at p"),
    ("endpoints", picker(endpoints={"a": "failed"}), "fail", "a is failed"),
    ("endpoints", picker(endpoints={"a": "failed", "b": "fresh"}), "warn", "a is failed"),
    ("profile", picker(complaints={"predictor": "it needs to see responses"}), "warn", "predictor: it needs to see responses"),
    ("versions", picker(version="2"), "warn", "p is 2; this is 1"),
    ("versions", cluster(schema=2), "fail", "s writes snapshots of schema 2; this release reads 1"),
    ("tls", tls(trouble="certificate has expired"), "fail", "t: certificate has expired"),
    ("tls", tls(plain=True, expires_s=None), "fail", "t speaks no TLS"),
    ("tls", tls(plain=True, where="unix:/p"), "fail", "unix:/p speaks no TLS"),
    ("tls", tls(names=("other",)), "fail", "t is for other, not for epp.llm.svc"),
    ("tls", tls(names=("*.svc",)), "fail", "not for epp.llm.svc"),
    ("tls", tls(expires_s=NOW_S - 1), "fail", "expired: t"),
    ("tls", tls(expires_s=NOW_S + DAY_S), "warn", "t: expires in 1.0 days"),
    ("tls", picker(certificates_expire_s=NOW_S + DAY_S), "warn", "p: expires in 1.0 days"),
    ("envoy", replace(WELL, envoys=(EnvoyFacts(where="e", trouble="refused"),)), "fail", "e: refused"),
    ("reached", replace(WELL, envoys=(EnvoyFacts(where="e", unreached=("e: p of c",)),)), "fail", "e: p of c"),
    ("envoy", replace(WELL, envoys=(EnvoyFacts(where="e", errors=("E02 bad",), warnings=("W01",)),)), "fail", "E02 bad"),
    ("envoy", replace(WELL, envoys=(EnvoyFacts(where="e", warnings=("W01 odd",)),)), "warn", "W01 odd"),
    ("clock", cluster(now_s=NOW_S + 100), "warn", "s is +100 s from here"),
    ("clock", kube(skew_s=-100.0), "warn", "https://k is -100 s from here"),
]


@pytest.mark.parametrize(("check", "facts", "verdict", "words"), WRONG)
def test_what_is_wrong_is_found_with_its_evidence_and_a_remedy(check, facts, verdict, words):
    (answer,) = [each for each in examine(facts, CHECKS) if each.id == check]
    assert (answer.verdict.value, bool(answer.remedy)) == (verdict, True)
    assert words in answer.evidence
    assert exit_code([answer]) == (verdict == "fail")


def test_every_check_has_been_seen_to_fail():
    assert {check for check, *_ in WRONG} == {check.id for check in CHECKS}


@pytest.mark.parametrize("missing", ["rights", "pools", "pods", "services"])
def test_what_nobody_may_ask_is_skipped(missing):
    verdicts = {each.id: each.verdict for each in examine(kube(**{missing: None}), CHECKS)}
    assert Verdict.SKIPPED in verdicts.values()
    assert Verdict.FAIL not in verdicts.values()


def test_answers_are_printed_for_people_and_for_programs():
    answers = examine(picker(hindrances=("\x1b[2J",)), CHECKS)
    text = as_text(answers)
    assert "fail  Is the picker ready for requests? p: \\x1b[2J" in text
    assert "      → gateways get no answer" in text
    assert text.endswith(f"{len(CHECKS) - 1} ok, 0 warn, 1 fail, 0 skipped")
    assert [each["id"] for each in json.loads(as_json(answers))] == [check.id for check in CHECKS]


PAGES = {
    "/readyz": Page(503, b'{"ready": false, "hindrances": ["no snapshot"]}'),
    "/debug/fleet": Page(200, b'{"snapshot_age_s": 0.5, "endpoints": [{"authority": "a", "health": "fresh", "name": "x"}]}'),
    "/debug/workers": Page(200, b'[{"worker": "0", "certificate_expires_s": 7.5}, {"worker": "1"}]'),
    "/metrics": Page(200, b'# HELP x y\nllm_d_epp_info{build_ref="shunter-0.1.0",commit=""} 1.0\n'),
    "/debug/cluster": Page(200, msgspec.json.encode(CLUSTER)),
}


def test_a_pickers_pages_are_read():
    assert read_picker("p", PAGES) == PickerFacts(
        where="p",
        hindrances=("no snapshot",),
        snapshot_age_s=0.5,
        endpoints={"a": "fresh"},
        version="0.1.0",
        certificates_expire_s=7.5,
    )


def test_a_scrapers_pages_are_read():
    assert read_scraper("s", PAGES) == ScraperFacts(where="s", hindrances=("no snapshot",), cluster=CLUSTER)


@given(st.dictionaries(st.sampled_from([*PAGES]), st.builds(Page, st.sampled_from([0, 200, 404, 503]), st.binary())))
def test_whatever_somebody_answers_there_it_is_read_or_a_trouble(pages):
    for read, paths in (
        (read_picker, ("/readyz", "/debug/fleet", "/debug/workers")),
        (read_scraper, ("/readyz", "/debug/cluster")),
    ):
        facts = read("x", pages)
        assert facts.trouble or pages.keys() >= set(paths)
        examine(replace(WELL, **{f"{type(facts).__name__.removesuffix('Facts').lower()}s": (facts,)}), CHECKS)
