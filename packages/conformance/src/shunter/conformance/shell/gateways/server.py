"""A model server that answers as a trial tells it, and can refuse connections for a while."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from aiohttp import web

from shunter.conformance.core.addresses import split_address, with_port
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.gateways.trial import TRIAL, Arrival, Reply, Trial
from shunter.conformance.shell.ports import hold

__all__ = ["ServerDouble"]

# More than any body of a trial.
BODY_BYTES = 64 << 20


class ServerDouble:
    """One model server, at `address` once it has started; the address is its own until it stops, also while it is down."""

    def __init__(self, address: str, trials: Mapping[str, Trial]) -> None:
        self.address = address
        self._trials = trials
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        # Cancelled when the gateway hangs up, which is how it shows; keep-alive longer than an exam, so that no connection
        # ends just when the gateway takes it again.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1, keepalive_timeout=3600.0
        )
        self._site: web.TCPSite | None = None
        self._held: contextlib.ExitStack | None = None

    async def start(self) -> None:
        """Listen; raises UsageError where that cannot be."""
        if self._runner.server is None:
            await self._runner.setup()
        host, port = split_address(self.address)
        self._site = web.TCPSite(self._runner, host, port)
        try:
            if port:
                self._held = self._held or hold(host, port)
            await self._site.start()
        except OSError as error:
            raise UsageError(f"the exam cannot be a model server at {self.address}: {error.strerror or error}") from None
        if not port:
            self.address = with_port(self.address, self._runner.addresses[-1][1])

    async def stop(self) -> None:
        """Be gone."""
        await self._runner.cleanup()
        if self._held:
            self._held.close()

    @contextlib.asynccontextmanager
    async def down(self) -> AsyncGenerator[None]:
        """Refuse connections meanwhile, and close those there are."""
        if self._site:
            await self._site.stop()
        server = self._runner.server
        for connection in list(server.connections) if server else []:
            if connection.transport:
                connection.transport.abort()
        try:
            yield
        finally:
            await self.start()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        trial = self._trials.get(request.headers.get(TRIAL, ""))
        if trial is None:
            await request.read()
            return web.Response()
        headers = {name.lower(): value for name, value in request.headers.items()}
        arrival = Arrival(self.address, request.method, request.path_qs, headers)
        trial.arrived.append(arrival)
        try:
            arrival.body = await request.read()
            return await self._reply(request, trial, trial.replies.get(self.address, trial.reply))
        except asyncio.CancelledError:
            arrival.left.set()
            raise
        except ConnectionError:
            arrival.left.set()
            return web.Response()  # to nobody

    async def _reply(self, request: web.Request, trial: Trial, reply: Reply) -> web.StreamResponse:
        kind = "text/event-stream" if reply.stream else "application/json"
        response = web.StreamResponse(status=reply.status, headers={"content-type": kind, **reply.headers})
        if not reply.stream:
            response.content_length = len(reply.body)
        await response.prepare(request)
        for number, piece in enumerate(reply.pieces):
            if number and reply.held:
                await trial.wait()
            await response.write(piece)
        if not reply.cut:
            await response.write_eof()
        elif request.transport:
            request.transport.abort()
        return response
