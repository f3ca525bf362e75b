"""What each profile lets the picker know, and what the death of one of its processes does to that."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shunter.stack.shell import web
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy

PROFILES = ["lean", "usage", "strict", "headers", "full"]
REQUEST_ONLY = ["lean", "usage", "strict", "headers"]


@pytest.fixture
def own(request):
    with running_stack("--profile", request.param) as stack:
        yield stack


every_profile = pytest.mark.parametrize("own", PROFILES, indirect=True)
request_only = pytest.mark.parametrize("own", REQUEST_ONLY, indirect=True)


def numbers(stack):
    """Return the picker's metrics; those with an endpoint or another label are summed."""
    page = web.get(f"127.0.0.1:{stack.state.plan.ports.admin}", "/metrics").body.decode()
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def settled(stack):
    """Return the metrics once every request that Envoy completed is told of, and nobody is in flight; else None."""
    stats = web.get(f"127.0.0.1:{stack.state.plan.ports.envoy_admin}", "/stats?filter=^http.gateway.downstream_rq_completed$")
    completed = int(stats.body.split(b": ")[1])
    found = numbers(stack)
    told = found.get("shunter_picker_records_total"), found["shunter_picker_in_flight_requests"]
    return found if told == (completed, 0) else None


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may go between opening and reading
        return True


def ask(client, prompt, **body):
    message = {
        "model": client.stack.state.plan.model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "ignore_eos": True,
    }
    return client.session.post(client.stack.gateway + "/v1/chat/completions", json=message | body)


@every_profile
async def test_whatever_ends_a_request_it_is_told_of_and_is_in_flight_no_longer(own, connect, eventually):
    client = connect(own)

    def begun():  # figures are entered some at a time: those of the stack's own first request come after its end
        found = settled(own)
        return found and found["llm_d_epp_request_total"] == found.get("llm_d_epp_request_ttft_seconds_count") and found

    before = await eventually(begun)
    replies = [await client.chat(f"request {n}", stream=True, stream_options={"include_usage": True}) for n in range(3)]
    replies.append(await client.chat("a plain one"))
    async with ask(client, "one that the client leaves", max_tokens=500) as response:
        await response.content.readany()
    replies.append(await client.post(b"{}"))  # refused
    assert [reply.status for reply in replies] == [200, 200, 200, 200, 400]
    found = await eventually(lambda: settled(own))
    new = {name: value - before[name] for name, value in found.items() if name in before}
    assert new["shunter_picker_records_total"] == 6
    assert new["shunter_picker_picks_total"] == new["shunter_picker_released_total"] == 5
    assert new["shunter_picker_fallbacks_total"] == new["shunter_picker_expired_total"] == 0
    assert new["shunter_picker_endpoint_ttft_seconds_count"] >= 3
    usage, full = own.state.plan.profile == "usage", own.state.plan.profile == "full"
    expected = {"total": 5, "running": 0, "duration_seconds_count": 5, "size_bytes_count": 5, "error_total": 1}
    expected |= {"ttft_seconds_count": 5, "output_tokens_count": 4 if usage or full else 0}

    def counted():
        now = numbers(own)
        return {name: now.get(key := f"llm_d_epp_request_{name}", 0) - before.get(key, 0) for name in expected}

    await eventually(lambda: counted() == expected)


@request_only
async def test_a_response_outlives_its_worker_and_stays_in_every_account(own, connect, eventually):
    client = connect(own)
    await eventually(lambda: settled(own))
    async with ask(client, "a long one", max_tokens=150) as response:
        await response.content.readany()
        life = own.decisions()[0].ticket >> 32
        (pid,) = [worker["pid"] for worker in own.workers() if worker["life"] == life]
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: numbers(own)["shunter_picker_adopted_requests"] == 1)
        await eventually(lambda: gone(pid) and sum(row.in_flight for row in own.fleet().endpoints) == 1)
        rest = await response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    found = await eventually(lambda: settled(own))
    assert (found["shunter_picker_adopted_total"], found["shunter_picker_expired_total"]) == (1, 0)


@pytest.mark.parametrize("own", ["strict"], indirect=True)
async def test_in_strict_a_request_is_in_flight_though_its_stream_is_over(own, connect, eventually):
    client = connect(own)
    await eventually(lambda: settled(own))
    before = numbers(own)
    async with ask(client, "a long one", max_tokens=150) as response:
        came = b""
        while came.count(b"data:") < 110:  # some seconds, of each of which Envoy tells
            came += await response.content.readany()
        found = numbers(own)
        assert found["shunter_picker_in_flight_requests"] == found["llm_d_epp_request_running"] == 1
        assert found["shunter_picker_released_total"] == before["shunter_picker_released_total"]
        await response.read()
    ended = await eventually(lambda: settled(own))
    assert ended["shunter_picker_released_total"] == before["shunter_picker_released_total"] + 1
    assert ended["shunter_picker_expired_total"] == ended["shunter_picker_adopted_total"] == 0


@pytest.mark.parametrize("own", ["strict"], indirect=True)
async def test_strict_refuses_while_there_is_no_picker_and_cuts_nothing(own, connect, eventually):
    client = connect(own)
    async with ask(client, "a long one", max_tokens=150) as response:
        await response.content.readany()
        workers = [each["pid"] for each in own.workers()]
        os.kill(own.state.pids["picker"], signal.SIGSTOP)  # so that nobody is hired
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        refused = await client.chat("nobody picks")
        os.kill(own.state.pids["picker"], signal.SIGCONT)
        assert refused.status == 503
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    await eventually(lambda: any(worker["ready"] for worker in own.workers()))
    assert (await client.chat("again")).status == 200


@pytest.mark.parametrize("own", ["lean"], indirect=True)
async def test_what_ends_while_there_is_no_collector_is_told_to_its_successor(own, connect, eventually):
    client = connect(own)
    await asyncio.gather(*(client.chat(f"request {n}") for n in range(19)))
    await eventually(lambda: settled(own))
    page = web.get(f"127.0.0.1:{own.state.plan.ports.admin}", "/debug/workers").json()
    (collector,) = [each["pid"] for each in page if each["worker"] == "collector"]
    os.kill(collector, signal.SIGKILL)
    await eventually(lambda: gone(collector))
    await asyncio.gather(*(client.chat(f"request {n}") for n in range(40)))
    await eventually(lambda: settled(own))


async def test_in_native_sessions_stay_and_endpoints_weigh(connect, eventually):
    with running_stack("--profile", "native", "--speed", "20") as stack:
        client = connect(stack)
        replies = [await client.chat("hello", prompt_cache_key="alice") for _ in range(6)]
        assert {reply.status for reply in replies} == {200}
        assert len({reply.served for reply in replies}) == 1
        eds = stack.directory / "envoy" / "eds.pool_engines.yaml"
        await eventually(lambda: re.search('load_balancing_weight"?: ?16', eds.read_text()))
        assert stack.fleet().picks == 0


@pytest.mark.parametrize("own", ["native"], indirect=True)
async def test_in_native_nobody_is_asked_a_session_stays_and_the_collector_is_told(own, connect, eventually):
    client = connect(own)
    replies = [await client.chat("hello again", user="one") for _ in range(6)]
    assert len({reply.served for reply in replies}) == 1
    found = await eventually(lambda: (known := numbers(own)).get("shunter_picker_records_total", 0) >= 6 and known)
    assert found["shunter_picker_picks_total"] == 0
    assert found["shunter_picker_endpoint_requests_total"] >= 6
    assert found["shunter_picker_bypassed_requests_total"] == 0
