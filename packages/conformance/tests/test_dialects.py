"""A lab server that speaks a dialect is what its profile foretells: the same failures, and nothing that is not excused."""

import asyncio

import pytest
from hack.conformance.mutants import related

from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profiles import PROFILES, find_profile
from shunter.conformance.sections.servers.target import Adapter, Means
from shunter.lab.faults.dials import read_faults
from shunter.lab.testing import DIALECTS, Control, LeapingLoop, lab_server

# A server as the real ones that were examined: few seats, so that a queue is seen soon, a cache that fills, 12 ms a token.
SERVER = {"models": ["tiny"], "max_num_seqs": 4, "num_blocks": 256, "max_model_len": 2048, "speed": 2.3}

# SGLang tells the cache in hundredths, so that a prompt must be one to be seen.
SMALLER = {"sglang": {"num_blocks": 130}}

# What the profile of a dialect is called where it is not called as the dialect.
PROFILE = {"llamacpp": "llama.cpp"}

FINDINGS: dict[str, object] = {}


@pytest.fixture
def findings(exam):
    """The findings on a lab server of a dialect, with the profile that was found out; each is examined once."""

    def examine(name):
        async def go():
            async with lab_server(dialect=name, **{**SERVER, **SMALLER.get(name, {})}) as server:
                apart = server.dialect.metrics_port is not None
                return await exam(server.url, metrics_url=server.metrics_url if apart else None)

        if name not in FINDINGS:
            with asyncio.Runner(loop_factory=LeapingLoop) as runner:
                FINDINGS[name] = runner.run(go())
        return FINDINGS[name]

    return examine


# The lab's own way has tests enough, and of vLLM's only the defects are more.
@pytest.mark.parametrize("name", [name for name in DIALECTS if name not in {"lab", "vllm"}])
def test_a_dialect_gets_the_verdicts_that_its_profile_foretells(findings, name):
    found = findings(name)
    profile = next(profile for profile in PROFILES if profile.name == PROFILE.get(name, name))
    assert found.events[0].profile == profile.name
    assert found.ids(Verdict.FAILED, Verdict.ERROR) == set()
    assert found.ids(Verdict.UNEXPECTED_PASS) == set()
    assert found.ids(Verdict.NOT_SUPPORTED) == {case.id for case in CASES if profile.lack(case.features)}
    known = {known.case for known in profile.known_failures}
    assert known - found.ids(Verdict.KNOWN_FAILURE) <= found.ids(Verdict.SKIPPED), "a known failure passes unseen"


def test_vllm_has_the_defects_that_its_profile_knows_and_passes_what_they_stand_beside(exam):
    profile = find_profile("vllm")
    known = {known.case for known in profile.known_failures}
    asked = {case.id for each in known for case in related(each)}
    cases = [case for case in CASES if case.id in asked]

    async def go():
        async with lab_server(dialect="vllm", enable_lora=True, max_loras=2, **SERVER) as server:
            adapters = tuple(Adapter(name, f"/adapters/{name}") for name in "abcde")
            return await exam(server.url, cases=cases, control=Control(server), means=Means(adapters=adapters))

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        found = runner.run(go())
    assert found.events[0].profile == "vllm"
    assert found.ids(Verdict.KNOWN_FAILURE) == known
    assert found.ids(Verdict.PASSED, Verdict.SKIPPED) == {case.id for case in cases} - known


def test_what_a_kind_of_server_lacks_stands_in_nobody_s_way(findings):
    """JetStream has no gauge of running requests; that of its slots is judged all the same."""
    found = findings("jetstream")
    assert found["ms.metrics.load-present"].verdict is Verdict.NOT_SUPPORTED
    assert found["ms.metrics.kv-present"].verdict is Verdict.PASSED


def test_triton_is_asked_in_its_own_way(findings):
    found = findings("triton-tensorrt-llm")
    for case_id in ("ms.load.running-rises", "ms.load.queue-rises", "ms.load.all-shown", "ms.cancel.stream"):
        assert found[case_id].verdict is Verdict.PASSED, found[case_id]


async def test_a_server_is_found_out_by_its_paths_when_its_metrics_are_elsewhere(exam, unused_tcp_port):
    async with lab_server(dialect="triton-tensorrt-llm", models=["tiny"]) as server:
        nowhere = f"http://127.0.0.1:{unused_tcp_port}/metrics"
        found = await exam(server.url, cases=CASES[:1], metrics_url=nowhere)
    started = found.events[0]
    assert (started.profile, started.model) == ("triton-tensorrt-llm", "tiny")
    assert started.profile_reason == 'GET /v2 says "name":"triton"'


async def test_the_metrics_of_a_profile_are_looked_for_where_they_are(exam):
    async with lab_server(dialect="trtllm-serve") as server:
        found = await exam(server.url, cases=[case for case in CASES if case.id.startswith("ms.metrics.load-present")])
    assert found.events[0].metrics_url == server.metrics_url
    assert found["ms.metrics.load-present"].verdict is Verdict.PASSED


async def test_an_older_vllm_is_told_what_to_do_and_passes_with_its_name(exam):
    old = read_faults(b'[{"name": "renamed", "family": "vllm:kv_cache_usage_perc", "to": "vllm:gpu_cache_usage_perc"}]')
    cases = [case for case in CASES if case.id in {"ms.metrics.exposition", "ms.metrics.load-present", "ms.metrics.kv-present"}]
    async with lab_server(speed=100) as server:
        server.faults = old
        found = await exam(server.url, cases=cases)
        named = await exam(server.url, cases=cases, signals={Role.KV: Signal("vllm:gpu_cache_usage_perc")})
    assert "its kv gauge is vllm:gpu_cache_usage_perc" in found.events[0].profile_reason
    assert found.ids(Verdict.FAILED) == {"ms.metrics.kv-present"}
    assert "upgrade the server" in found["ms.metrics.kv-present"].actual
    assert named.ids(Verdict.PASSED) == {case.id for case in cases}
