"""The real Envoy in tests: its configuration for every pair of body modes, and HTTP/1.1 before and behind it.

Each pair has a listener of its own::

    REQUEST/RESPONSE   that pair of modes, by name
    deny/RESPONSE      a filter before the picker answers the client
    leaving/REQUEST    the second picker is asked
    patient/MODE       a pick may take longer than the message timeout, if the picker asks for more time
    impatient/MODE     it may not
"""

import json
from asyncio import StreamReader
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from shunter.picker.core.events import BodyMode

__all__ = ["DESTINATION", "MODES", "Answer", "bootstrap", "chunked", "read_body", "read_head"]

DESTINATION = "x-gateway-destination-endpoint"
MODES = [mode.name for mode in BodyMode]
IMPATIENT: dict[str, Any] = {"message_timeout": "0.3s", "failure_mode_allow": True}
TYPE = "type.googleapis.com/envoy."


def bootstrap(picker_port: int, leaving_port: int, upstream_ports: Sequence[int]) -> dict[str, Any]:
    """Return the bootstrap of an Envoy before two pickers, of which one may leave, and these upstreams; all on 127.0.0.1.

    Paths under ``/by-header`` go where the picker's header says, all others where its metadata does.
    """
    key = {"key": "envoy.lb", "path": [{"key": DESTINATION}]}
    served = {"key": "envoy.lb", "path": [{"key": DESTINATION + "-served"}]}
    policies = "envoy.load_balancing_policies."
    round_robin = _typed(policies + "round_robin", "extensions.load_balancing_policies.round_robin.v3.RoundRobin")
    override = _typed(
        policies + "override_host",
        "extensions.load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=[{"metadata": key}],
        selected_host_key=served,
        fallback_policy={"policies": [{"typed_extension_config": round_robin}]},
    )
    http1 = {"http_protocol_options": {"enable_trailers": True}}
    deny = _typed(
        "envoy.filters.http.fault",
        "extensions.filters.http.fault.v3.HTTPFault",
        abort={"http_status": 401, "percentage": {"numerator": 100}},
    )
    return {
        "admin": {"address": _address(0)},
        "static_resources": {
            "listeners": [
                *(_listener(f"{request}/{response}", request, response) for request in MODES for response in MODES),
                *(_listener(f"deny/{response}", "BUFFERED", response, [deny]) for response in MODES),
                *(
                    _listener(f"leaving/{request}", request, "NONE", picker="leaving")
                    for request in MODES
                    if request not in ("NONE", "STREAMED")
                ),
                *(
                    _listener(f"patient/{request}", request, request, **IMPATIENT, max_message_timeout="30s")
                    for request in MODES
                ),
                *(_listener(f"impatient/{request}", request, request, **IMPATIENT) for request in MODES),
            ],
            "clusters": [
                _cluster("picker", {"http2_protocol_options": {}}, [picker_port]),
                _cluster("leaving", {"http2_protocol_options": {}}, [leaving_port]),
                _cluster(
                    "by-metadata",
                    http1,
                    upstream_ports,
                    load_balancing_policy={"policies": [{"typed_extension_config": override}]},
                ),
                _cluster(
                    "by-header",
                    http1,
                    [],
                    type="ORIGINAL_DST",
                    lb_policy="CLUSTER_PROVIDED",
                    original_dst_lb_config={"use_http_header": True, "http_header_name": DESTINATION},
                ),
            ],
        },
    }


class Answer:
    """What a client got."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.trailers: dict[str, str] = {}
        self.continued = False
        """Whether it was told to go on and send the body."""

    @property
    def echo(self) -> Any:
        """What the upstream got, as it told in JSON."""
        assert self.status == 200, (self.status, self.body)  # noqa: S101  a test's
        return json.loads(self.body)


async def read_head(reader: StreamReader) -> tuple[list[str] | None, dict[str, str]]:
    """Return the words of the start line, None at the end of the connection, and the fields by their names in small letters."""
    start = await reader.readline()
    if not start:
        return None, {}
    return start.decode().split(None, 2), await _read_fields(reader)


async def read_body(
    reader: StreamReader, headers: Mapping[str, str], *, until_close: bool = False
) -> AsyncIterator[bytes | dict[str, str]]:
    """Yield the pieces of a body, and a dict of trailers last."""
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readline()
        yield await _read_fields(reader)
        return
    if "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    elif until_close:
        yield await reader.read()
    yield {}


def chunked(pieces: Iterable[bytes], trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return a body of one chunk a piece, and its trailers."""
    head = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"0\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in trailers) + b"\r\n"


async def _read_fields(reader: StreamReader) -> dict[str, str]:
    fields: dict[str, str] = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    return fields


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, protocol: dict[str, Any], ports: Sequence[int], **fields: Any) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    options = {"@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": protocol}
    if ports:
        fields |= {"type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}}
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    return {"name": name, "connect_timeout": "5s", "typed_extension_protocol_options": options, **fields}


def _listener(
    name: str,
    request: str,
    response: str,
    before: Sequence[dict[str, Any]] = (),
    picker: str = "picker",
    **times: Any,
) -> dict[str, Any]:
    ext_proc = _typed(
        "envoy.filters.http.ext_proc",
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": picker}},
        **{"message_timeout": "20s"} | times,
        processing_mode={
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": request,
            "response_body_mode": response,
            "request_trailer_mode": "SEND",
            "response_trailer_mode": "SEND",
        },
        metadata_options={key: {"untyped": ["envoy.lb"]} for key in ("receiving_namespaces", "forwarding_namespaces")},
    )
    routes = [
        {"match": {"prefix": "/by-header"}, "route": {"cluster": "by-header", "timeout": "0s"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "by-metadata", "timeout": "0s"}},
    ]
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        http_protocol_options={"enable_trailers": True},
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[*before, ext_proc, _typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
    )
    return {"name": name, "address": _address(0), "filter_chains": [{"filters": [manager]}]}
