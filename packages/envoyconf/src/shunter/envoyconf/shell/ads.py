"""The control plane's gRPC server: every Envoy a stream, every stream the machine of `core.xds`.

Aggregated streams in both forms are what our Envoys use; the services for one kind each serve clients that know only those.
What is owed to a slow client is one response of each kind; gRPC's flow control holds back the rest.
"""

import asyncio
import contextlib
import ssl
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio  # pyright: ignore[reportUnusedImport] # reached by way of UNTYPED
import msgspec

from shunter.envoyconf.core.authority import join_authority
from shunter.envoyconf.core.envoy.dynamic import Division
from shunter.envoyconf.core.schema import Schema
from shunter.envoyconf.core.xds.channel import SubscriptionError
from shunter.envoyconf.core.xds.encoding import encode_state
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.members import Member, assignment_item
from shunter.envoyconf.core.xds.report import Held, Report, Seen, describe_trouble
from shunter.envoyconf.core.xds.state import EMPTY, State
from shunter.envoyconf.core.xds.stream import Form, Stream
from shunter.envoyconf.core.xds.wire import Node, Wire, WireError
from shunter.envoyconf.errors import EnvoyconfError, IntentError

__all__ = ["Keys", "Server"]

# Each holds some hundred kilobytes of Python and gRPC; more than this is a leak of somebody's.
MAX_CLIENTS = 10_000

# Clients that went away and are still shown.
MAX_GONE = 100

# Its stubs do not know that handlers may take and give bytes.
UNTYPED: Any = grpc

AGGREGATED = "envoy.service.discovery.v3.AggregatedDiscoveryService"

# Streams end at once when they are told to. One that is cut is complained of on standard error, by gRPC.
LAST_WORDS_S = 1.0

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a helper
    # An Envoy that is gone without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Envoy pings as often itself; gRPC's default takes more than two pings in 5 minutes for abuse and hangs up.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class Keys(msgspec.Struct, frozen=True):
    """PEM files for TLS, read again for each connection: what is replaced counts from the next one on."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None  # with it, clients must show a certificate of these CAs

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return what they hold; raises OSError, or IntentError if that does not belong together: gRPC would not say why."""
        ca = self.client_ca_file.read_bytes() if self.client_ca_file else None
        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password="")  # one that is locked would be asked for
        except ssl.SSLError as error:
            raise IntentError(f"{self.cert_file} and {self.key_file} are no PEM certificate and its key: {error}") from None
        try:
            if self.client_ca_file:
                context.load_verify_locations(self.client_ca_file)
        except ssl.SSLError as error:
            raise IntentError(f"{self.client_ca_file} has no PEM certificates: {error}") from None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)


class Client:
    """One stream and who is at its other end."""

    def __init__(self, stream: Stream, form: Form, peer: str, now_s: float) -> None:
        self.stream = stream
        self.form = form
        self.peer = peer
        self.node = Node("")
        self.heard_s = now_s
        self.news = asyncio.Event()  # something was heard, or there is something new to be said
        self.ended = False

    def end(self) -> None:
        """Say no more."""
        self.ended = True
        self.news.set()

    def describe(self, now_s: float, *, connected: bool) -> Seen:
        """Return it for people to see."""
        kinds = {
            kind.short: Held(channel.accepted, self.stream.current(kind), self.stream.refused(kind))
            for kind, channel in self.stream.channels.items()
        }
        silent_s = now_s - self.heard_s
        return Seen(node=self.node, peer=self.peer, form=self.form.value, connected=connected, silent_s=silent_s, kinds=kinds)


class Server:
    """Serves one state to all clients."""

    def __init__(self, schema: Schema, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds, from anywhere."""
        self.state: State = EMPTY
        self.trouble: dict[str, str] = {}  # why something newer is not served, by whose doing
        self._schema = schema
        self._clock = clock
        self._wires = {form: Wire(schema, form) for form in Form}
        self._clients: set[Client] = set()
        self._gone: OrderedDict[tuple[str, str], tuple[Seen, float]] = OrderedDict()
        self._sent, self._accepted, self._refused = Counter[str](), Counter[str](), Counter[str]()
        self._server: Any = None

    async def replace(self, division: Division) -> None:
        """From now on serve this; raise IntentError if something refers to what is not there."""
        self._serve(encode_state(division.resources, self._schema))

    async def move(self, members: Mapping[str, Sequence[Member]]) -> None:
        """From now on serve these endpoints, by the names of their load assignments, and all else as before."""
        items = [assignment_item(name, each, self._schema) for name, each in members.items()]
        self._serve(self.state.replace(Kind.ENDPOINTS, items))

    def _serve(self, state: State) -> None:
        self.state = state
        for client in self._clients:
            client.stream.aim(state)
            client.news.set()

    async def start(self, host: str, port: int, keys: Keys | None = None) -> int:
        """Listen and return the port, which matters when ``port`` is 0; raise IntentError if that cannot be."""
        server = UNTYPED.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(self._services())
        address = join_authority(host, port)
        try:
            credentials = _credentials(keys) if keys else None
        except OSError as error:
            raise IntentError(f"cannot read {error.filename}: {error.strerror}") from None
        try:
            bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        except (RuntimeError, ValueError) as error:
            raise IntentError(f"cannot serve on {address}: {error}") from None
        await server.start()
        self._server = server
        return bound

    async def stop(self) -> None:
        """End all streams. Envoys go on with what they have, and come back."""
        for client in self._clients:
            client.end()
        if self._server:
            await self._server.stop(LAST_WORDS_S)

    def report(self) -> Report:
        """Return what is served, and to whom."""
        now_s = self._clock()
        here = [client.describe(now_s, connected=True) for client in self._clients]
        gone = [msgspec.structs.replace(seen, silent_s=now_s - since_s) for seen, since_s in self._gone.values()]
        order = sorted(here, key=lambda seen: (seen.node.id, seen.peer)) + gone[::-1]
        return Report(
            versions={kind.short: self.state.version(kind) for kind in Kind if self.state.of(kind)},
            clients=tuple(order),
            sent=dict(self._sent),
            accepted=dict(self._accepted),
            refused=dict(self._refused),
            trouble=describe_trouble(self.trouble),
        )

    def _services(self) -> list[Any]:
        services: dict[str, dict[str, Any]] = {
            AGGREGATED: {
                "StreamAggregatedResources": self._method(Form.STATE_OF_THE_WORLD, None),
                "DeltaAggregatedResources": self._method(Form.DELTA, None),
            }
        }
        for kind in Kind:
            services[kind.service] = {
                f"Stream{kind.plural}": self._method(Form.STATE_OF_THE_WORLD, kind),
                f"Delta{kind.plural}": self._method(Form.DELTA, kind),
            }
        return [UNTYPED.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    def _method(self, form: Form, kind: Kind | None) -> Any:
        async def converse(messages: AsyncIterator[bytes], context: Any) -> None:
            if len(self._clients) >= MAX_CLIENTS:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_CLIENTS} streams are open already")
            client = Client(Stream(form, self.state), form, context.peer(), self._clock())
            self._clients.add(client)
            listening = asyncio.create_task(self._listen(client, kind, messages))
            try:
                await self._speak(client, context)
                if listening.done():
                    listening.result()
            except (WireError, SubscriptionError) as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            finally:
                self._clients.discard(client)
                self._remember(client)
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError, EnvoyconfError):
                    await listening

        return UNTYPED.stream_stream_rpc_method_handler(converse)  # bytes in, bytes out

    async def _speak(self, client: Client, context: Any) -> None:
        wire = self._wires[client.form]
        while not client.ended:
            while response := client.stream.next():
                self._sent[response.kind.short] += 1
                await context.write(wire.encode(response))
            await client.news.wait()
            client.news.clear()

    async def _listen(self, client: Client, kind: Kind | None, messages: AsyncIterator[bytes]) -> None:
        wire = self._wires[client.form]
        try:
            async for data in messages:
                request, node = wire.decode(data, kind)
                client.heard_s = self._clock()
                client.node = node or client.node
                if request is None:
                    continue
                verdict = client.stream.receive(request)
                if verdict is not None:
                    (self._accepted if verdict else self._refused)[request.kind.short] += 1
                client.news.set()
        finally:
            client.end()

    def _remember(self, client: Client) -> None:
        now_s = self._clock()
        self._gone[client.node.id, client.peer] = client.describe(now_s, connected=False), now_s
        while len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)


def _credentials(keys: Keys) -> grpc.ServerCredentials:
    last = keys.read()

    def renewed() -> grpc.ServerCertificateConfiguration:
        nonlocal last
        with contextlib.suppress(OSError, IntentError):  # in the middle of being replaced: the old ones still do
            last = keys.read()
        return last

    return grpc.dynamic_ssl_server_credentials(last, renewed, require_client_authentication=bool(keys.client_ca_file))
