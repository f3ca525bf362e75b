"""The server speaks vLLM's dialect of HTTP."""

import asyncio
import io
import json

import aiohttp
import pytest

from shunter.lab.errors import ParamsError
from shunter.lab.testing import LabServer, LeapingLoop, lab_server

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello world"}]


@pytest.fixture
async def server():
    async with lab_server(speed=200, prompt_tokens_details=True) as server:
        yield server


@pytest.fixture
def post(http, server):
    async def send(path, body, **headers):
        async with http.post(f"{server.url}{path}", json=body, headers=headers) as response:
            return response.status, await response.json()

    return send


@pytest.fixture
def stream(http, server):
    """The JSON of every event, after checking that the framing is right and `[DONE]` comes last."""

    async def send(path, body):
        async with http.post(f"{server.url}{path}", json={**body, "stream": True}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            *events, done, rest = (await response.text()).split("\n\n")
            assert (done, rest) == ("data: [DONE]", "")
            assert all(event.startswith("data: {") and "\n" not in event for event in events)
            return [json.loads(event.removeprefix("data: ")) for event in events]

    return send


async def test_plain_paths(http, server):
    for path, status, body in [
        ("/health", 200, ""),
        ("/ping", 200, ""),
        ("/version", 200, '{"version":"0.32.0"}'),
        ("/load", 200, '{"server_load":0}'),
        ("/v1/nope", 404, '{"detail":"Not Found"}'),
        (COMPLETIONS, 405, '{"detail":"Method Not Allowed"}'),
    ]:
        async with http.get(f"{server.url}{path}") as response:
            assert (response.status, await response.text()) == (status, body)
    assert response.headers["Allow"] == "POST"


async def test_models_are_listed_with_adapters_and_their_parent(http):
    async with lab_server(models=["m", "alias"], loras=["a"]) as server, http.get(f"{server.url}/v1/models") as response:
        cards = (await response.json())["data"]
    assert [(card["id"], card["parent"], card["max_model_len"]) for card in cards] == [
        ("m", None, 8192),
        ("alias", None, 8192),
        ("a", "m", None),
    ]


async def test_a_completion_has_the_fields_of_vllm(server, post):
    status, body = await post(COMPLETIONS, {"prompt": "hello world", "max_tokens": 5, "ignore_eos": True})
    assert status == 200
    (choice,) = body["choices"]
    assert body["object"] == "text_completion"
    assert body["model"] == "lab/llama-3-8b"
    assert body["system_fingerprint"] == f"lab-{server.port}"
    assert (choice["index"], choice["finish_reason"], len(choice["text"].split())) == (0, "length", 5)
    assert body["usage"] == {
        "prompt_tokens": 2,
        "total_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": None,
    }


async def test_a_chat_has_the_fields_of_vllm(post):
    status, body = await post(CHAT, {"messages": HELLO, "max_completion_tokens": 4, "ignore_eos": True})
    assert (status, body["object"], body["id"][:9]) == (200, "chat.completion", "chatcmpl-")
    message = body["choices"][0]["message"]
    assert (message["role"], len(message["content"].split())) == ("assistant", 4)
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 4


async def test_a_request_id_becomes_the_id_and_may_be_repeated(post):
    answers = await asyncio.gather(
        *(post(COMPLETIONS, {"prompt": "x", "max_tokens": 9}, **{"X-Request-Id": "abc-123"}) for _ in range(3))
    )
    assert {(status, body["id"]) for status, body in answers} == {(200, "cmpl-abc-123")}


@pytest.mark.parametrize("limit", [{"max_tokens": 30, "ignore_eos": True}, {"max_tokens": 2000}, {"stop": [" r"]}])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_a_stream_says_what_a_whole_answer_says(post, stream, path, limit):
    body = {"temperature": 0, **limit, **({"prompt": "hello"} if path == COMPLETIONS else {"messages": HELLO})}
    _, whole = await post(path, body)
    events = await stream(path, {**body, "stream_options": {"include_usage": True}})
    *pieces, bill = events
    text = "".join(e["choices"][0]["text"] if path == COMPLETIONS else e["choices"][0]["delta"]["content"] for e in pieces)
    choice = whole["choices"][0]
    assert text == (choice["text"] if path == COMPLETIONS else choice["message"]["content"])
    assert pieces[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert bill["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert bill["usage"][name] == whole["usage"][name]
    assert len({event["id"] for event in events}) == 1
    assert bill["system_fingerprint"] == whole["system_fingerprint"]


async def test_a_chat_stream_opens_with_the_role(stream):
    events = await stream(CHAT, {"messages": HELLO, "max_tokens": 2, "ignore_eos": True})
    assert [event["choices"][0]["delta"].get("role") for event in events] == ["assistant", None, None]
    assert not any("usage" in event for event in events)
    assert [event.get("system_fingerprint") is not None for event in events] == [False, False, True]


async def test_continuous_usage_counts_up(stream):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await stream(CHAT, {"messages": HELLO, "max_tokens": 3, "ignore_eos": True, "stream_options": options})
    assert [event["usage"]["completion_tokens"] for event in events] == [0, 1, 2, 3, 3]
    assert all(u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"] for u in (e["usage"] for e in events))


@pytest.mark.parametrize(("rank", "status"), [("0", 200), ("1", 400), ("-1", 400), ("x", 200), ("9" * 5000, 200)])
async def test_a_rank_that_there_is_not_is_refused(post, rank, status):
    assert (await post(COMPLETIONS, {"prompt": "x", "max_tokens": 1}, **{"X-data-parallel-rank": rank}))[0] == status


async def test_several_prompts_get_a_choice_each(post, stream):
    body = {"prompt": ["one", "two", "one"], "temperature": 0, "max_tokens": 6, "ignore_eos": True}
    _, whole = await post(COMPLETIONS, body)
    texts = [choice["text"] for choice in whole["choices"]]
    assert texts[0] == texts[2] != texts[1]
    assert whole["usage"]["completion_tokens"] == 18
    said = ["", "", ""]
    for event in await stream(COMPLETIONS, body):
        for choice in event["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == texts


async def test_concurrent_streams_are_not_mixed(post, stream):
    bodies = [{"prompt": f"stream {index}", "temperature": 0, "max_tokens": 40} for index in range(20)]
    streams = await asyncio.gather(*(stream(COMPLETIONS, body) for body in bodies))
    for body, events in zip(bodies, streams, strict=True):
        _, whole = await post(COMPLETIONS, body)
        assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]


async def test_a_crowd_of_whom_many_leave_keeps_the_others_whole_and_leaves_nothing_behind(http, until):
    async with lab_server(speed=20, max_num_seqs=16, num_blocks=160) as server:

        async def ask(number):
            body = {"prompt": f"who {number % 5} " * 60, "max_tokens": 30, "ignore_eos": True, "stream": True}
            async with http.post(f"{server.url}{COMPLETIONS}", json=body) as response:
                if number % 3 == 0:
                    await response.content.readline()
                    return response.close()
                return (await response.text()).count('"text":')

        told = await asyncio.gather(*map(ask, range(64)))
        assert [count for count in told if count is not None] == [30] * 42
        await until(lambda: server.engine.gauges().running == server.engine.gauges().waiting == 0)
        assert server.engine.gauges().kv_usage == 0.0


async def test_usage_tells_cached_tokens_when_asked_to(post):
    for cached in (0, 64):
        _, body = await post(COMPLETIONS, {"prompt": list(range(70)), "max_tokens": 1})
        assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}


async def test_errors_are_answered_and_leave_nothing_behind(http, server, post, until):
    for _ in range(20):
        assert (await post(COMPLETIONS, {"prompt": "x", "model": "nope"}))[0] == 404
        assert (await post(COMPLETIONS, {"prompt": "x", "max_tokens": 0}))[0] == 400
        async with http.post(f"{server.url}{COMPLETIONS}", data=b"{bad json") as response:
            assert response.status == 400
            assert (await response.json())["error"]["type"] == "Bad Request"
    gauges = server.engine.gauges()
    assert (gauges.running, gauges.waiting, gauges.kv_usage) == (0, 0, 0.0)


async def test_a_body_that_breaks_its_encoding_is_the_client_s_fault(http, server):
    async with http.post(f"{server.url}{COMPLETIONS}", data=b"{}", headers={"Content-Encoding": "gzip"}) as response:
        assert response.status == 400
        assert "Content-Encoding" in (await response.json())["error"]["message"]


async def test_a_prompt_of_ten_megabytes_is_read_and_judged(http, server):
    body = io.BytesIO(json.dumps({"prompt": "x" * 11_000_000}).encode())
    async with http.post(f"{server.url}{COMPLETIONS}", data=body) as response:
        assert response.status == 400
        assert "maximum context length is 8192" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_hangs_up_frees_its_seat(http, until, streamed):
    async with lab_server(speed=1) as server:
        body = {"prompt": "x", "max_tokens": 5000, "ignore_eos": True, "stream": streamed}
        asking = asyncio.ensure_future(http.post(f"{server.url}{COMPLETIONS}", json=body))
        await until(lambda: server.engine.gauges().running == 1)
        if streamed:
            (await asking).close()
        else:
            asking.cancel()
        await until(lambda: server.engine.gauges().running == 0)
        assert server.engine.gauges().kv_usage == 0.0


async def test_adapters_come_and_go_at_run_time(http):
    async with lab_server(speed=200, enable_lora=True) as server:

        async def post(path, **body):
            async with http.post(f"{server.url}{path}", json=body) as response:
                return response.status, await response.text()

        load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
        assert (await post(COMPLETIONS, model="x", prompt="p"))[0] == 404
        assert await post(load, lora_name="x", lora_path="/anywhere") == (
            200,
            "Success: LoRA adapter 'x' added successfully.",
        )
        status, text = await post(load, lora_name="x", lora_path="/anywhere")
        assert (status, json.loads(text)["error"]["type"]) == (400, "InvalidUserInput")
        assert (await post(load, lora_name="y"))[0] == 400
        answers = [await post(COMPLETIONS, model=model, prompt="p", temperature=0) for model in ("x", "lab/llama-3-8b")]
        texts = {json.loads(text)["choices"][0]["text"] for _, text in answers}
        assert len(texts) == 2, "an adapter does not speak like its base"
        assert (await post(unload, lora_name="x"))[0] == 200
        assert (await post(unload, lora_name="x"))[0] == 404
        assert (await post(COMPLETIONS, model="x", prompt="p"))[0] == 404


async def test_without_lora_there_are_no_adapter_paths(post):
    assert await post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/"}) == (404, {"detail": "Not Found"})


def test_stopping_lets_running_requests_finish_and_refuses_new_ones(until):
    """On a clock that leaps: on a busy machine the request would have ended before anything was refused."""

    async def stop():
        async with aiohttp.ClientSession() as http:
            server = LabServer()
            await server.start()
            asking = asyncio.ensure_future(
                http.post(f"{server.url}{COMPLETIONS}", json={"prompt": "x", "max_tokens": 20, "ignore_eos": True})
            )
            await until(lambda: server.engine.gauges().running == 1)
            stopping = asyncio.ensure_future(server.stop(drain_s=30.0))
            await asyncio.sleep(0)
            async with http.get(f"{server.url}/health") as health:
                assert health.status == 503
            async with http.post(f"{server.url}{COMPLETIONS}", json={"prompt": "x"}) as refused:
                assert refused.status == 503
            body = await (await asking).json()
            assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("length", 20)
            await stopping

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(stop())


@pytest.mark.parametrize("streamed", [True, False])
async def test_stopping_at_once_ends_running_requests_as_aborted(http, until, streamed):
    server = LabServer()
    await server.start()
    body = {"prompt": "x", "max_tokens": 5000, "ignore_eos": True, "stream": streamed}
    asking = asyncio.ensure_future(http.post(f"{server.url}{COMPLETIONS}", json=body))
    await until(lambda: server.engine.gauges().running == 1)
    await server.stop()
    text = await (await asking).text()
    assert '"finish_reason":"abort"' in text
    assert text.endswith("data: [DONE]\n\n") is streamed


async def test_a_stopped_server_starts_again_where_it_was(http):
    server = LabServer()
    for _ in range(2):
        async with server, http.get(f"{server.url}/health") as response:
            assert response.status == 200


async def test_a_taken_port_is_named():
    async with lab_server() as server:
        with pytest.raises(ParamsError, match=rf"cannot listen on 127\.0\.0\.1:{server.port}: .*in use.*--port"):
            await LabServer(port=server.port).start()


async def test_it_listens_on_ipv6(http):
    async with lab_server(host="::1") as server, http.get(f"{server.url}/health") as response:
        assert server.url.startswith("http://[::1]:")
        assert response.status == 200


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_picture_counts_in_the_bill_and_in_tokenize_alike(http, streamed):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [picture, {"type": "text", "text": "what is it?"}]}]}
    async with lab_server(speed=200, media_tokens=100) as server:
        async with http.post(f"{server.url}/tokenize", json=body) as response:
            count = (await response.json())["count"]
        more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        async with http.post(f"{server.url}{CHAT}", json=body | {"max_tokens": 2, "n": 2} | more) as response:
            text = await response.text()
        assert count > 100
        assert f'"prompt_tokens":{count},' in text
        async with http.get(f"{server.url}/metrics") as response:
            page = await response.text()
        assert 'vllm:mm_cache_queries_total{engine="0",model_name="lab/llama-3-8b"} 1.0' in page
        assert 'shunter_lab_encodings_total{engine="0",model_name="lab/llama-3-8b",source="computed"} 1.0' in page


async def test_who_reads_text_only_tells_of_no_encoder(http, server):
    async with http.get(f"{server.url}/metrics") as response:
        assert "encodings" not in await response.text()
