"""Gateways that are each wrong in one way, and the case of the exam that finds it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web

from shunter.conformance.sections.gateways.setup import BOTH, MODELS
from shunter.conformance.sections.gateways.trial import DESTINATION, Immediate, Pick, Pool
from shunter.conformance.testing.gateways.fake import CHUNK_BYTES, Failure, FakeGateway, Incoming, NotPickedError, Talk

__all__ = ["BROKEN", "Broken"]


class Broken(msgspec.Struct, frozen=True):
    """A gateway that fails exactly one case, and in whose words it is wrong."""

    case: str
    breaks: str
    kind: type[FakeGateway]


class _Deaf(FakeGateway):
    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        del picked
        return super().candidates(pool, (), incoming)


class _AsksAboutBodiesOnly(FakeGateway):
    async def pick(self, pool: Pool, incoming: Incoming) -> tuple[Pick | Immediate, Talk | None]:
        return await super().pick(pool, incoming) if incoming.body else (Pick(()), None)


class _AsksTwice(FakeGateway):
    async def pick(self, pool: Pool, incoming: Incoming) -> tuple[Pick | Immediate, Talk | None]:
        pick, talk = await super().pick(pool, incoming)
        if talk is None:
            return pick, None
        talk.cancel()
        return await super().pick(pool, incoming)


class _AsksOncePerConnection(FakeGateway):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._picked: dict[Any, Sequence[str]] = {}

    async def forward(
        self, request: web.Request, pool: Pool, incoming: Incoming, pick: Pick, talk: Talk | None
    ) -> web.StreamResponse:
        first = self._picked.setdefault(request.transport, pick.endpoints)
        return await super().forward(request, pool, incoming, msgspec.structs.replace(pick, endpoints=first), talk)


class _OnePickForAll(FakeGateway):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._latest = Pick(())

    async def ask(self, talk: Talk, incoming: Incoming) -> Pick | Immediate:
        pick = await super().ask(talk, incoming)
        if isinstance(pick, Immediate):
            return pick
        self._latest = pick
        await asyncio.sleep(0.001)
        return self._latest


class _LastChoice(FakeGateway):
    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        return super().candidates(pool, picked[::-1], incoming)


class _FollowsClients(FakeGateway):
    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        named = incoming.headers.get(DESTINATION)
        return [named] if named else super().candidates(pool, picked, incoming)


class _LeavesThePool(FakeGateway):
    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        return list(picked) or super().candidates(pool, picked, incoming)


class _OnePicker(FakeGateway):
    def picker_of(self, pool: Pool, incoming: Incoming) -> Pool:
        del pool, incoming
        return Pool.OPEN


class _PickerOfTheRoute(FakeGateway):
    def picker_of(self, pool: Pool, incoming: Incoming) -> Pool:
        return Pool.OPEN if incoming.host == BOTH else pool


class _ReadsNoModels(FakeGateway):
    def route(self, incoming: Incoming) -> Pool | None:
        return Pool.OPEN if incoming.host == MODELS else super().route(incoming)


class _TakesAnyHost(FakeGateway):
    def route(self, incoming: Incoming) -> Pool | None:
        return super().route(incoming) or Pool.OPEN


class _LosesAByte(FakeGateway):
    def sent_body(self, incoming: Incoming, pick: Pick) -> bytes:
        body = super().sent_body(incoming, pick)
        return body[: CHUNK_BYTES - 1] + body[CHUNK_BYTES:]


class _RefusesLargeBodies(FakeGateway):
    async def pick(self, pool: Pool, incoming: Incoming) -> tuple[Pick | Immediate, Talk | None]:
        return (Immediate(413), None) if len(incoming.body) > 1_000_000 else await super().pick(pool, incoming)


class _KeepsBodies(FakeGateway):
    async def ask(self, talk: Talk, incoming: Incoming) -> Pick | Immediate:
        answer = await talk.ask(self.asked_headers(incoming), b"")
        return answer if isinstance(answer, Immediate) else msgspec.structs.replace(answer, body=incoming.body)


class _KeepsPaths(FakeGateway):
    def asked_headers(self, incoming: Incoming) -> dict[str, str]:
        return super().asked_headers(incoming) | {":path": "/"}


class _RemovesNothing(FakeGateway):
    def sent_headers(self, incoming: Incoming, pick: Pick) -> dict[str, str]:
        return super().sent_headers(incoming, msgspec.structs.replace(pick, remove_headers=()))


class _SendsTheClientsBody(FakeGateway):
    def sent_body(self, incoming: Incoming, pick: Pick) -> bytes:
        del pick
        return incoming.body


class _TwoIds(FakeGateway):
    def asked_headers(self, incoming: Incoming) -> dict[str, str]:
        return super().asked_headers(incoming) | {"x-request-id": str(uuid4())}


class _HidesErrors(FakeGateway):
    def answered_body(self, body: bytes) -> bytes:
        del body
        return b"an error"


class _BareRefusals(FakeGateway):
    def answer_immediately(self, answer: Immediate) -> web.Response:
        return super().answer_immediately(msgspec.structs.replace(answer, headers={}))


class _Buffers(FakeGateway):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: dict[web.StreamResponse, list[bytes]] = {}

    async def pass_on(self, response: web.StreamResponse, status: int, piece: bytes, talk: Talk | None, pool: Pool) -> None:
        del status, pool
        self._kept.setdefault(response, []).append(await talk.tell_body(piece, end=False) if talk else piece)

    async def finish(self, response: web.StreamResponse) -> None:
        await response.write(b"".join(self._kept.pop(response, [])))
        await super().finish(response)


class _Disorders(FakeGateway):
    async def pass_on(self, response: web.StreamResponse, status: int, piece: bytes, talk: Talk | None, pool: Pool) -> None:
        turned = piece[1:] + piece[:1] if len(piece) > 1000 else piece
        await super().pass_on(response, status, turned, talk, pool)


class _EndsEarly(FakeGateway):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._passed_bytes: dict[web.StreamResponse, int] = {}

    async def pass_on(self, response: web.StreamResponse, status: int, piece: bytes, talk: Talk | None, pool: Pool) -> None:
        before = self._passed_bytes.get(response, 0)
        self._passed_bytes[response] = before + len(piece)
        if before < 1_000_000:
            await super().pass_on(response, status, piece, talk, pool)


class _EndsCleanly(FakeGateway):
    async def break_off(self, request: web.Request, response: web.StreamResponse) -> None:
        del request
        await response.write_eof()


class _GoesOn(FakeGateway):
    """It reads an answer to its end, whoever has left."""

    async def respond(
        self, request: web.Request, answer: aiohttp.ClientResponse, served: str, talk: Talk | None, pool: Pool
    ) -> web.StreamResponse:
        try:
            return await super().respond(request, answer, served, talk, pool)
        except (asyncio.CancelledError, ConnectionError):
            with suppress(aiohttp.ClientError):
                await answer.content.read()
            raise


class _WaitsForNobody(FakeGateway):
    """It goes on asking for who has left."""

    pick_timeout_s = 3.0

    async def pick(self, pool: Pool, incoming: Incoming) -> tuple[Pick | Immediate, Talk | None]:
        picking = asyncio.ensure_future(super().pick(pool, incoming))
        try:
            return await asyncio.shield(picking)
        except asyncio.CancelledError:
            with suppress(NotPickedError):
                await picking
            raise


class _TellsNobody(FakeGateway):
    def told_served(self, served: str, tried: Sequence[str]) -> str:
        del served, tried
        return ""


class _LosesHeaders(Talk):
    async def tell_headers(self, status: int, headers: Mapping[str, str], served: str) -> dict[str, str]:
        await super().tell_headers(status, headers, served)
        return {}


class _PlainHeaders(FakeGateway):
    talk = _LosesHeaders


class _LosesBodies(Talk):
    async def tell_body(self, piece: bytes, *, end: bool) -> bytes:
        await super().tell_body(piece, end=end)
        return piece


class _PlainBodies(FakeGateway):
    talk = _LosesBodies


class _NeverElsewhere(FakeGateway):
    def tries_again(self, status: int, body: bytes) -> bool:
        return bool(status) and super().tries_again(status, body)


class _KeepsLittle(FakeGateway):
    def tries_again(self, status: int, body: bytes) -> bool:
        return len(body) < 1_000_000 and super().tries_again(status, body)


class _BelievesThemFull(FakeGateway):
    def tries_again(self, status: int, body: bytes) -> bool:
        del body
        return not status


class _NeverTires(FakeGateway):
    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        return super().candidates(pool, picked, incoming) * 10


class _TellsTheFirst(FakeGateway):
    def told_served(self, served: str, tried: Sequence[str]) -> str:
        del served
        return tried[0]


class _GivesUpForGood(FakeGateway):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._given_up: set[Pool] = set()

    async def ask(self, talk: Talk, incoming: Incoming) -> Pick | Immediate:
        pool = self.route(incoming)
        if pool in self._given_up:
            raise NotPickedError(Failure.AWAY)
        try:
            return await super().ask(talk, incoming)
        except NotPickedError as error:
            if pool and error.failure is Failure.AWAY:
                self._given_up.add(pool)
            raise


def _fails(where: Pool, how: Failure, *, served: bool) -> type[FakeGateway]:
    """A gateway that serves, or does not, in spite of the pool's mode when its picker fails in this way."""

    class Fails(FakeGateway):
        def failed(self, pool: Pool, failure: Failure, incoming: Incoming) -> Pick:
            if (pool, failure) != (where, how):
                return super().failed(pool, failure, incoming)
            if served:
                return Pick(())
            raise NotPickedError(failure)

    return Fails


class _FailsTogether(FakeGateway):
    """One picker that is away, and none is asked."""

    async def ask(self, talk: Talk, incoming: Incoming) -> Pick | Immediate:
        for place in self.places.values():
            parts = urlsplit(f"//{place.picker}")
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except OSError:
                raise NotPickedError(Failure.AWAY) from None
            writer.transport.abort()
        return await super().ask(talk, incoming)


class _FollowsClientsThen(FakeGateway):
    def failed(self, pool: Pool, failure: Failure, incoming: Incoming) -> Pick:
        pick = super().failed(pool, failure, incoming)
        named = incoming.headers.get(DESTINATION)
        return msgspec.structs.replace(pick, endpoints=(named,)) if named else pick

    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        named = incoming.headers.get(DESTINATION)
        return [named] if named and [*picked] == [named] else super().candidates(pool, picked, incoming)


class _Empties(FakeGateway):
    def failed(self, pool: Pool, failure: Failure, incoming: Incoming) -> Pick:
        pick = super().failed(pool, failure, incoming)
        return msgspec.structs.replace(pick, body=b"") if failure is Failure.SILENT else pick


class _Cuts(FakeGateway):
    """A picker that dies takes the streams of its pool with it."""

    cuts = Pool.OPEN

    async def pass_on(self, response: web.StreamResponse, status: int, piece: bytes, talk: Talk | None, pool: Pool) -> None:
        await super().pass_on(response, status, piece, talk, pool)
        if talk and talk.over and pool is self.cuts:
            raise aiohttp.ClientPayloadError("the picker is gone")


class _CutsClosed(_Cuts):
    cuts = Pool.CLOSE


BROKEN: tuple[Broken, ...] = (
    Broken("gw.pick.each", "balances by itself, whatever the picker says", _Deaf),
    Broken("gw.pick.bodiless", "asks about requests with a body only", _AsksAboutBodiesOnly),
    Broken("gw.pick.once", "asks twice about each request", _AsksTwice),
    Broken("gw.pick.connection", "asks once for each connection", _AsksOncePerConnection),
    Broken("gw.pick.concurrent", "keeps the pick where all requests find it", _OnePickForAll),
    Broken("gw.pick.first-choice", "begins with the last of the picker's list", _LastChoice),
    Broken("gw.pick.spoofed", "goes where the client says", _FollowsClients),
    Broken("gw.pick.outside", "goes where the picker says, in the pool or not", _LeavesThePool),
    Broken("gw.pools.own-picker", "asks one picker for all pools", _OnePicker),
    Broken("gw.pools.weighted", "asks one picker for all pools of a route", _PickerOfTheRoute),
    Broken("gw.pools.model", "does not look at the model in the body", _ReadsNoModels),
    Broken("gw.pools.unknown-host", "serves every host", _TakesAnyHost),
    Broken("gw.request.body", "loses a byte between two chunks of 64 KiB", _LosesAByte),
    Broken("gw.request.large-body", "refuses bodies above 1 MB", _RefusesLargeBodies),
    Broken("gw.request.body-asked", "sends the picker headers only", _KeepsBodies),
    Broken("gw.request.headers-asked", "sends the picker another path", _KeepsPaths),
    Broken("gw.request.headers-changed", "removes no header that the picker removes", _RemovesNothing),
    Broken("gw.request.body-changed", "sends the client's body whatever the picker made of it", _SendsTheClientsBody),
    Broken("gw.request.id", "tells the picker an id of its own", _TwoIds),
    Broken("gw.request.http2", "speaks HTTP/1.1 only", FakeGateway),
    Broken("gw.answer.errors", "puts a text of its own in the place of a server's error", _HidesErrors),
    Broken("gw.answer.immediate", "loses the headers of the picker's own answers", _BareRefusals),
    Broken("gw.answer.unbuffered", "keeps an answer until it is complete", _Buffers),
    Broken("gw.answer.order", "mixes the bytes of long streams", _Disorders),
    Broken("gw.answer.large", "ends an answer after 1 MB", _EndsEarly),
    Broken("gw.answer.cut", "ends cleanly what broke off", _EndsCleanly),
    Broken("gw.answer.hang-up", "reads an answer to its end when the client has left", _GoesOn),
    Broken("gw.answer.hang-up-waiting", "waits for the picker when the client has left", _WaitsForNobody),
    Broken("gw.answer.served-told", "does not tell the picker who served", _TellsNobody),
    Broken("gw.answer.headers-changed", "loses what the picker sets on responses", _PlainHeaders),
    Broken("gw.answer.body-changed", "passes on the server's body whatever the picker made of it", _PlainBodies),
    Broken("gw.fallback.refused", "tries nobody else when a connection is refused", _NeverElsewhere),
    Broken("gw.fallback.large-body", "tries nobody else with a body above 1 MB", _KeepsLittle),
    Broken("gw.fallback.unavailable", "tries nobody else after a 503", _BelievesThemFull),
    Broken("gw.fallback.exhausted", "goes through the list ten times", _NeverTires),
    Broken("gw.fallback.served-told", "tells the picker of its first choice whoever served", _TellsTheFirst),
    Broken("gw.failure.recovers", "never asks a picker again that was away", _GivesUpForGood),
    Broken("gw.failure.open-away", "refuses when the picker is away", _fails(Pool.OPEN, Failure.AWAY, served=False)),
    Broken("gw.failure.close-away", "serves when the picker is away", _fails(Pool.CLOSE, Failure.AWAY, served=True)),
    Broken("gw.failure.apart", "asks no picker while one is away", _FailsTogether),
    Broken("gw.failure.spoofed", "goes where the client says when the picker is away", _FollowsClientsThen),
    Broken("gw.failure.open-error", "refuses when the picker fails", _fails(Pool.OPEN, Failure.ERROR, served=False)),
    Broken("gw.failure.open-hang", "refuses when the picker hangs", _fails(Pool.OPEN, Failure.HANGS, served=False)),
    Broken("gw.failure.open-silent", "sends an empty body on when the picker says nothing", _Empties),
    Broken("gw.failure.close-error", "serves when the picker fails", _fails(Pool.CLOSE, Failure.ERROR, served=True)),
    Broken("gw.failure.close-hang", "serves when the picker hangs", _fails(Pool.CLOSE, Failure.HANGS, served=True)),
    Broken("gw.failure.close-silent", "serves when the picker says nothing", _fails(Pool.CLOSE, Failure.SILENT, served=True)),
    Broken("gw.failure.open-stream", "cuts streams whose picker dies, failing open", _Cuts),
    Broken("gw.failure.close-stream", "cuts streams whose picker dies, failing closed", _CutsClosed),
)
"""One for each case."""
