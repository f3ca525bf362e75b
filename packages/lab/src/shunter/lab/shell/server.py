"""The HTTP server: vLLM's paths over one engine, with the faults it was asked to have."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

from aiohttp import web

from shunter.lab.core.answers import encode_error
from shunter.lab.core.engine import Engine
from shunter.lab.core.kvevents import Announcer
from shunter.lab.core.models import Models
from shunter.lab.core.params import EngineParams
from shunter.lab.errors import ApiError, ParamsError
from shunter.lab.faults import Fault, faults_named
from shunter.lab.shell.clockwork import Clockwork
from shunter.lab.shell.defects import Defects
from shunter.lab.shell.generation import Generation
from shunter.lab.shell.kvevents import KvPublisher
from shunter.lab.shell.metrics import MetricsPage
from shunter.lab.shell.paths import MAX_BODY_BYTES, Paths
from shunter.lab.shell.wire import json_response

__all__ = ["LabServer"]

# A stalled answer must not hold up the end of the server for longer.
CLEANUP_S = 0.5


class LabServer:
    """A model server in this process: `async with LabServer(…) as server`, or `start` and `stop`.

    `faults` may be changed while it runs (`break_with`, `mend`). `engine` is the engine itself, for tests that want to
    see; like the clock that drives it, it exists once the server has started.
    """

    def __init__(
        self,
        params: EngineParams | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        models: Iterable[str] = ("lab/llama-3-8b",),
        loras: Iterable[str] = (),
        enable_lora: bool | None = None,
        prompt_tokens_details: bool = False,
        name: str | None = None,
        faults: Iterable[str] = (),
        kv_events_port: int | None = None,
        kv_replay_port: int | None = None,
    ) -> None:
        self.params = params or EngineParams()
        self.models = Models(models, loras, lora=enable_lora)
        if not host:
            raise ParamsError("host is empty; name an address to listen on (0.0.0.0 is every one)")
        self.host = host
        self.port = port
        self.name = name
        self._defects = Defects(faults_named(faults))
        self._prompt_tokens_details = prompt_tokens_details
        self.kv_events: KvPublisher | None = None
        """Where it publishes what its cache holds, if it does."""
        self._announcer: Announcer | None = None
        if kv_events_port is not None:
            self._announcer = Announcer(self.params.block_size)
            topic = f"kv@{host}:{port}@{self.models.names[0]}"
            self.kv_events = KvPublisher(host, kv_events_port, kv_replay_port, topic, self._announcer.batch)
        elif kv_replay_port is not None:
            raise ParamsError("nothing is published that could be repeated: give --kv-events-port, too")

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def fingerprint(self) -> str:
        """What `system_fingerprint` says in every answer of this server."""
        return self.name or f"lab-{self.port}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with it at the moment."""
        return self._defects.faults

    @faults.setter
    def faults(self, faults: tuple[Fault, ...]) -> None:
        self._defects.faults = faults

    def break_with(self, *names: str) -> None:
        """Have these faults, and no others, from now on."""
        self.faults = faults_named(names)

    def mend(self) -> None:
        """Have no fault from now on."""
        self.faults = ()

    # Life.

    async def start(self) -> None:
        """Listen; `port` is then the real one. A taken port is a ParamsError."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._started_s = now_s
        self.engine = Engine(self.params, now_s)
        self._clockwork = Clockwork(self.engine, loop)
        self._defects.pace = self._clockwork.pace
        page = MetricsPage(self._clockwork, self.models, time.time() - now_s, now_s)
        details = self._prompt_tokens_details
        self._generation = Generation(self._clockwork, self._defects, self._announcer, self, tell_cached=details)
        self._paths = Paths(self.models, self._clockwork, page, self._generation, self._defects)
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.add_routes(self._paths.routes())
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=CLEANUP_S, handle_signals=False
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            reason = getattr(error, "strerror", None) or str(error)
            raise ParamsError(
                f"cannot listen on {self.host}:{self.port}: {reason}; choose another --port (0 takes a free one)"
            ) from error
        self.port = self._runner.addresses[0][1]
        if self.kv_events is not None:
            if self.params.enable_prefix_caching:
                self.engine.cache.watch = self._announcer
            try:
                self.kv_events.start()
            except ParamsError:
                await self._runner.cleanup()
                raise

    async def stop(self, drain_s: float = 0.0) -> None:
        """End. New work is refused at once; what runs may finish for `drain_s`, then ends with finish_reason `abort`."""
        self._paths.draining = True
        await self._generation.end(0.0 if self._defects.ends("cut") else drain_s)
        if self._defects.ends("linger"):
            await asyncio.Future[None]()
        await self._runner.cleanup()
        self._clockwork.close()
        if self.kv_events is not None:
            await self.kv_events.stop()

    async def kill_engine(self) -> None:
        """Let the engine die, and what runs with it; the rest of the server goes on."""
        self._paths.dead = True
        self._clockwork.close()
        await self._generation.end(0.0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.mend()
        await self.stop()

    # Every request comes through here.

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Errors into vLLM's shapes, and the faults that need no more than an answer."""
        met = await self._defects.meet(request, asyncio.get_running_loop().time() - self._started_s)
        if met is not None:
            return met
        try:
            response = await handler(request)
        except ApiError as error:
            response = json_response(encode_error(error), error.status)
        except web.RequestPayloadError:
            refusal = ApiError(400, "The body breaks its Content-Encoding or Transfer-Encoding.", kind="Bad Request")
            response = json_response(encode_error(refusal), refusal.status)
        except web.HTTPNotFound:
            response = json_response(b'{"detail":"Not Found"}', 404)
        except web.HTTPMethodNotAllowed as error:
            response = json_response(b'{"detail":"Method Not Allowed"}', 405)
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return await self._defects.spoil(request, response) if isinstance(response, web.Response) else response
