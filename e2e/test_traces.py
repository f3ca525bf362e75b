"""One trace from the client through Envoy and the picker to the model server, read from our own file and from a real Jaeger."""

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request

import aiohttp
import pytest

from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy

CALLER = "b7ad6b7169203331"
SERVICES = {"inference-gateway", "shunter-picker", "engine-0"}


@pytest.fixture(scope="module")
def traced():
    with running_stack("--traces", "--engines", "1") as stack:
        yield stack


@pytest.fixture
async def ask(traced):
    """Send a request with these headers, and return the id that it was called by."""

    async def ask(request_id, **headers):
        body = {"model": traced.state.plan.model, "prompt": "Which track?", "max_tokens": 6, "stream": True}
        async with session.post(
            f"{traced.gateway}/v1/completions", json=body, headers={"x-request-id": request_id, **headers}
        ) as response:
            assert response.status == 200
            await response.read()
        return request_id

    async with aiohttp.ClientSession() as session:
        yield ask


def explain(stack, *arguments):
    command = [sys.executable, "-m", "shunter.stack.cli", "explain", "--name", stack.name, "--trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def spans_of(document):
    """The spans of an OTLP document by their names, with their services and their attributes in a plain form."""
    found = {}
    for resource in document["resourceSpans"]:
        (service,) = [
            each["value"]["stringValue"] for each in resource["resource"]["attributes"] if each["key"] == "service.name"
        ]
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                told = {each["key"]: next(iter(each["value"].values())) for each in span.get("attributes", ())}
                found[span["name"]] = span | {"service": service, "told": told}
    return found


async def test_a_request_is_one_trace_from_its_client_to_its_model_server(traced, ask, eventually):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    request_id = await ask("mine", traceparent=f"00-{trace}-{CALLER}-01")

    def whole():
        done = explain(traced, request_id, "--json")
        spans = spans_of(json.loads(done.stdout)) if not done.returncode else {}
        return spans if {span["service"] for span in spans.values()} == SERVICES and "ingress" in spans else None

    spans = await eventually(whole)
    question = next(span for name, span in spans.items() if "ExternalProcessor" in name)
    attempt = next(span for name, span in spans.items() if name.startswith("router"))
    chain = [spans["ingress"], question, spans["gateway.request"], spans["gateway.request_orchestration"]]
    assert {span["traceId"] for span in spans.values()} == {trace}
    assert [span["parentSpanId"] for span in chain] == [CALLER, *(span["spanId"] for span in chain[:-1])]
    assert spans["run_scheduler_profile"]["parentSpanId"] == chain[-1]["spanId"]
    assert (attempt["parentSpanId"], spans["llm_request"]["parentSpanId"]) == (chain[0]["spanId"], attempt["spanId"])
    told = spans["gateway.request"]["told"]
    assert (told["gen_ai.request.id"], told["gen_ai.operation.name"]) == (request_id, "text_completion")
    assert told["http.response.status_code"] == "200"
    assert float(told["gen_ai.response.time_to_first_chunk"]) > 0
    assert f"{told['server.address']}:{told['server.port']}" == attempt["told"]["upstream_address"]
    assert "was the only candidate" in spans["run_scheduler_profile"]["told"]["shunter.reason"]
    assert "Which track?" not in str(spans)
    tree = explain(traced, request_id).stdout
    assert tree.startswith(f"trace {trace}, {len(spans)} spans of 3 services\n")


async def test_a_request_that_its_client_does_not_want_traced_is_not(traced, ask):
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    await ask("secretive", traceparent=f"00-{trace}-{CALLER}-00")
    done = explain(traced, trace)
    assert done.returncode == 2
    assert f"no trace of {trace}" in done.stderr


async def test_jaeger_shows_the_same_trace(traced, ask, eventually):
    if "jaeger" not in traced.state.pids:
        pytest.skip("no Jaeger: hack/observability/install-jaeger builds it into $SHUNTER_TOOLS_DIR/bin")
    trace = "6bf92f3577b34da6a3ce929d0e0e4736"
    await ask("shown", traceparent=f"00-{trace}-{CALLER}-01")
    jaeger = f"http://127.0.0.1:{traced.state.plan.ports.jaeger}"

    def whole():
        try:
            with urllib.request.urlopen(f"{jaeger}/api/traces/{trace}") as answer:
                (found,) = json.load(answer)["data"]
        except urllib.error.HTTPError:  # 404: nothing yet
            return None
        return found if len(found["spans"]) == 7 else None

    shown = await eventually(whole)
    assert {each["serviceName"] for each in shown["processes"].values()} == SERVICES
    parents = {each["spanID"] for span in shown["spans"] for each in span["references"]}
    assert parents - {span["spanID"] for span in shown["spans"]} == {CALLER}
    # What its user interface makes of a file.
    document = explain(traced, trace, "--json").stdout.encode()
    request = urllib.request.Request(f"{jaeger}/api/transform", document, {"content-type": "application/json"})
    with await asyncio.to_thread(urllib.request.urlopen, request) as answer:
        assert len(json.load(answer)["data"][0]["spans"]) == 7
