"""A real Envoy, two model servers, the picker's real transport behind a relay, and what becomes of a request there."""

import asyncio
import contextlib
import functools
import io
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from hack.matrix.delivery import delivered
from hack.matrix.promises import KEYS_IN_BODIES_SINCE, LIMIT_BYTES, SIZES, Cell, Form, Outcome, State, since
from hack.matrix.relay import Relay

from shunter.envoyconf import FailureMode, Intent, Profile, bootstrap, load_intent
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.versions import parse_version
from shunter.envoyconf.shell.envoy import find
from shunter.envoyconf.testing import RunningEnvoy, running_envoy
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer

__all__ = ["Stage", "Way", "set_stage"]

EVENT = b"data: {}\n\n"
DEADLINE_S = 60
POLL_S = 0.02
SETTLED_POLLS = 10

# The collector: records are not what is looked at here.
NOBODY = "127.0.0.1:9"

# Silence that ends a request whose picker hangs, after twice this time; and how long lean waits for a pick. Shorter ones were
# exceeded by healthy pickers on a busy machine.
IDLE_S = 4
PICK_S = 2

# Where Envoy cannot look for the session's key in the body.
KEY_IN_HEADER = {"header": "x-session", "body": []}

STATUSES = {413: Outcome.TOO_LARGE, 503: Outcome.REFUSED, 504: Outcome.TIMEOUT}


class Server:
    """A model server: it names itself, at once or in two events, the second when it is let."""

    def __init__(self) -> None:
        self.held: set[str] = set()  # ids of requests that wait
        self.taken: set[str] = set()
        self.news = asyncio.Condition()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one request."""
        await request.read()
        name = request.headers["x-request-id"]
        await self._tell(self.taken.add, name)
        if request.path != "/events":
            await self._wait(name)
            return web.Response()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await self._wait(name)
        await response.write(EVENT)
        return response

    async def hold(self, names: set[str]) -> None:
        """Let these requests wait, and no others."""
        await self._tell(lambda held: setattr(self, "held", held), names)

    async def _wait(self, name: str) -> None:
        async with self.news:
            await self.news.wait_for(lambda: name not in self.held)

    async def _tell(self, change, what) -> None:
        async with self.news:
            change(what)
            self.news.notify_all()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator["Server"]:
        """Listen."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.answer)
        async with TestServer(app, host="127.0.0.1") as server:
            self.authority = f"127.0.0.1:{server.port}"
            yield self


class Way(msgspec.Struct, frozen=True):
    """In which profile and failure mode, on which Envoy, and how that gets its configuration."""

    version: str
    profile: Profile
    failure: FailureMode
    target: Target = Target.ENVOY_STATIC

    def intent(self, endpoints: list[str], picker: str, **fields: object) -> Intent:
        """Return an intent of one pool."""
        asked = {"addresses": [picker], "failureMode": self.failure.value, "collector": NOBODY}
        is_native = self.profile is Profile.NATIVE
        keyed_by_header = is_native and not since(KEYS_IN_BODIES_SINCE, self.version)
        stated = {
            "pools": [{"name": "llama", "endpoints": endpoints, "picker": {} if is_native else asked}],
            "routes": [{"pool": "llama", "affinity": KEY_IN_HEADER if keyed_by_header else {}}],
            "listeners": [{"port": 0}],
            "profile": self.profile.value,
            "limits": {"bodyBytes": LIMIT_BYTES, "idleTimeoutSeconds": IDLE_S, "pickTimeoutSeconds": PICK_S},
        }
        return load_intent(json.dumps(stated | fields))


class Stage(msgspec.Struct, frozen=True):
    """One Envoy in one profile, and all that it talks to."""

    envoy: RunningEnvoy
    client: aiohttp.ClientSession
    servers: tuple[Server, Server]
    relay: Relay
    asks: bool  # whether there is a picker
    checked: bool  # whether Envoy checks its health

    async def outcomes(self, state: State, cells: list[Cell]) -> dict[Cell, Outcome | str]:
        """Return what became of requests, all at the same time, whose picker is or comes into this state."""
        async with asyncio.timeout(DEADLINE_S):
            if self.asks:
                await self._be(state)
            names = {cell: f"{state.name}-{number}" for number, cell in enumerate(cells)}
            for server in self.servers:
                await server.hold({*names.values()} if state is State.KILLED else set())
            begun: set[Cell] = set()
            async with asyncio.TaskGroup() as group:
                asked = {cell: group.create_task(self._ask(cell, name, begun)) for cell, name in names.items()}
                if state is State.KILLED:
                    await _until(
                        lambda: all(task.done() or self._begun(cell, names[cell], begun) for cell, task in asked.items())
                    )
                    await self._settle()
                    await self._die()
                    for server in self.servers:
                        await server.hold(set())
            found = {cell: task.result() for cell, task in asked.items()}
            served = {names[cell]: cell for cell, outcome in found.items() if outcome is Outcome.SERVED}
            for line in await self._logged({*served}):
                if line["pick"] and line["served"] == line["pick"]:
                    found[served[line["request_id"]]] = Outcome.PICKED
        return found

    async def _logged(self, names: set[str]) -> list[dict[str, Any]]:
        """Return Envoy's log of these requests, once it is written."""
        while True:
            lines = [line for line in self.envoy.access_log() if line["request_id"] in names]
            if len(lines) == len(names):
                return lines
            await asyncio.sleep(POLL_S)

    async def _settle(self) -> None:
        """Wait until Envoy has ended the picker's streams that it will end, a moment after it has sent the request on."""
        seen = [-1]
        while len(set(seen[-SETTLED_POLLS:])) > 1 or len(seen) < SETTLED_POLLS:
            await asyncio.sleep(POLL_S)
            seen.append(await self._stat("upstream_rq_active"))

    def _begun(self, cell: Cell, name: str, begun: set[Cell]) -> bool:
        """Say whether a request is as far as it has to be when its picker is killed."""
        return cell in begun if cell.form is Form.EVENTS else any(name in server.taken for server in self.servers)

    async def _be(self, state: State) -> None:
        """Bring the picker into a state and wait until Envoy knows, where it can."""
        if state is State.DEAD:
            await self._die()
            if self.checked:
                await self._until_stat("membership_healthy", 0)
            return
        await self.relay.restore()
        if self.checked:
            await self._until_stat("membership_healthy", 1)
        if state is State.HUNG:
            self.relay.block()

    async def _die(self) -> None:
        await self.relay.cut()
        await self._until_stat("upstream_cx_active", 0)

    async def _until_stat(self, name: str, value: int) -> None:
        while await self._stat(name) != value:  # noqa: ASYNC110 # statistics are asked for
            await asyncio.sleep(POLL_S)

    async def _stat(self, name: str) -> int:
        url = f"http://{self.envoy.admin}/stats?filter=^cluster.picker/llama.{name}$"
        async with self.client.get(url) as answer:
            return int((await answer.text()).rpartition(":")[2])

    async def _ask(self, cell: Cell, name: str, begun: set[Cell]) -> Outcome | str:
        """Return what became of one request; what nobody was promised, in words."""
        events = cell.form is Form.EVENTS
        body = json.dumps({"model": "m", "stream": events, "user": name, "prompt": "x" * SIZES[cell.size]})
        headers = {"x-request-id": name, "x-session": name, "content-type": "application/json"}
        url = f"{self.envoy.url}/{'events' if events else 'unary'}"
        try:
            async with self.client.post(url, data=io.BytesIO(body.encode()), headers=headers) as answer:
                if answer.status != 200:
                    return STATUSES.get(answer.status, f"status {answer.status}: {(await answer.text())[:200]}")
                if events:
                    begun.add(cell)
                text = await answer.text()
        except aiohttp.ClientPayloadError:
            return Outcome.CUT
        except aiohttp.ClientError as error:
            return f"{type(error).__name__}: {error}"
        if events and text != 2 * EVENT.decode():
            return f"answer {text!r}"
        return Outcome.SERVED


@contextlib.asynccontextmanager
async def set_stage(way: Way, spoil: Callable[[Resource], None] = lambda _: None) -> AsyncGenerator[Stage]:
    """Start all; the picker always names the second model server. Raises IntentError if that Envoy cannot have the profile."""
    async with contextlib.AsyncExitStack() as stack:
        servers = Server(), Server()
        for server in servers:
            await stack.enter_async_context(server.serving())
        judge, health = StubJudge([servers[1].authority]), Health()
        limits = Limits(body_bytes=LIMIT_BYTES)
        budget = Budget(limits.buffered_bytes)
        picker = NativeServer(lambda: Session(judge, limits, budget), health, limits)
        health.set_ready(True)
        port = await picker.start("127.0.0.1", 0)
        stack.push_async_callback(picker.stop)
        relay = await stack.enter_async_context(Relay(port).serving())
        make = functools.partial(way.intent, [each.authority for each in servers], f"127.0.0.1:{relay.port}")
        resource = await stack.enter_async_context(delivered(way.target, make, parse_version(way.version)))
        spoil(resource)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        envoy = await stack.enter_async_context(running_envoy(resource, find(way.version)))
        clusters = (resource if way.target is Target.ENVOY_STATIC else bootstrap(make()))["static_resources"]["clusters"]
        checked = any("health_checks" in cluster for cluster in clusters)
        yield Stage(envoy, client, servers, relay, way.profile.asks, checked)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 # what is waited for is in several places
        await asyncio.sleep(POLL_S)
