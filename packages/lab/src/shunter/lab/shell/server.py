"""The HTTP server: one dialect over one engine, with the faults it was asked to have."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Middleware

from shunter.lab.core.engine import Engine
from shunter.lab.core.kvevents import Announcer
from shunter.lab.core.models import Models
from shunter.lab.core.params import EngineParams
from shunter.lab.core.tally import Histogram
from shunter.lab.dialects import dialect_named
from shunter.lab.errors import ApiError, ParamsError
from shunter.lab.faults import Fault, faults_named
from shunter.lab.shell.administration import ADMIN, Administration
from shunter.lab.shell.clockwork import Clockwork
from shunter.lab.shell.defects import Defects
from shunter.lab.shell.encodings import Encodings
from shunter.lab.shell.generation import Generation
from shunter.lab.shell.kvevents import KvPublisher
from shunter.lab.shell.listening import listen
from shunter.lab.shell.metrics import MetricsPage
from shunter.lab.shell.paths import MAX_BODY_BYTES, Paths
from shunter.lab.shell.views import DialectPage, Views
from shunter.lab.shell.wire import json_response

__all__ = ["LabServer"]


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
        dialect: str = "lab",
        data_parallel_size: int = 1,
        metrics_port: int = 0,
        admin: bool = False,
        ec_storage: Path | None = None,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        self.params = params or EngineParams()
        self.dialect = dialect_named(dialect)
        self.models = Models(models, loras, lora=enable_lora, selector=self.dialect.selector, lenient=self.dialect.lenient)
        if not host:
            raise ParamsError("host is empty; name an address to listen on (0.0.0.0 is every one)")
        self.host = host
        self.port = port
        self.name = name
        self.metrics_port = metrics_port
        """Where the metrics are if the dialect has them on a port of their own."""
        if data_parallel_size < 1 or (data_parallel_size > 1 and (self.dialect.families or kv_events_port is not None)):
            wanted = "at least 1; more than one only with vLLM's metrics, and without KV events"
            raise ParamsError(f"data_parallel_size {data_parallel_size}: want {wanted}")
        self._ranks = range(data_parallel_size)
        if ec_storage is not None and not self.params.media_tokens:
            raise ParamsError("--ec-storage: a model that reads text only encodes nothing; give --media-tokens, too")
        self._encodings = Encodings(ec_storage) if ec_storage is not None else None
        self._admin = admin
        self._middlewares = middlewares
        self._defects = Defects(faults_named(faults), self.dialect)
        self._prompt_tokens_details = prompt_tokens_details
        self.kv_events: KvPublisher | None = None
        """Where it publishes what its cache holds, if it does."""
        self._announcer: Announcer | None = None
        if kv_events_port is not None:
            self._announcer = Announcer(self.params.block_size)
            topic = f"kv@{host}:{port}@{self.models.names[0]}"
            self.kv_events = KvPublisher(host, kv_events_port, kv_replay_port, topic, self._announcer.batch, self._defects)
        elif kv_replay_port is not None:
            raise ParamsError("nothing is published that could be repeated: give --kv-events-port, too")

    @property
    def url(self) -> str:
        return self._at(self.port)

    @property
    def metrics_url(self) -> str:
        """Where its metrics page is."""
        path = next(path.partition(" ")[2] for path, deed in self.dialect.paths.items() if deed == "metrics")
        return self._at(self.port if self.dialect.metrics_port is None else self.metrics_port) + path

    def _at(self, port: int) -> str:
        return f"http://[{self.host}]:{port}" if ":" in self.host else f"http://{self.host}:{port}"

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

    def crash_by(self, crash: Callable[[], None]) -> None:
        """Have this done when the fault `crash` is met; otherwise it only resets every connection."""
        self._defects.crash = crash

    def mend(self) -> None:
        """Have no fault from now on."""
        self.faults = ()

    # Life.

    async def start(self) -> None:
        """Listen; `port` is then the real one. A taken port is a ParamsError."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._started_s = now_s
        self._clockworks = [Clockwork(Engine(self.params, now_s), loop) for _ in self._ranks]
        self.engine = self._clockworks[0].engine
        for clockwork in self._clockworks:
            clockwork.engine.encoder.storage = self._encodings
            for histogram, bounds in self.dialect.bounds.items():
                setattr(clockwork.engine.tally, histogram, Histogram(bounds))
        self._defects.pace = self._pace
        unix_minus_engine_s = time.time() - now_s
        details = self._prompt_tokens_details
        self._generation = Generation(self._clockworks, self._defects, self._announcer, self, tell_cached=details)
        views = Views(self.dialect, self.models, self._clockworks[0], self._generation, unix_minus_engine_s)
        page = (
            MetricsPage(self._clockworks, self.models, unix_minus_engine_s, now_s)
            if self.dialect.families is None
            else DialectPage(self.dialect, views.look)
        )
        self._paths = Paths(self.dialect, self.models, page, views.look, self._generation, self._defects)
        here, apart = self._paths.routes()
        here += Administration(self._defects).routes() if self._admin else []
        self._runners: list[web.AppRunner] = []
        self.port = await self._listen(here, self.port, "--port")
        if apart:
            self.metrics_port = await self._listen(apart, self.metrics_port, "--metrics-port")
        if self.kv_events is not None:
            if self.params.keeps_prefixes:
                self.engine.cache.watch = self._announcer
            try:
                self.kv_events.start()
            except ParamsError:
                await self._close()
                raise

    async def _listen(self, routes: Iterable[web.RouteDef], port: int, option: str) -> int:
        """Answer these paths at a port, of which 0 is any free one; returns the real one."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[*self._middlewares, self._guard])
        app.add_routes(routes)
        try:
            runner, port = await listen(app, self.host, port, option)
        except ParamsError:
            await self._close()
            raise
        self._runners.append(runner)
        return port

    def _pace(self, share: float) -> None:
        for clockwork in self._clockworks:
            clockwork.pace(share)

    async def _close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def stop(self, drain_s: float = 0.0) -> None:
        """End. New work is refused at once; what runs may finish for `drain_s`, then ends with finish_reason `abort`."""
        self._paths.draining = True
        await self._generation.end(0.0 if self._defects.ends("cut") else drain_s)
        if self._defects.ends("linger"):
            await asyncio.Future[None]()
        await self._close()
        for clockwork in self._clockworks:
            clockwork.close()
        if self.kv_events is not None:
            await self.kv_events.stop()

    async def kill_engine(self) -> None:
        """Let the engine die, and what runs with it; the rest of the server goes on."""
        self._paths.dead = True
        for clockwork in self._clockworks:
            clockwork.close()
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
        """Errors into the dialect's shapes, and the faults that need no more than an answer."""
        if self._admin and request.path.startswith(ADMIN):
            return await handler(request)
        met = await self._defects.meet(request, asyncio.get_running_loop().time() - self._started_s)
        if met is not None:
            return met
        dialect = self.dialect
        try:
            response = await handler(request)
        except ApiError as error:
            response = _refusal(*dialect.error(error))
        except web.RequestPayloadError:
            refusal = ApiError(400, "The body breaks its Content-Encoding or Transfer-Encoding.", kind="Bad Request")
            response = _refusal(*dialect.error(refusal))
        except web.HTTPNotFound:
            response = _refusal(*dialect.no_path)
        except web.HTTPMethodNotAllowed as error:
            response = _refusal(*dialect.no_method)
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return await self._defects.spoil(request, response) if isinstance(response, web.Response) else response


def _refusal(status: int, body: bytes) -> web.Response:
    return json_response(body, status) if body.startswith(b"{") else web.Response(text=body.decode(), status=status)
