"""The command `serve` as a process: it follows files and the scraper's snapshot, may die, and shows what it does."""

import asyncio
import contextlib
import json
import re
import signal
import sys
import time

import aiohttp
import grpc
import grpc.aio
import pytest
import trustme
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.envoy.remote import remote_bootstrap
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.shell import live
from shunter.envoyconf.shell.plane import Place, Sight, run
from shunter.envoyconf.testing import running_envoy
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, SnapshotWriter, Topology


class Process:
    """One run of `serve`."""

    def __init__(self, process, port, status, warnings):
        self.process = process
        self.port = port
        self.status = status
        self.warnings = warnings

    async def page(self, path):
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{self.status}{path}") as answer:
            return answer.status, await answer.text()

    async def end(self, number=signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        await self.process.communicate()
        return self.process.returncode


@pytest.fixture
async def start(tmp_path):
    """Write an intent and start `serve` with it; all are ended."""
    running = []

    async def start(*options, intent=None, port=0):
        path = tmp_path / "intent.yaml"
        if intent is not None:
            path.write_text(json.dumps(intent))
        command = [sys.executable, "-m", "shunter.envoyconf", "serve", "-f", path, "--port", str(port), "--status-port", "0"]
        process = await asyncio.create_subprocess_exec(*command, *options, stderr=asyncio.subprocess.PIPE)
        running.append(process)
        warnings = []
        while (line := (await process.stderr.readline()).decode()).startswith("Warning: "):
            warnings.append(line)
        ports = re.findall(r":(\d+)", line)
        if len(ports) != 2:
            raise AssertionError(line + (await process.stderr.read()).decode())
        return Process(process, *map(int, ports), "".join(warnings))

    yield start
    for process in running:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def intent(endpoints, port=1, **fields):
    pool = {"name": "llama", "endpoints": endpoints, "picker": {"addresses": ["127.0.0.1:1"]}}
    plane = {"addresses": [f"127.0.0.1:{port}"]}
    return {"pools": [pool], "listeners": [{"port": 0}], "controlPlane": plane} | fields


@contextlib.asynccontextmanager
async def asking(target, credentials=None):
    """Open a stream in the delta form, and give what subscribes to a kind and returns the names in the response."""
    channel = grpc.aio.secure_channel(target, credentials) if credentials else grpc.aio.insecure_channel(target)
    async with channel:
        call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources()

        async def ask(kind):
            await call.write(discovery_pb2.DeltaDiscoveryRequest(node={"id": "test"}, type_url=kind.url))
            return [each.name for each in (await call.read()).resources]

        yield ask
        call.cancel()


@pytest.mark.envoy
async def test_killed_it_is_not_missed_and_back_it_goes_on(start, scene, until):
    first, second = (each.authority for each in scene.upstreams)
    plane = await start(intent=intent([first]))
    bootstrap = remote_bootstrap(load_intent(json.dumps(intent([first], plane.port))), Settings())
    busy = scene.upstreams[0]
    async with running_envoy(bootstrap, scene.binary) as gateway:
        assert (await scene.ask(gateway))[:2] == (200, first)
        busy.pieces = [b"data: 1\n\n", b"data: 2\n\n"]
        streams = [asyncio.create_task(scene.ask(gateway)) for _ in range(4)]
        await until(lambda: len(busy.requests) == 5)
        busy.pieces = None
        await plane.end(signal.SIGKILL)
        for _ in range(5):
            assert (await scene.ask(gateway))[:2] == (200, first)
        plane = await start(intent=intent([second]), port=plane.port)

        async def moved():
            return (await scene.ask(gateway))[:2] == (200, second)

        await until(moved)
        for _ in range(8):
            busy.go.release()
        assert [answer[:2] for answer in await asyncio.gather(*streams)] == [(200, "data: 1\n\ndata: 2\n\n")] * 4
        assert await plane.end() == 0


async def test_a_changed_intent_is_taken_up_and_a_bad_one_shown_and_said(start, tmp_path, until):
    plane = await start(intent=intent(["127.0.0.1:1"]))
    path = tmp_path / "intent.yaml"
    assert await plane.page("/readyz") == (200, "ready\n")

    def renamed(text):
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(path)

    async def not_ready():
        status, _ = await plane.page("/readyz")
        return status == 503

    async def ready():
        status, _ = await plane.page("/readyz")
        return status == 200

    renamed(json.dumps(intent(["127.0.0.1:1"], profil="lean")))
    await until(not_ready)
    assert "unknown field 'profil'" in (await plane.page("/"))[1]
    assert b"unknown field 'profil'" in await plane.process.stderr.readline()
    async with asking(f"127.0.0.1:{plane.port}") as ask:
        assert await ask(Kind.CLUSTER) == ["picker/llama", "pool/llama"]
    renamed(json.dumps(intent(["127.0.0.1:1"], profile="native")))
    await until(ready)
    async with asking(f"127.0.0.1:{plane.port}") as ask:
        assert await ask(Kind.CLUSTER) == ["native/llama", "native/llama/keyed"]


async def test_an_intent_in_a_mounted_config_map_is_followed(start, tmp_path, until):
    mounted = tmp_path / "intent.yaml"  # a directory, as `start` names what it gives to -f
    mounted.mkdir()

    def replaced(number, text):
        (mounted / f"..{number}").mkdir()
        (mounted / f"..{number}" / "intent.yaml").write_text(text)
        (mounted / "..new").symlink_to(f"..{number}")
        (mounted / "..new").rename(mounted / "..data")

    replaced(1, json.dumps(intent(["127.0.0.1:1"])))
    (mounted / "intent.yaml").symlink_to("..data/intent.yaml")
    plane = await start()
    replaced(2, "pool: []")

    async def refused():
        return "unknown field 'pool'" in (await plane.page("/readyz"))[1]

    await until(refused)


class Scraper:
    """Publishes endpoints of one pool."""

    def __init__(self, directory):
        self.writer = SnapshotWriter(directory)
        self.generation = 0

    def publish(self, *endpoints, pool="llama", waiting=0.0):
        """Publish (port, ready) pairs."""
        self.generation += 1
        now_ns = time.monotonic_ns()
        rows = [
            Endpoint(slot=slot, incarnation=1, name=str(port), address="127.0.0.1", port=port, ready=ready, pools=(0,))
            for slot, (port, ready) in enumerate(endpoints)
        ]
        topology = Topology(epoch=1, generation=self.generation, pools=(Pool(name=pool),), endpoints=tuple(rows))
        loads = [
            LoadRow(slot=row.slot, incarnation=1, health=Health.FRESH, sampled_ns=now_ns, waiting=waiting, running=1.0)
            for row in rows
        ]
        self.writer.publish_topology(topology, now_ns)
        self.writer.publish_load(Load.of(loads, epoch=1, topology_generation=self.generation, published_ns=now_ns))


@pytest.fixture
def scraper(tmp_path):
    directory = tmp_path / "snapshot"
    directory.mkdir(mode=0o700)
    scraper = Scraper(directory)
    yield scraper
    scraper.writer.close()


@pytest.mark.envoy
async def test_endpoints_follow_the_scraper_and_unready_ones_leave(start, scene, scraper, tmp_path, until):
    first, second = (int(each.authority.rpartition(":")[2]) for each in scene.upstreams)
    scraper.publish((first, True), (second, False))
    plane = await start("--snapshot", tmp_path / "snapshot", intent=intent(["127.0.0.1:1"]))
    bootstrap = remote_bootstrap(load_intent(json.dumps(intent([], plane.port) | {"pools": [POOL]})), Settings())
    async with running_envoy(bootstrap, scene.binary) as gateway:
        assert {(await scene.ask(gateway))[1] for _ in range(6)} == {f"127.0.0.1:{first}"}
        scraper.publish((first, False), (second, True))

        async def moved():
            return (await scene.ask(gateway))[1] == f"127.0.0.1:{second}"

        await until(moved)
        assert {(await scene.ask(gateway))[1] for _ in range(6)} == {f"127.0.0.1:{second}"}


POOL = {"name": "llama", "selector": {"app": "vllm"}}


async def test_a_pool_that_the_scraper_does_not_know_keeps_its_endpoints_until_it_does(start, scraper, tmp_path, until):
    scraper.publish((7, True), pool="other")
    plane = await start("--snapshot", tmp_path / "snapshot", intent=intent(["127.0.0.1:5"]))

    async def endpoints():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}") as channel:
            call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
            await call.write(discovery_pb2.DiscoveryRequest(type_url=Kind.ENDPOINTS.url, resource_names=["pool/llama"]))
            data = (await call.read()).resources[0].value
            call.cancel()
            return data

    before = await endpoints()
    scraper.publish((7, True))

    async def changed():
        return await endpoints() != before

    await until(changed)


async def test_endpoints_follow_although_the_intent_can_no_longer_be_used(start, scraper, tmp_path, until):
    scraper.publish((7, True), pool="other")
    named = intent(["vllm.test:80"])
    plane = await start("--snapshot", tmp_path / "snapshot", intent=named)
    (tmp_path / "intent.yaml").write_text("pool: []")

    async def refused():
        return "unknown field 'pool'" in (await plane.page("/readyz"))[1]

    await until(refused)
    before = json.loads((await plane.page("/status"))[1])["versions"]["CDS"]
    scraper.publish((7, True))

    async def changed():
        return json.loads((await plane.page("/status"))[1])["versions"]["CDS"] != before

    await until(changed)


async def test_who_waits_for_a_scraper_can_be_told_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "FIRST_VIEW_S", 1e9)
    (tmp_path / "intent.yaml").write_text(json.dumps(intent(["127.0.0.1:1"])))
    sight = Sight(sources=(str(tmp_path / "intent.yaml"),), snapshot=tmp_path)
    said = []
    running = asyncio.create_task(run(sight, Place(), Settings(), said.append, said.extend))
    await asyncio.sleep(0)  # until it waits for what may happen, signals too
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await running
    assert said == []


async def test_what_is_not_served_is_said(start):
    routes = [{"pool": "llama", "models": ["m"], "rewrites": [{"model": "m-v1"}]}]
    plane = await start("--envoy-version", "1.36", intent=intent(["127.0.0.1:1"], routes=routes))
    assert "Envoy 1.36 has no request_body_buffer_limit above 1 MiB" in plane.warnings
    assert "rewrites are for pickers" in plane.warnings


async def test_what_is_said_is_json_for_whom_it_is_to_be(tmp_path):
    path = tmp_path / "intent.yaml"
    path.write_text(
        json.dumps(intent(["127.0.0.1:1"], routes=[{"pool": "llama", "models": ["m"], "rewrites": [{"model": "n"}]}]))
    )
    command = [
        sys.executable,
        "-m",
        "shunter.envoyconf",
        "serve",
        "-f",
        path,
        "--log-format=json",
        "--port=0",
        "--status-port=0",
    ]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        said = []
        while not said or said[-1]["level"] == "warning":
            said.append(json.loads(await process.stderr.readline()))
    finally:
        process.kill()
        await process.communicate()
    assert "rewrites are for pickers" in said[0]["message"]
    assert (said[-1]["level"], said[-1]["process"]) == ("info", "envoyconf")
    assert "Envoys are served on 127.0.0.1:" in said[-1]["message"]


async def test_that_envoys_have_to_be_started_anew_is_said(start, tmp_path):
    plane = await start(intent=intent(["127.0.0.1:1"], admin={"port": 9901}))
    (tmp_path / "intent.yaml").write_text(json.dumps(intent(["127.0.0.1:2"], admin={"port": 9902})))
    async with asyncio.timeout(30):
        line = (await plane.process.stderr.readline()).decode()
    assert line.startswith("Warning: what Envoys are started with has changed (admin, ")


async def test_without_a_certificate_of_the_right_ca_nobody_is_served_and_new_keys_count_at_once(start, tmp_path):
    ca, others = trustme.CA(), trustme.CA()
    cert, key, clients = (tmp_path / name for name in ("tls.crt", "tls.key", "clients.crt"))

    def issue(authority):
        pair = authority.issue_cert("localhost")
        cert.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(key)

    issue(ca)
    ca.cert_pem.write_to_path(clients)
    plane = await start("--tls-cert", cert, "--tls-key", key, "--client-ca", clients, intent=intent(["127.0.0.1:1"]))
    target = f"localhost:{plane.port}"

    def credentials(server, client):
        pair = client.issue_cert("envoy@example.com")
        chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
        return grpc.ssl_channel_credentials(server.cert_pem.bytes(), pair.private_key_pem.bytes(), chain)

    async with asking(target, credentials(ca, ca)) as ask:
        assert await ask(Kind.LISTENER) == ["http"]
    with pytest.raises(grpc.aio.AioRpcError):
        async with asking(target, credentials(ca, others)) as ask:
            await ask(Kind.LISTENER)
    issue(others)
    async with asking(target, credentials(others, ca)) as ask:
        assert await ask(Kind.LISTENER) == ["http"]


async def test_pages_tell_who_has_what(start):
    plane = await start(intent=intent(["127.0.0.1:1"]))
    async with asking(f"127.0.0.1:{plane.port}") as ask:
        await ask(Kind.LISTENER)
        text = (await plane.page("/"))[1]
        assert "test (" in text
        assert "LDS" in text
        assert "not yet current" in text
        assert json.loads((await plane.page("/status"))[1])["clients"][0]["node"]["id"] == "test"
        metrics = (await plane.page("/metrics"))[1]
        assert 'shunter_xds_responses_total{kind="LDS"} 1' in metrics
        assert "shunter_xds_clients 1" in metrics
    assert (await plane.page("/nothing"))[0] == 404


async def test_a_service_for_one_kind_serves_it(start):
    plane = await start(intent=intent(["127.0.0.1:1"]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}") as channel:
        call = channel.stream_stream(
            f"/{Kind.CLUSTER.service}/StreamClusters",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()
        await call.write(discovery_pb2.DiscoveryRequest())
        response = await call.read()
        assert (response.type_url, len(response.resources)) == (Kind.CLUSTER.url, 2)
        call.cancel()


async def test_bytes_that_are_no_request_end_their_stream_only(start):
    plane = await start(intent=intent(["127.0.0.1:1"]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}") as channel:
        call = channel.stream_stream("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")()
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with asking(f"127.0.0.1:{plane.port}") as ask:
        assert await ask(Kind.LISTENER) == ["http"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-f", "-"], "give a FILE or DIR"),
        (["--host", "nowhere"], "address 'nowhere' must be an IP address"),
        (["--client-ca", "ca.pem"], "--client-ca needs --tls-cert"),
        (["--tls-cert", "a.pem"], "of no use without each other"),
        (["--tls-cert", "a.pem", "--tls-key", "a.key"], "cannot read a.key: No such file"),
        (["--tls-cert", __file__, "--tls-key", __file__], "are no PEM certificate and its key"),
        (["--tls-cert", "a.pem", "--tls-key", "a.key", "--directory", "d"], "--tls-cert is of no use"),
        (["--envoy-version", "new"], "Envoy version 'new'"),
    ],
)
async def test_what_cannot_be_served_is_said_and_exit_code_2(start, options, words):
    with pytest.raises(AssertionError, match=re.escape(words)):
        await start(*options, intent=intent(["127.0.0.1:1"]))


async def test_a_port_that_is_taken_is_an_error_with_words(start):
    plane = await start(intent=intent(["127.0.0.1:1"]))
    with pytest.raises(AssertionError, match=f"cannot serve on 127.0.0.1:{plane.port}"):
        await start(port=plane.port)


@pytest.mark.envoy
async def test_envoy_shows_its_certificate_and_takes_the_plane_that_lives(start, scene, tmp_path):
    ca = trustme.CA()
    server, client = ca.issue_cert("control.test"), ca.issue_cert("edge-1.test")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, pair in (("server", server), ("client", client)):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    options = ["--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server.key", "--client-ca", tmp_path / "ca.pem"]
    wanted = intent([scene.upstreams[0].authority])
    plane = await start(*options, intent=wanted)
    tls = {"caFile": "ca.pem", "certFile": "client.pem", "keyFile": "client.key", "serverName": "control.test"}
    tls = {field: str(tmp_path / value) if field != "serverName" else value for field, value in tls.items()}
    wanted["controlPlane"] = {"addresses": [scene.nobody, f"127.0.0.1:{plane.port}"], "tls": tls}
    async with running_envoy(remote_bootstrap(load_intent(json.dumps(wanted)), Settings()), scene.binary) as gateway:
        assert (await scene.ask(gateway))[:2] == (200, scene.upstreams[0].authority)
