"""One worker as its surroundings see it: Envoy over gRPC, people over HTTP, a supervisor by signals."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import grpc
import grpc.aio
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from shunter.picker import config
from shunter.picker.core.ledger import first_ticket
from shunter.picker.errors import ConfigError
from shunter.picker.shell.worker import Settings, Worker
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, SnapshotWriter, Topology

DEADLINE_S = 20


@pytest.fixture
def writer(tmp_path):
    writer = SnapshotWriter(tmp_path)
    yield writer
    writer.close()


def publish(writer, *ports, generation=1):
    now_ns = time.monotonic_ns()
    endpoints = tuple(
        Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address="127.0.0.1", port=port, pools=(0,))
        for at, port in enumerate(ports)
    )
    writer.publish_topology(Topology(epoch=1, generation=generation, pools=(Pool(name="p"),), endpoints=endpoints), now_ns)
    fresh = {"health": Health.FRESH, "sampled_ns": now_ns, "waiting": 1.0, "running": 2.0, "kv_usage": 0.5}
    rows = [LoadRow(slot=at, incarnation=1, **fresh) for at in range(len(ports))]
    writer.publish_load(Load.of(rows, epoch=1, topology_generation=generation, published_ns=now_ns))


@pytest.fixture
async def start(tmp_path):
    workers = []

    async def start(**settings):
        worker = Worker(
            config.load().policy,
            Settings(snapshot=tmp_path, port=0, health_port=0, admin_port=0, drain_s=0.2, seed=1, **settings),
        )
        await worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        await worker.drain()


async def get(worker, path):
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{worker.ports[1]}{path}") as response:
        return response.status, await response.text()


async def eventually(ask):
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := await ask()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return answer


def header(name, value):
    return base_pb2.HeaderValue(key=name, raw_value=value.encode())


async def exchange(worker, body):
    """What Envoy does in the profile lean."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.ports[0]}") as channel:
        process = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=ext_proc.ProcessingRequest.SerializeToString,
            response_deserializer=ext_proc.ProcessingResponse.FromString,
        )
        stream = process()
        request = ext_proc.ProcessingRequest()
        request.request_headers.headers.headers.extend(
            [header(":path", "/v1/chat/completions"), header(":method", "POST"), header("x-request-id", "r-1")]
        )
        request.protocol_config.request_body_mode = 2
        await stream.write(request)
        await stream.read()
        request = ext_proc.ProcessingRequest()
        request.request_body.body = json.dumps(body).encode()
        request.request_body.end_of_stream = True
        await stream.write(request)
        answer = await stream.read()
        await stream.done_writing()
        await stream.read()
        return answer


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_request_gets_the_endpoint_of_the_snapshot(start, writer, transport):
    publish(writer, 7001)
    answer = await exchange(await start(transport=transport), CHAT)
    lb = answer.dynamic_metadata["envoy.lb"]
    assert lb["x-gateway-destination-endpoint"] == "127.0.0.1:7001"
    assert lb["id"] == str(first_ticket(1) + 1)


async def test_a_socket_by_name_serves_ext_proc_and_the_admin_stays_on_loopback(start, writer, tmp_path):
    publish(writer, 7001)
    worker = await start(host=f"unix:{tmp_path}/picker.sock")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/picker.sock") as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert (await get(worker, "/healthz"))[0] == 200


async def test_without_a_snapshot_it_is_not_ready_and_says_why(start):
    worker = await start()
    status, text = await get(worker, "/readyz")
    assert status == 503
    assert "does not exist; is the scraper running" in json.loads(text)["hindrances"][0]
    answer = await exchange(worker, CHAT)
    assert answer.immediate_response.status.code == 503


async def test_it_becomes_ready_when_the_snapshot_comes(start, writer):
    worker = await start()
    assert (await get(worker, "/readyz"))[0] == 503
    publish(writer, 7001)

    async def serving():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.ports[0]}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return answer.status == health_pb2.HealthCheckResponse.SERVING and (await get(worker, "/readyz"))[0] == 200

    await eventually(serving)


async def test_it_follows_the_snapshot(start, writer):
    publish(writer, 7001)
    worker = await start()
    await exchange(worker, CHAT)
    publish(writer, 7002, generation=2)
    answer = await exchange(worker, CHAT)
    assert answer.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == "127.0.0.1:7002"


async def test_the_fleet_page_has_the_load_and_the_account(start, writer):
    publish(writer, 7001, 7002)
    worker = await start()
    await exchange(worker, CHAT)

    async def settled():
        rows = json.loads((await get(worker, "/debug/fleet"))[1])["endpoints"]
        return rows if not any(row["in_flight"] for row in rows) else None

    rows = await eventually(settled)
    assert [row["authority"] for row in rows] == ["127.0.0.1:7001", "127.0.0.1:7002"]
    assert {row["health"] for row in rows} == {"fresh"}
    assert [(row["waiting"], row["running"], row["kv_usage"]) for row in rows] == [(1.0, 2.0, 0.5)] * 2
    assert sum(row["picks"] for row in rows) == 1


async def test_the_decisions_page_explains_and_never_shows_a_prompt(start, writer):
    publish(writer, 7001)
    worker = await start()
    secret = {"model": "m", "messages": [{"role": "user", "content": "correct horse battery staple"}]}
    await exchange(worker, secret)
    status, text = await get(worker, "/debug/decisions?last=5")
    (decision,) = json.loads(text)["decisions"]
    assert status == 200
    assert (decision["request_id"], decision["chosen"]) == ("r-1", ["127.0.0.1:7001"])
    assert "horse" not in text
    assert (await get(worker, "/debug/decisions?last=many"))[0] == 400


async def test_the_metrics_page_is_prometheus_text_and_adds_up(start, writer):
    publish(writer, 7001)
    worker = await start()
    await exchange(worker, CHAT)
    await exchange(worker, {"messages": []})
    status, text = await get(worker, "/metrics")
    assert status == 200
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["shunter_picker_picks_total", "127.0.0.1:7001"] == 1
    assert samples["shunter_picker_refusals_total", "BadRequest"] == 1
    assert samples["llm_d_epp_ready_endpoints", "default"] == 1
    assert samples["llm_d_epp_average_queue_size", "default"] == 1.0
    assert 0 <= samples[("shunter_picker_snapshot_age_seconds",)] < DEADLINE_S


@pytest.mark.parametrize("which", ["port", "health_port", "admin_port"])
async def test_a_taken_port_is_named_and_nothing_stays_open(tmp_path, which):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        ports = {"port": 0, "health_port": 0, "admin_port": 0} | {which: taken}
        worker = Worker(config.load().policy, Settings(snapshot=tmp_path, **ports))
        with pytest.raises(ConfigError, match=str(taken)):
            await worker.start()


def shunter(*arguments):
    command = [sys.executable, "-m", "shunter.picker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_sigterm_drains_and_exits_0(tmp_path):
    command = [sys.executable, "-m", "shunter.picker", "run", "--snapshot", str(tmp_path)]
    ports = ["--port=0", "--health-port=0", "--admin-port=0"]
    process = subprocess.Popen([*command, *ports], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "ext_proc on 127.0.0.1:" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(DEADLINE_S) == 0
        assert "draining" in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_an_unknown_plugin_is_refused_before_anything_starts(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: quue-scorer\n")
    for command in (["check", "-f", str(path)], ["run", "--config", str(path), "--snapshot", str(tmp_path)]):
        done = shunter(*command)
        assert done.returncode == 2
        assert "$.plugins[0].type" in done.stderr
        assert "queue-scorer" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_limits_are_options_and_checked(tmp_path):
    done = shunter("run", "--snapshot", str(tmp_path), "--body-bytes", "4096", "--buffered-bytes", "10")
    assert done.returncode == 2
    assert "raise --buffered-bytes or lower --body-bytes" in done.stderr


async def test_the_pages_show_the_pool_that_is_served(start, writer):
    publish(writer, 7001)
    assert len((await start()).overview().endpoints) == 1
    assert not (await start(pool="another")).overview().endpoints


def test_a_missing_file_is_named(tmp_path):
    done = shunter("check", "-f", str(tmp_path / "absent.yaml"))
    assert done.returncode == 2
    assert "absent.yaml: No such file or directory" in done.stderr


def test_check_prints_every_default_and_its_own_output_passes(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n")
    first = shunter("check", "-f", str(path))
    assert first.returncode == 0, first.stderr
    path.write_text(first.stdout)
    assert shunter("check", "-f", str(path)).stdout == first.stdout


def test_plugins_and_schema_are_printed():
    assert "prefix-cache-scorer" in shunter("plugins").stdout
    assert json.loads(shunter("schema").stdout)["$defs"]
