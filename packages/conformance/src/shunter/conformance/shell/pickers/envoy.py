"""A real Envoy before the picker, with a configuration of the exam's own: full duplex, fail-closed, `override_host`."""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shunter.conformance.core.addresses import split_address
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import LaunchError, Unanswered
from shunter.conformance.sections.pickers.asking import DESTINATION, METADATA
from shunter.conformance.sections.pickers.target import PICKED
from shunter.conformance.shell.launching.sessions import bound_to_us
from shunter.conformance.shell.pickers.servers import ANSWER, TURN, PlayedServer
from shunter.conformance.shell.wire import Wire

__all__ = ["Envoy"]

TYPE = "type.googleapis.com/envoy."

READY_WITHIN_S = 20.0
END_WITHIN_S = 5.0
LOOK_EVERY_S = 0.05


class Envoy:
    """One Envoy, from entering to leaving; see `sections.pickers.target.Proxy`."""

    answer = ANSWER

    def __init__(self, binary: Path, picker: str, servers: Sequence[PlayedServer], wire: Wire) -> None:
        self._binary, self._picker, self._servers, self._wire = binary, picker, servers, wire
        self._url = ""
        self._turn = 0
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="shunter-envoy-")
        try:
            await self._start(Path(self._home.name))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Exchange:
        self._turn += 1
        turn = {TURN: str(self._turn)}
        return await self._wire.exchange(method, self._url + path, body, turn | dict(headers or {}))

    def arrived(self) -> Sequence[tuple[str, bytes]]:
        turn = str(self._turn)
        return [(server.address, body) for server in self._servers for of, body in server.arrived if of == turn]

    async def _start(self, home: Path) -> None:
        config, admin, log = home / "envoy.json", home / "admin", home / "log"
        config.write_text(json.dumps(_bootstrap(self._picker, [each.address for each in self._servers])))
        words = ["-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "--admin-address-path", str(admin)]
        try:
            with log.open("wb") as out:
                self._process = await asyncio.create_subprocess_exec(
                    str(self._binary),
                    *words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    preexec_fn=bound_to_us(),
                )
        except OSError as error:
            raise LaunchError(f"--envoy {self._binary}: {error.strerror}") from None
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + READY_WITHIN_S
        while not self._url:
            if self._process.returncode is not None or clock() > deadline_s:
                raise LaunchError(f"--envoy {self._binary}: does not come up\n{log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(LOOK_EVERY_S)
            with suppress(OSError, Unanswered, ValueError, KeyError, IndexError):
                listening = await self._wire.exchange("GET", f"http://{admin.read_text()}/listeners?format=json")
                at = json.loads(listening.body)["listener_statuses"][0]["local_address"]["socket_address"]
                ready = await self._wire.exchange("GET", f"http://{admin.read_text()}/ready")
                self._url = f"http://{at['address']}:{at['port_value']}" if ready.status == 200 else ""

    async def _end(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(END_WITHIN_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._home:
            self._home.cleanup()


def _bootstrap(picker: str, servers: Sequence[str]) -> dict[str, Any]:
    return {
        "admin": {"address": _address("127.0.0.1:0")},
        "static_resources": {"listeners": [_listener()], "clusters": [_picker(picker), _pool(servers)]},
    }


def _typed(name: str, kind: str, **fields: object) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


def _address(address: str) -> dict[str, Any]:
    host, port = split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _listener() -> dict[str, Any]:
    mode = {side + "_body_mode": "FULL_DUPLEX_STREAMED" for side in ("request", "response")}
    mode |= {f"{side}_{part}_mode": "SEND" for side in ("request", "response") for part in ("header", "trailer")}
    spaces = {"untyped": [METADATA]}
    ext_proc = _typed(
        "envoy.filters.http.ext_proc",
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "picker"}},
        processing_mode=mode,
        metadata_options={"receiving_namespaces": spaces, "forwarding_namespaces": spaces},
    )
    told = {"header": {"key": PICKED, "value": f"%DYNAMIC_METADATA({METADATA}:{DESTINATION})%"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "pool", "timeout": "60s"}, "response_headers_to_add": [told]}
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="exam",
        stream_idle_timeout="15s",  # the only limit that holds while a picker keeps silent
        route_config={"virtual_hosts": [{"name": "exam", "domains": ["*"], "routes": [route]}]},
        http_filters=[ext_proc, _typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
    )
    return {"name": "exam", "address": _address("127.0.0.1:0"), "filter_chains": [{"filters": [manager]}]}


def _cluster(name: str, protocol: str, addresses: Sequence[str], **fields: object) -> dict[str, Any]:
    options: dict[str, object] = {
        "@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {protocol: dict[str, object]()},
    }
    endpoints = [{"endpoint": {"address": _address(each)}} for each in addresses]
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        **fields,
    }


def _picker(address: str) -> dict[str, Any]:
    return _cluster("picker", "http2_protocol_options", [address])


def _pool(servers: Sequence[str]) -> dict[str, Any]:
    """Only endpoints that are known can be picked, so that a spoofed header leads nowhere else."""
    lots = {"policies": [{"typed_extension_config": _typed("random", "extensions.load_balancing_policies.random.v3.Random")}]}
    sources = [{"metadata": {"key": METADATA, "path": [{"key": DESTINATION}]}}]
    override = _typed(
        "envoy.load_balancing_policies.override_host",
        "extensions.load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=sources,
        fallback_policy=lots,
    )
    return _cluster(
        "pool",
        "http_protocol_options",
        servers,
        load_balancing_policy={"policies": [{"typed_extension_config": override}]},
    )
