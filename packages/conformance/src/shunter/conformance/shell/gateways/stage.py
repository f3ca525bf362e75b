"""A gateway, and all that the exam is around it: what the cases of gateways are given."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from urllib.parse import urlsplit

import aiohttp

from shunter.conformance.core.case import AnyCase, Bound
from shunter.conformance.core.events import Planned, Side, Started, Timeline
from shunter.conformance.core.exchange import Evidence, Exchange, evidence
from shunter.conformance.errors import Mismatch, Skip, Unanswered
from shunter.conformance.sections.gateways.profile import GatewayProfile
from shunter.conformance.sections.gateways.setup import Place
from shunter.conformance.sections.gateways.target import CHAT, ENOUGH, PROMPT, RECOVERS, Outage
from shunter.conformance.sections.gateways.trial import HOSTS, TRIAL, Immediate, Pick, Pool, Reply, Trial, Trouble
from shunter.conformance.shell.gateways import http2
from shunter.conformance.shell.gateways.picker import PickerDouble
from shunter.conformance.shell.gateways.server import ServerDouble
from shunter.conformance.shell.wire import Wire, unreachable

__all__ = ["Stage"]

POLL_S = 0.01

# Where the gateway did not ask: it is looking away, and need not be hurried.
ASK_AGAIN_S = 0.1


class _Stream:
    """An answer under way."""

    def __init__(
        self, trial: Trial, request: "asyncio.Task[aiohttp.ClientResponse]", seconds: Callable[[Bound], float]
    ) -> None:
        self.trial = trial
        self._request = request
        self._seconds = seconds
        self.received = bytearray()

    async def read(self, size_bytes: int, bound: Bound) -> bytes:
        """See Stream."""
        limit_s = self._seconds(bound)
        try:
            async with asyncio.timeout(limit_s):
                content = (await asyncio.shield(self._request)).content
                data = await content.readexactly(size_bytes)
        except TimeoutError:
            raise Mismatch(
                f"byte {len(self.received) + size_bytes} of the answer within {limit_s:g} s", "it did not come"
            ) from None
        except asyncio.IncompleteReadError as error:
            raise Unanswered(f"the answer ended after {len(self.received) + len(error.partial)} bytes") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Unanswered(f"the answer broke off after {len(self.received)} bytes: {error}") from None
        self.received += data
        return data

    async def rest(self) -> bytes:
        """See Stream."""
        try:
            data = await (await asyncio.shield(self._request)).content.read()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise Unanswered(f"the answer broke off: {type(error).__name__} {error}".rstrip()) from None
        self.received += data
        return data

    def hang_up(self) -> None:
        """See Stream."""
        if self._request.done() and not self._request.cancelled() and self._request.exception() is None:
            self._request.result().close()
        self._request.cancel()


class Stage:
    """The target of gateways' cases; see Target for what they may do."""

    def __init__(
        self,
        url: str,
        profile: GatewayProfile,
        places: Mapping[Pool, Place],
        trials: MutableMapping[str, Trial],
        wire: Wire,
        pickers: Mapping[Pool, PickerDouble],
        servers: Sequence[ServerDouble],
        outside: ServerDouble,
        timeout_s: float,
        patience: float,
    ) -> None:
        self.profile = profile
        self._url = url
        self._places = places
        self._trials = trials
        self._wire = wire
        self._pickers = pickers
        self._servers = servers
        self._outside = outside
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._timeout_s = timeout_s
        self._patience = patience
        self._numbers = count(1)

    async def settle(self) -> None:
        """Wait until the gateway has seen that the pickers are there; it may have looked for them in vain before."""
        if await self.unreachable() is None:
            await asyncio.gather(*map(self._asked_again, self._pickers))

    # What the engine asks.

    def started(self, date: str, cases: Sequence[AnyCase]) -> Started:
        """Say what is examined."""
        return Started(
            date=date,
            url=self._url,
            profile=self.profile.name,
            profile_reason="as the examiner says",
            cases=tuple(Planned(case.id, case.level, case.requirement, case.suites) for case in cases),
            side=Side.GATEWAY,
            scale=self._patience,
        )

    def forget(self) -> None:
        """Another case begins."""
        self._wire.transcript.clear()
        self._trials.clear()

    async def adapt(self, *, longer: bool = False) -> None:
        """Its patience is the examiner's, and stays."""

    def evidence(self) -> Sequence[Evidence]:
        """Return what clients sent and got."""
        return [evidence(exchange) for exchange in self._wire.transcript]

    def timelines(self) -> Sequence[Timeline]:
        """Return nothing: there are no gauges."""
        return ()

    async def unreachable(self) -> str | None:
        """Why nobody accepts connections there."""
        return await unreachable(self._url, self._wire.access.tls)

    # What the cases ask.

    @property
    def outside(self) -> str:
        """See Target."""
        return self._outside.address

    def servers(self, pool: Pool) -> tuple[str, ...]:
        """See Target."""
        return self._places[pool].servers

    def seconds(self, bound: Bound) -> float:
        """See Target."""
        return bound.seconds * self._patience

    async def ask(
        self,
        where: Pool | str,
        pick: Pick | Immediate | Trouble | str | None = None,
        *,
        method: str = "POST",
        path: str = CHAT,
        body: bytes = PROMPT,
        headers: Mapping[str, str] | None = None,
        reply: Reply = ENOUGH,
        replies: Mapping[str, Reply] | None = None,
    ) -> Trial:
        """See Target."""
        trial = self._trial(pick, reply, replies)
        sent = self._headers(where, trial) | dict(headers or {})
        trial.exchange = await self._wire.exchange(method, self._url + path, body, sent)
        return trial

    async def ask_in_turn(self, where: Pool, picks: tuple[str, ...]) -> tuple[Trial, ...]:
        """See Target."""
        connections: list[None] = []

        async def note(*_: object) -> None:
            connections.append(None)

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(note)
        trials: list[Trial] = []
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=self._wire.access.tls or True),
            timeout=self._timeout,
            trace_configs=[trace],
        ) as session:
            for pick in picks:
                trial = self._trial(pick, ENOUGH)
                trials.append(trial)
                headers = self._headers(where, trial)
                try:
                    async with session.post(self._url + CHAT, data=PROMPT, headers=headers) as response:
                        self._record(trial, response.status, await response.read(), headers)
                except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                    raise Unanswered(f"{type(error).__name__}: {error}") from None
        if len(connections) == len(picks):
            raise Skip("the gateway closes the connection after each answer")
        return tuple(trials)

    async def ask_http2(self, where: Pool, pick: str) -> Trial:
        """See Target."""
        parts = urlsplit(self._url)
        if parts.scheme != "http":
            raise Skip("HTTP/2 is tried without TLS, and the gateway's URL is not http")
        trial = self._trial(pick, ENOUGH)
        named = self._headers(where, trial)
        pseudo = {":method": "POST", ":scheme": "http", ":authority": named.pop("host"), ":path": CHAT}
        headers = pseudo | named | {"content-length": str(len(PROMPT))}
        host, port = parts.hostname or "", parts.port or 80
        status, answered, body = 0, dict[str, str](), b""
        try:
            status, answered, body = await http2.request(host, port, headers, PROMPT, self._timeout_s)
        finally:
            self._record(trial, status, body, self._headers(where, trial), answered)
        return trial

    @asynccontextmanager
    async def streaming(
        self, where: Pool, pick: Pick | Trouble | str | None = None, *, reply: Reply = ENOUGH
    ) -> AsyncGenerator[_Stream]:
        """See Target."""
        trial = self._trial(pick, reply)
        headers = self._headers(where, trial)
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._wire.access.tls or True)
        async with aiohttp.ClientSession(connector=connector, timeout=self._timeout, auto_decompress=False) as session:
            request = asyncio.ensure_future(session.post(self._url + CHAT, data=PROMPT, headers=headers))
            stream = _Stream(trial, request, self.seconds)
            try:
                yield stream
            finally:
                answered = request.done() and not request.cancelled() and request.exception() is None
                self._record(trial, request.result().status if answered else 0, bytes(stream.received), headers)
                stream.hang_up()
                with suppress(aiohttp.ClientError, ConnectionError, TimeoutError, asyncio.CancelledError):
                    await request

    async def until(self, holds: Callable[[], bool], bound: Bound, wanted: str) -> float:
        """See Target."""
        clock = asyncio.get_running_loop().time
        start_s = clock()
        while not holds():
            if clock() - start_s > self.seconds(bound):
                raise Mismatch(f"{wanted} within {self.seconds(bound):g} s", "it did not happen")
            await asyncio.sleep(POLL_S)
        return clock() - start_s

    @asynccontextmanager
    async def picker_down(self, pool: Pool) -> AsyncGenerator[Outage]:
        """See Target."""
        outage = Outage()
        await self._pickers[pool].die()
        try:
            yield outage
        finally:
            await self._pickers[pool].live()
            outage.asked_again = await self._asked_again(pool)

    async def _asked_again(self, pool: Pool) -> bool:
        """Ask until the pool's picker is asked; False if it is not in time. None of it is evidence."""
        clock = asyncio.get_running_loop().time
        start_s = clock()
        before = [*self._wire.transcript]
        try:
            while clock() - start_s < self.seconds(RECOVERS):
                with suppress(Unanswered):
                    trial = await self.ask(pool)
                    if trial.asked and trial.exchange.status == 200:
                        return True
                await asyncio.sleep(ASK_AGAIN_S * self._patience)
        finally:
            self._wire.transcript[:] = before
        return False

    @asynccontextmanager
    async def server_down(self, *servers: str) -> AsyncGenerator[None]:
        """See Target."""
        async with AsyncExitStack() as down:
            for server in self._servers:
                if server.address in servers:
                    await down.enter_async_context(server.down())
            yield

    def _trial(
        self,
        pick: Pick | Immediate | Trouble | str | None,
        reply: Reply,
        replies: Mapping[str, Reply] | None = None,
    ) -> Trial:
        trial = Trial(f"trial-{next(self._numbers)}", Pick((pick,)) if isinstance(pick, str) else pick, reply, replies)
        self._trials[trial.name] = trial
        return trial

    def _headers(self, where: Pool | str, trial: Trial) -> dict[str, str]:
        host = HOSTS[where] if isinstance(where, Pool) else where
        return {"host": host, TRIAL: trial.name, "content-type": "application/json"}

    def _record(
        self, trial: Trial, status: int, body: bytes, sent: Mapping[str, str], answered: Mapping[str, str] | None = None
    ) -> None:
        trial.exchange = Exchange(
            method="POST",
            url=self._url + CHAT,
            request_headers=dict(sent),
            request_body=PROMPT,
            status=status,
            headers=dict(answered or {}),
            body=body,
        )
        self._wire.transcript.append(trial.exchange)
