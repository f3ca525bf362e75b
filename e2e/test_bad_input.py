"""What a client gets for what it should not have sent, and that it cannot choose the endpoint."""

import asyncio
import json

import pytest

pytestmark = pytest.mark.envoy


async def test_bad_json_is_400_in_openai_form(client):
    reply = await client.post(b'{"model": "lab/llama-3-8b", "messages": [')
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/json"
    error = json.loads(reply.body)["error"]
    assert error["message"].startswith("inference error: BadRequest - ")
    assert "served" not in " ".join(reply.headers), "no engine saw it"


async def test_a_missing_model_is_400(client):
    reply = await client.post(b'{"messages": [{"role": "user", "content": "x"}]}')
    assert reply.status == 400
    assert "model not found in request body" in json.loads(reply.body)["error"]["message"]


async def test_an_unknown_model_is_for_the_engines_to_refuse(client):
    reply = await client.chat("x", model="nobody-has-this")
    assert reply.status == 404
    assert "nobody-has-this" in json.loads(reply.body)["error"]["message"]
    log = await client.log(reply.request_id)
    assert log["served"], "an engine answered, not the picker"
    assert log["details"] == "via_upstream"


async def test_ten_megabytes_reach_the_engine_whole(client):
    """10 MB is within the limit: the engine gets it all, and its own answer (the prompt is too long) comes back."""
    reply = await client.chat("x" * 10_000_000)
    assert reply.status == 400
    error = json.loads(reply.body)["error"]
    assert "inference error" not in error["message"], "the engine's words, not the picker's"
    log = await client.log(reply.request_id)
    assert log["bytes_received"] > 10_000_000
    assert log["details"] == "via_upstream"


async def test_more_than_the_limit_is_413(client):
    reply = await client.chat("x" * (33 << 20))
    assert reply.status == 413
    assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"


async def test_a_client_cannot_steer(client):
    """Whoever names an endpoint itself, an existing one or a trap of its own, is routed like everybody else."""
    knocks = []

    async def trap(reader, writer):
        knocks.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(trap, "127.0.0.1", 0)
    async with server:
        mine = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for wish in (mine, client.stack.state.plan.engines[2].authority):
            headers = {"x-gateway-destination-endpoint": wish, "x-gateway-destination-endpoint-subset": wish}
            replies = [await client.chat(f"steer {n}", headers=headers) for n in range(4)]
            for reply in replies:
                decision = await client.decision(reply.request_id)
                assert reply.status == 200
                assert reply.served == decision.chosen[0]
            assert mine not in {reply.served for reply in replies}
    assert not knocks


async def test_headers_with_underscores_are_refused(client):
    """Behind a CGI-like server ``x_gateway_…`` and ``x-gateway-…`` are the same header."""
    reply = await client.chat("x", headers={"x_gateway_destination_endpoint": "127.0.0.1:1"})
    assert reply.status == 400
