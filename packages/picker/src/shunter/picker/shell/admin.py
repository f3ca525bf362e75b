"""The picker's HTTP pages for people and machines, answered for all workers by the supervisor. No prompts, ever.

::

    /                  the web page (``shell.page``), and beside it /page/…
    /events            what the web page is told, as server-sent events
    /healthz           200 while the supervisor lives
    /readyz            200 when a worker is ready and the picker is not draining, else 503; JSON with the reasons, by worker
    /metrics           Prometheus text
    /metrics/external  JSON for autoscalers (``core.external``), or /metrics/external/NAME; ?LABEL=VALUE
    /debug/fleet       JSON: the endpoints as the picker sees them
    /debug/decisions   JSON: the last decisions, newest first; ?last=N, or ?id=REQUEST_ID
    /debug/precedents  lines of JSON: the last decisions with all that was known then, to decide them anew; ?last=N
                       (this and /debug/decisions: 503 if no worker answers)
    /debug/trial       JSON: what the last reload would have changed of them; null if there was none
    /debug/shadow      JSON: what came of the shadow configuration
    /debug/workers     JSON: every worker, its process and where it listens
    /debug/config      YAML: the configuration in force, with every default
    /debug/stacks      text: where every thread and task is
    /debug/log-level   JSON: what is logged at least; PUT from this machine changes it, {"level": "debug"}
"""

import datetime as dt
import time
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any, TypeVar, get_args

import msgspec
from aiohttp import web

from shunter.picker.core.decisions import KEEP, LONGEST_NAME
from shunter.picker.core.external import OFFERED, offer
from shunter.picker.core.shadow import describe
from shunter.picker.errors import ConfigError, SilenceError
from shunter.picker.shell.metrics import Metrics, Names, everything
from shunter.picker.shell.page import Files, Live, refuse_strange_names
from shunter.picker.shell.report import Source
from shunter.snapshot.addresses import addresses_of, why_not
from shunter.snapshot.stderr import Level

__all__ = ["Admin"]

# For pages on their way while the picker ends; those that ask the workers take a second. aiohttp would wait for a minute, and
# be killed before that.
LAST_PAGES_S = 2.0

# Decisions shown unless more are asked for: each takes a worker a tenth of a millisecond to put in words.
SHOWN = 256

T = TypeVar("T")

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be logged at least."""

    level: Level


class Admin:
    """Serves the pages; knows nothing that its source does not tell it."""

    def __init__(self, source: Source, names: Names = "current") -> None:
        self._source = source
        self._live = Live(source)
        self._metrics = Metrics(source, names, lambda: self._live.dropped)
        app = web.Application(middlewares=[refuse_strange_names])
        app.add_routes([*Files().routes(), *self._live.routes()])
        for path, page in {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._numbers,
            "/metrics/external": self._external,
            "/metrics/external/{name}": self._external,
            "/debug/fleet": self._fleet,
            "/debug/decisions": self._decisions,
            "/debug/precedents": self._precedents,
            "/debug/trial": self._trial,
            "/debug/shadow": self._shadow,
            "/debug/workers": self._workers,
            "/debug/config": self._config,
            "/debug/stacks": self._stacks,
            "/debug/log-level": self._log_level,
        }.items():
            app.router.add_get(path, page)
        # PUT: a page of somebody else's in a browser of this machine must ask before it may, and nobody answers.
        app.router.add_put("/debug/log-level", self._set_log_level)
        app.on_startup.append(self._live.start)
        app.on_shutdown.append(self._live.stop)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=LAST_PAGES_S)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port, which matters when ``port`` is 0; raise ConfigError if it is taken."""
        if not host:  # which would mean every address
            raise ConfigError("--admin-host is empty: give an address; :: shows the pages to everybody")
        await self._runner.setup()
        try:
            for each in addresses_of(host):
                await web.TCPSite(self._runner, each, port).start()
                port = self._runner.addresses[0][1]
        except OSError as error:
            await self._runner.cleanup()
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise ConfigError(
                f"cannot serve the admin pages on {where}: {why_not(error)}; choose another with --admin-host or --admin-port"
            ) from error
        return port

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        hindrances = self._source.hindrances()
        answer = {"ready": not hindrances, "hindrances": hindrances, "workers": self._source.workers()}
        return _json(answer, status=503 if hindrances else 200)

    async def _numbers(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"content-type": PROMETHEUS})

    async def _external(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name")
        names = [family.name for family in OFFERED]
        if name is not None and name not in names:
            raise web.HTTPNotFound(text=f"no metric {name[:LONGEST_NAME]} here; there are {', '.join(names)}\n")
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return _json(offer(everything(self._source), now, name, dict(request.query)))

    async def _fleet(self, _: web.Request) -> web.Response:
        return _json(self._source.overview())

    async def _decisions(self, request: web.Request) -> web.Response:
        last = _last(request, SHOWN)
        decisions = await _hear(self._source.decisions(last, request.query.get("id")))
        return _json({"now_s": time.monotonic(), "decisions": decisions})

    async def _precedents(self, request: web.Request) -> web.Response:
        lines = await _hear(self._source.precedents(_last(request, KEEP)))
        return web.Response(body=b"".join(lines), content_type="application/x-ndjson")

    async def _shadow(self, _: web.Request) -> web.Response:
        account = self._source.shadow()
        return _json({"report": describe(account) if account is not None else [], "account": account})

    async def _trial(self, _: web.Request) -> web.Response:
        return _json(self._source.trial())

    async def _workers(self, _: web.Request) -> web.Response:
        return _json(self._source.workers())

    async def _config(self, _: web.Request) -> web.Response:
        return web.Response(text=self._source.configuration(), content_type="application/yaml")

    async def _stacks(self, _: web.Request) -> web.Response:
        return web.Response(text=await self._source.stacks())

    async def _log_level(self, _: web.Request) -> web.Response:
        return _json({"level": self._source.log_level()})

    async def _set_log_level(self, request: web.Request) -> web.Response:
        if request.remote is None or not ip_address(request.remote).is_loopback:
            raise web.HTTPForbidden(text="the log level is changed from the picker's own machine, or pod, only\n")
        try:
            wish = msgspec.json.decode(await request.read(), type=Wish)
        except msgspec.MsgspecError as error:
            levels = ", ".join(get_args(Level))
            raise web.HTTPBadRequest(text=f'{error}; send {{"level": LEVEL}}, one of {levels}\n') from None
        self._source.set_log_level(wish.level)
        return await self._log_level(request)


async def _hear(answer: Coroutine[Any, Any, T]) -> T:
    """Return what workers say; 503 if none does, since no decisions would be another answer."""
    try:
        return await answer
    except SilenceError as error:
        raise web.HTTPServiceUnavailable(text=f"{error}\n") from None


def _last(request: web.Request, default: int) -> int:
    asked = request.query.get("last", str(default))
    if not asked.isdecimal() or len(asked) > 9:
        raise web.HTTPBadRequest(text=f"last={asked}: give a number\n")
    return int(asked)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
