"""A dialect answers like the server it is named after, as far as that was recorded, and from its source elsewhere."""

import asyncio
import contextlib
import json

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shunter.lab import cli
from shunter.lab.core.asks import read_completion
from shunter.lab.core.gauges import Gauges
from shunter.lab.core.models import Models
from shunter.lab.core.reporting import Refresh, Reporting
from shunter.lab.core.tally import Tally
from shunter.lab.dialects import DIALECTS, dialect_named
from shunter.lab.errors import ApiError, ParamsError
from shunter.lab.testing import LeapingLoop, lab_server

RECORDED = {
    "sglang": "sglang-under-load",
    "triton-tensorrt-llm": "triton-under-load",
    "llamacpp": "llamacpp-under-load",
}
OPENAI = ("lab", "vllm", "sglang", "trtllm-serve", "tgi", "llamacpp")


def heads(page):
    """Family → HELP and TYPE lines."""
    return {line.split()[2]: tuple(line.split(" ", 3)[3:]) for line in page.splitlines() if line.startswith("# HELP")} | {
        f"{line.split()[2]} type": line.split()[3] for line in page.splitlines() if line.startswith("# TYPE")
    }


def label_sets(page, constant):
    """Sample name → the labels of its series, with the values of those that are the same for every server."""
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, brace, rest = line.rpartition(" ")[0].partition("{")
            labels = dict(part.split("=", 1) for part in rest.rstrip("}").split(",")) if brace else {}
            found.setdefault(name, set()).add(tuple((key, value if key in constant else "") for key, value in labels.items()))
    return found


async def page_of(http, server):
    async with http.get(server.metrics_url) as response:
        assert response.status == 200
        return await response.text()


@pytest.mark.parametrize("name", RECORDED)
async def test_every_family_has_the_name_type_help_and_labels_of_the_real_one(http, recorded, name):
    async with lab_server(dialect=name, models=["tiny"]) as server:
        ours, real = await page_of(http, server), recorded(RECORDED[name])
    assert heads(ours).items() <= heads(real).items()
    constant = ("request_type", "kv_cache_block_type", "memory_type", "general_type", "is_streaming", "cache_source")
    ours, real = label_sets(ours, constant), label_sets(real, constant)
    assert ours
    for sample, series in ours.items():
        assert series == real[sample], sample


@pytest.mark.parametrize("name", DIALECTS)
def test_load_shows_on_the_page_of_every_dialect(until, name):
    """What the page says of one request: some gauge rises while it runs, and is what it was when it has ended.

    On a clock that leaps: no busy machine is too late to see it.
    """

    async def look():
        async with aiohttp.ClientSession() as http:
            await load_shows(http, until, name)

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(look())


async def load_shows(http, until, name):
    async def says():
        families = text_string_to_metric_families(await page_of(http, server))
        gauges = [sample for family in families if family.type == "gauge" for sample in family.samples]
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for sample in gauges
            if any(word in sample.name for word in ("run", "request_metrics", "current_size", "slots_used", "processing"))
        }

    async with lab_server(dialect=name, models=["tiny"], speed=20) as server:
        before = await says()
        path, body = ("/v1/completions", {"prompt": "x", "max_tokens": 400, "ignore_eos": True})
        if name == "triton-tensorrt-llm":
            path, body = "/v2/models/tiny/generate", {"text_input": "x", "max_tokens": 400, "end_id": -1}
        if name == "jetstream":
            path, body = "/v1/generate", {"text_content": {"text": "spark"}, "max_tokens": 400}
        async with http.post(
            f"{server.url}{path}", json={**body, "stream": True} if name != "triton-tensorrt-llm" else body
        ) as sent:
            assert sent.status == 200
            if name != "triton-tensorrt-llm":  # which answers when all is done

                async def risen():
                    return await says() != before

                await until(risen)
            await sent.read()

        async def as_before():
            return {key: value for key, value in (await says()).items() if value} == {
                key: value for key, value in before.items() if value
            }

        await until(as_before)


@pytest.mark.parametrize("name", OPENAI)
async def test_a_stream_says_what_a_whole_answer_says(http, name):
    body = {"prompt": "hello", "max_tokens": 9, "ignore_eos": True, "temperature": 0}
    async with lab_server(dialect=name, speed=200) as server:
        async with http.post(f"{server.url}/v1/completions", json=body) as response:
            whole = await response.json()
        async with http.post(f"{server.url}/v1/completions", json={**body, "stream": True}) as response:
            *events, done, _ = (await response.text()).split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert {chunk["id"] for chunk in chunks} == ({""} if name == "tgi" else {chunks[0]["id"]})


async def test_triton_generates_by_its_extension(http):
    async with lab_server(dialect="triton-tensorrt-llm", models=["tiny"], speed=200) as server:

        async def ask(method, path, body=None):
            async with http.request(method, f"{server.url}{path}", json=body) as response:
                return response.status, (await response.text())

        asked = {"text_input": "hello", "max_tokens": 4, "end_id": -1}
        status, text = await ask("POST", "/v2/models/tiny/generate", asked)
        whole = json.loads(text)
        assert (status, whole["model_name"], len(whole["text_output"].split())) == (200, "tiny", 4)
        status, text = await ask("POST", "/v2/models/tiny/generate_stream", asked)
        assert status == 200
        pieces = [json.loads(event.removeprefix("data: "))["text_output"] for event in text.removesuffix("\n\n").split("\n\n")]
        assert "".join(pieces) == whole["text_output"]
        assert (await ask("POST", "/v2/models/nope/generate", asked))[0] == 404
        assert (await ask("POST", "/v2/repository/index"))[1] == '[{"name":"tiny","version":"1","state":"READY"}]'
        assert (await ask("GET", "/v2/models/tiny/ready"))[0] == 200
        assert (await ask("GET", "/v2/models/nope/ready"))[0] == 400
        assert await ask("GET", "/metrics") == (404, ""), "its metrics are on a port of their own"


async def test_jetstream_streams_message_behind_message(http):
    asked = {"text_content": {"text": "hello"}, "max_tokens": 5}
    async with lab_server(dialect="jetstream", speed=200) as server:
        async with http.post(f"{server.url}/v1/generate", json=asked) as response:
            text = await response.text()
        async with http.post(f"{server.url}/v1/generate", json={"max_tokens": 5}) as response:
            assert response.status == 422
    assert "data:" not in text
    assert json.loads(text[: text.index("\n}\n") + 2])["streamContent"]["samples"]


async def test_sglang_selects_adapters_by_base_and_name_and_takes_any_model_for_the_base(http):
    async with lab_server(dialect="sglang", models=["tiny"], loras=["a"], speed=200) as server:

        async def said(model):
            body = {"model": model, "prompt": "x", "max_tokens": 5, "ignore_eos": True, "temperature": 0}
            async with http.post(f"{server.url}/v1/completions", json=body) as response:
                assert response.status == 200
                return (await response.json())["choices"][0]["text"]

        assert await said("tiny:a") != await said("tiny")
        assert await said("a") == await said("nobody") == await said("tiny")


# What is wrong with a request → how each says so.
@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("vllm", 400, b'{"error":{"message":'),
        ("sglang", 400, b'{"object":"error","message":'),
        ("trtllm-serve", 400, b'{"object":"error","message":'),
        ("tgi", 400, b"Failed to parse the request body as JSON"),
        ("llamacpp", 400, b'{"error":{"code":400,'),
    ],
)
async def test_errors_have_the_shape_of_the_dialect(http, name, status, words):
    async with lab_server(dialect=name) as server, http.post(f"{server.url}/v1/completions", data=b"{bad json") as response:
        assert response.status == status
        assert (await response.read()).startswith(words)


@pytest.mark.parametrize("name", OPENAI)
async def test_what_is_nested_too_deeply_is_refused_in_the_shape_of_the_dialect(http, name):
    body = b'{"prompt": "x", "max_tokens": 1, "stop": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    async with lab_server(dialect=name) as server, http.post(f"{server.url}/v1/completions", data=body) as response:
        assert response.status == (422 if name == "tgi" else 400)


async def test_trtllm_has_json_where_others_have_their_page(http):
    async with lab_server(dialect="trtllm-serve") as server:
        assert server.metrics_url.endswith("/prometheus/metrics")
        async with http.get(f"{server.url}/metrics") as response:
            assert (await response.json())[0]["numActiveRequests"] == 0
        assert 'model_name="undefined"' in await page_of(http, server)


async def test_tgi_has_no_gauges_before_the_first_request(http):
    async with lab_server(dialect="tgi", speed=200) as server:
        assert await page_of(http, server) == ""
        async with http.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}) as response:
            assert response.status == 200
        assert "tgi_queue_size 0\n" in await page_of(http, server)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["text_input", "max_tokens", "end_id", "text_content", "text", "token_content", "token_ids"]), inner
        )
    ),
)


@pytest.mark.parametrize("name", ["triton-tensorrt-llm", "jetstream"])
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_asked_it_is_a_completion_or_refused(name, body):
    with contextlib.suppress(ApiError):
        assert read_completion(json.dumps(dialect_named(name).read(body)).encode(), Models(["tiny"]), 128)


def test_an_unknown_dialect_is_answered_with_near_ones():
    with pytest.raises(ParamsError, match="dialect 'tgl' does not exist; near: tgi"):
        dialect_named("tgl")


def test_the_command_line_names_every_dialect():
    assert tuple(DIALECTS) == cli.DIALECTS


def gauges(running, kv):
    return Gauges(running, 0, 0, kv, (), ())


def test_gauges_are_new_every_so_many_steps_and_with_each_prompt():
    reporting, tally = Reporting(Refresh(steps=3, idle_s=30.0)), Tally(128)
    assert reporting.report(gauges(1, 0.1), tally, 0.0).kv_usage == 0.1
    for kv, expected in ((0.2, 0.1), (0.3, 0.1), (0.4, 0.4), (0.5, 0.4)):
        tally.iteration_tokens_total.observe(1)
        assert reporting.report(gauges(1, kv), tally, 1.0).kv_usage == expected
    tally.time_to_first_token_seconds.observe(0.1)
    assert reporting.report(gauges(2, 0.6), tally, 1.0) == gauges(1, 0.6), "the newcomer is not told yet"


def test_when_nothing_runs_the_cache_gauge_is_old_until_the_idle_log():
    reporting, tally = Reporting(Refresh(steps=3, idle_s=30.0)), Tally(128)
    reporting.report(gauges(1, 0.1), tally, 0.0)
    assert reporting.report(gauges(0, 0.0), tally, 1.0) == gauges(0, 0.1)
    assert reporting.report(gauges(0, 0.0), tally, 29.0) == gauges(0, 0.1)
    assert reporting.report(gauges(0, 0.0), tally, 31.0) == gauges(0, 0.0)


def test_gauges_are_new_every_so_many_seconds():
    reporting, tally = Reporting(Refresh(seconds=0.1)), Tally(128)
    assert [reporting.report(gauges(n, 0.0), tally, n * 0.06).running for n in range(4)] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sglang", "sglang:num_queue_reqs"),
        ("trtllm-serve", "trtllm_num_requests_waiting"),
        ("jetstream", "jetstream_prefill_backlog_size"),
        ("llamacpp", "llamacpp:requests_deferred"),
    ],
)
async def test_faults_of_gauges_are_those_of_every_dialect(http, name, line):
    async with lab_server(dialect=name, faults=["negative-queue"]) as server:
        page = await page_of(http, server)
    assert [each for each in page.splitlines() if each.startswith(line) and each.endswith(" -1.0")]
    assert "vllm:" not in page
