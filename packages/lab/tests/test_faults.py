"""Every fault makes a server wrong in its one way, and only while it has the fault."""

import asyncio
import json
import math

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shunter.lab.errors import ParamsError
from shunter.lab.faults import FAULTS, faults_named, operation
from shunter.lab.testing import lab_server

RUNNING, WAITING, KV = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
HELLO = [{"role": "user", "content": "hello"}]


class Client:
    """What an examiner would ask, as plain values."""

    def __init__(self, http, server):
        self.http, self.server = http, server

    async def send(self, method, path, body=None, timeout_s=30.0):
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self.http.request(method, f"{self.server.url}{path}", data=body, timeout=timeout) as response:
            return response.status, await response.text()

    async def complete(self, **fields):
        body = {"prompt": "hello", "max_tokens": 5, "ignore_eos": True, **fields}
        return await self.send("POST", "/v1/completions", json.dumps(body))

    async def chat(self):
        status, text = await self.send("POST", "/v1/chat/completions", json.dumps({"messages": HELLO, "max_tokens": 5}))
        assert status == 200
        return json.loads(text)

    async def events(self):
        status, text = await self.complete(stream=True)
        assert status == 200
        return text.removesuffix("\n\n").split("\n\n")

    async def page(self):
        status, text = await self.send("GET", "/metrics")
        assert status == 200
        return text

    async def values(self, name):
        families = text_string_to_metric_families(await self.page())
        return [sample.value for family in families for sample in family.samples if sample.name == name]


async def status_of(client, path):
    return (await client.send("GET", path))[0]


async def late(client, path):
    """Whether the answer takes longer than a bound that the fault exceeds."""
    try:
        await client.send("GET", path, timeout_s=0.1)
    except TimeoutError:
        return True
    return False


async def completion(client):
    return json.loads((await client.complete())[1])


async def chunks(client):
    return [json.loads(event.removeprefix("data: ")) for event in await client.events() if "[DONE]" not in event]


async def parses(client):
    try:
        return bool(list(text_string_to_metric_families(await client.page())))
    except ValueError:
        return False


async def sums(client):
    usage = (await completion(client))["usage"]
    return usage["total_tokens"] - usage["prompt_tokens"] - usage["completion_tokens"], usage["completion_tokens"]


async def lines(client, beginning):
    return [line for line in (await client.page()).splitlines() if line.startswith(beginning)]


async def type_of(client, family):
    return [one.type for one in text_string_to_metric_families(await client.page()) if one.name == family]


async def falls(client):
    name = "vllm:generation_tokens_total"
    return (await client.values(name)) > (await client.values(name))


async def drips(client):
    timeout = aiohttp.ClientTimeout(total=30)
    async with client.http.get(f"{client.server.url}/metrics", timeout=timeout) as response:
        length = int(response.headers["Content-Length"])
        try:
            async with asyncio.timeout(0.3):
                return len(await response.content.readexactly(length)) < length
        except TimeoutError:
            return True


async def outcome(client, **fields):
    """Status of a completion, or the error a client sees."""
    try:
        return (await client.complete(**fields))[0]
    except aiohttp.ClientError as error:
        return type(error).__name__


async def bad_json(client):
    return (await client.send("POST", "/v1/completions", "{bad"))[0]


# What is asked → the answer of a good server, and of one with the fault.
BROKEN = {
    "health-503": (lambda c: status_of(c, "/health"), 200, 503),
    "models-slow-after-ready": (lambda c: late(c, "/v1/models"), False, True),
    "models-404": (lambda c: status_of(c, "/v1/models"), 200, 404),
    "metrics-slow-after-ready": (lambda c: late(c, "/metrics"), False, True),
    "completion-missing-choices": (completion, lambda b: "choices" in b, lambda b: "choices" not in b),
    "completion-wrong-object": (
        completion,
        lambda b: b["object"] == "text_completion",
        lambda b: b["object"] == "list",
    ),
    "chat-wrong-object": (
        lambda c: c.chat(),
        lambda b: b["object"] == "chat.completion",
        lambda b: b["object"] == "text_completion",
    ),
    "chat-wrong-role": (
        lambda c: c.chat(),
        lambda b: b["choices"][0]["message"]["role"] == "assistant",
        lambda b: b["choices"][0]["message"]["role"] == "user",
    ),
    "sse-no-done": (lambda c: c.events(), lambda e: e[-1] == "data: [DONE]", lambda e: "[DONE]" not in "".join(e)),
    "sse-bare-json": (lambda c: c.events(), lambda e: e[0].startswith("data: {"), lambda e: e[0].startswith("{")),
    "sse-id-changes": (
        chunks,
        lambda e: len({x["id"] for x in e}) == 1,
        lambda e: len({x["id"] for x in e}) == len(e),
    ),
    "finish-reason-missing": (
        chunks,
        lambda e: e[-1]["choices"][0]["finish_reason"] == "length",
        lambda e: not any(x["choices"][0]["finish_reason"] for x in e),
    ),
    "usage-does-not-add-up": (sums, (0, 5), (1, 5)),
    "usage-short": (sums, (0, 5), (0, 4)),
    "usage-in-every-event": (
        chunks,
        lambda e: not any("usage" in x for x in e),
        lambda e: all("usage" in x for x in e),
    ),
    "unknown-model-200": (lambda c: outcome(c, model="nope"), 404, 200),
    "unknown-model-plain": (
        lambda c: c.complete(model="nope"),
        lambda r: "error" in json.loads(r[1]),
        (404, '{"detail":"Not Found"}'),
    ),
    "bad-json-500": (bad_json, 400, 500),
    "bad-json-200": (bad_json, 400, 200),
    "missing-prompt-200": (lambda c: outcome(c, prompt=None), 400, 200),
    "negative-max-tokens-200": (lambda c: outcome(c, max_tokens=-1), 400, 200),
    "too-long-500": (lambda c: outcome(c, prompt="x" * 99_999), 400, 500),
    "metrics-404": (lambda c: status_of(c, "/metrics"), 200, 404),
    "metrics-json": (lambda c: c.page(), lambda p: p.startswith("#"), lambda p: isinstance(json.loads(p), list)),
    "metrics-malformed": (parses, True, False),
    "metrics-duplicate-series": (lambda c: lines(c, RUNNING), lambda x: len(x) == 1, lambda x: len(x) == 2),
    "metrics-type-after-samples": (
        lambda c: lines(c, (f"# TYPE {RUNNING} ", f"{RUNNING}{{")),
        lambda x: x[0].startswith("#"),
        lambda x: x[1].startswith("#"),
    ),
    "family-missing-before-request": (lambda c: c.values(KV), [0.0], []),
    "queue-family-missing": (lambda c: c.values(WAITING), [0.0], []),
    "gauge-declared-counter": (lambda c: type_of(c, WAITING), ["gauge"], ["counter"]),
    "counter-decreases": (falls, False, True),
    "kv-above-one": (lambda c: c.values(KV), [0.0], [37.5]),
    "kv-nan": (lambda c: c.values(KV), [0.0], lambda v: math.isnan(v[0])),
    "negative-queue": (lambda c: c.values(WAITING), [0.0], [-1.0]),
    "fractional-queue": (lambda c: c.values(WAITING), [0.0], [0.5]),
    "idle-not-zero": (lambda c: c.values(RUNNING), [0.0], [1.0]),
    "metrics-wrong-model": (lambda c: c.page(), lambda p: "somebody-else" not in p, lambda p: "lab/llama" not in p),
    "engine-series-doubled": (lambda c: c.values(RUNNING), [0.0], [0.0, 0.0]),
    "metrics-hang": (lambda c: late(c, "/metrics"), False, True),
    "metrics-drip": (drips, False, True),
    "close-mid-stream": (lambda c: outcome(c, stream=True), 200, "ClientPayloadError"),
    "crash": (outcome, 200, "ClientOSError"),
    "refuse-new": (outcome, 200, lambda e: e in {"ClientOSError", "ServerDisconnectedError"}),
}


def agrees(answer, expected):
    return expected(answer) if callable(expected) else answer == expected


@pytest.mark.parametrize("name", BROKEN)
async def test_a_fault_is_seen_while_it_lasts(http, name):
    question, good, broken = BROKEN[name]
    async with lab_server(speed=1000, models=["lab/llama-3-8b"], faults=[name]) as server:
        client = Client(http, server)
        assert agrees(await question(client), broken)
        server.mend()
        assert agrees(await question(client), good)
        server.break_with(name)
        if name != "family-missing-before-request":
            assert agrees(await question(client), broken)


def test_every_fault_is_tested():
    """Those that name a case are by the exam, which must find them with that case and no other."""
    elsewhere = {"slow-start", "lora-lists-equal"}
    assert {name for name, fault in FAULTS.items() if not fault.case} <= set(BROKEN) | elsewhere


async def test_a_family_that_was_missing_appears_with_the_first_request(http):
    async with lab_server(speed=1000, faults=["family-missing-before-request"]) as server:
        client = Client(http, server)
        await client.complete()
        assert await client.values(KV) == [0.0]


async def test_a_slow_start_refuses_everything_and_ends(http, until):
    async with lab_server(speed=1000, faults=["slow-start"]) as server:
        client = Client(http, server)
        assert await status_of(client, "/health") == 503
        assert await outcome(client, stream=True) == 503
        server._started_s -= operation.SLOW_START_S
        assert await status_of(client, "/health") == 200


async def test_the_adapter_lists_of_vllm_are_one_list(http, until):
    async with lab_server(loras=["a", "b"], faults=["lora-lists-equal"]) as server:
        client = Client(http, server)
        body = {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        streams = [await http.post(f"{server.url}/v1/completions", json={**body, "model": name}) for name in "ab"]
        seen = await lines(client, "vllm:lora_requests_info{")
        assert any('running_lora_adapters="a,b",waiting_lora_adapters="a,b"' in line for line in seen)
        assert len({line.rpartition(" ")[0] for line in seen}) == len(seen)
        server.mend()
        assert any('_adapters="a",waiting_lora_adapters="b"' in one for one in await lines(client, "vllm:lora_requests_info{"))
        for stream in streams:
            stream.close()


def test_an_unknown_fault_is_answered_with_near_ones():
    with pytest.raises(ParamsError, match="fault 'kv-above' does not exist; near: kv-above-one"):
        faults_named(["kv-above"])
