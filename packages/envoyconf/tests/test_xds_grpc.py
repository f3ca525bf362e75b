"""A second implementation of the client's side: gRPC's own, which asks for everything by name, in the state of the world."""

import asyncio
import contextlib
import json
import os
import sys
import time

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shunter.envoyconf.core.envoy.dynamic import Division
from shunter.envoyconf.core.envoy.remote import AGGREGATED
from shunter.envoyconf.core.protojson import extension, typed
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.members import Member, assignment
from shunter.envoyconf.shell.ads import Server

# gRPC reads where its control plane is once, when it is loaded: hence another process. It prints who answered, or the error.
CALLS = """
import grpc, time
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel("xds:///svc") as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    while True:
        try:
            answer = stub.Check.with_call(health_pb2.HealthCheckRequest(), timeout=20)[1]
            print(dict(answer.initial_metadata())["who"], flush=True)
        except grpc.RpcError as error:
            print("error", error.code(), error.details(), flush=True)
        time.sleep(0.02)
"""


class Named(health_pb2_grpc.HealthServicer):
    """Says which one it is."""

    def __init__(self, name):
        self.name = name

    async def Check(self, request, context):
        await context.send_initial_metadata([("who", self.name)])
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
async def servers():
    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for name in ("first", "second"):
            server = grpc.aio.server()
            health_pb2_grpc.add_HealthServicer_to_server(Named(name), server)
            ports.append(server.add_insecure_port("127.0.0.1:0"))
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield ports


def division(ports, **cluster):
    """Return what a gRPC client needs to reach these ports as `svc`."""
    router = extension("router", "extensions.filters.http.router.v3.Router")
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        rds={"config_source": AGGREGATED, "route_config_name": "routes"},
        http_filters=[router],
    )
    routes = [{"match": {"prefix": ""}, "route": {"cluster": "pool"}}]
    eds = {"type": "EDS", "eds_cluster_config": {"eds_config": AGGREGATED, "service_name": "members"}}
    members = [Member("127.0.0.1", port) for port in ports]
    return Division(
        {},
        {
            Kind.CLUSTER: {"pool": {"name": "pool", **eds, **cluster}},
            Kind.ENDPOINTS: {"members": assignment("members", members)},
            Kind.LISTENER: {"svc": {"name": "svc", "api_listener": {"api_listener": manager}}},
            Kind.ROUTES: {"routes": {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}},
        },
    )


async def test_a_grpc_client_follows_and_says_what_it_refuses(servers, until):
    first, second = servers
    plane = Server(envoy_schema(), time.monotonic)
    await plane.replace(division([first]))
    port = await plane.start("127.0.0.1", 0)
    where = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    config = json.dumps({"xds_servers": [where], "node": {"id": "grpc-python"}})
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": config, "GRPC_VERBOSITY": "NONE"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CALLS, env=environment, stdout=asyncio.subprocess.PIPE)

    async def answers(wanted):
        async with asyncio.timeout(20):
            while (line := (await process.stdout.readline()).decode()).strip() != wanted:
                assert line, "the client has ended"  # of one that has, reading never waits
                assert not line.startswith("error"), line

    try:
        await answers("first")
        await plane.move({"members": [Member("127.0.0.1", second)]})
        await answers("second")
        override = extension("one", "extensions.load_balancing_policies.override_host.v3.OverrideHost")
        await plane.replace(division([second], load_balancing_policy={"policies": [{"typed_extension_config": override}]}))
        await until(lambda: plane.report().refused)
        (seen,) = plane.report().clients
        assert seen.node.id == "grpc-python"
        assert "policy" in seen.kinds["CDS"].refused.lower()
        await answers("second")
        await plane.replace(division([first]))
        await answers("first")
        assert plane.report().clients[0].kinds["CDS"].refused is None
    finally:
        process.kill()
        await process.communicate()
        await plane.stop()


@pytest.mark.parametrize("method", ["StreamAggregatedResources", "DeltaAggregatedResources"])
async def test_a_control_plane_that_ends_cuts_nobody_off(until, method):
    """What gRPC cuts it complains of, on the standard error of the control plane."""
    plane = Server(envoy_schema(), time.monotonic)
    port = await plane.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}")()
        await call.write(b"")
        await until(lambda: plane.report().clients)
        await plane.stop()
        assert await call.code() is grpc.StatusCode.OK
