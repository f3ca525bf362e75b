"""The picker's HTTP pages for people and machines: health, metrics, the fleet, the last decisions. No prompts, ever.

::

    /healthz           200 while the process lives
    /readyz            200 when a snapshot is there and the picker is not draining, else 503; JSON with the reasons
    /metrics           Prometheus text
    /debug/fleet       JSON: the endpoints as the picker sees them
    /debug/decisions   JSON: the last decisions, newest first; ?last=N
"""

from collections.abc import Callable

import msgspec
from aiohttp import web

from shunter.picker.core.decisions import KEEP, DecisionLog
from shunter.picker.core.overview import Overview
from shunter.picker.errors import ConfigError
from shunter.picker.shell.metrics import Metrics

__all__ = ["Admin"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Admin:
    """Serves the pages; knows nothing that its arguments do not tell it."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        look: Callable[[], Overview],
        decisions: DecisionLog,
        hindrances: Callable[[], list[str]],
        now_s: Callable[[], float],
    ) -> None:
        """``hindrances`` says why the picker is not ready, in words; an empty list means it is."""
        self._metrics = metrics
        self._look = look
        self._decisions = decisions
        self._hindrances = hindrances
        self._now_s = now_s
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        app.router.add_get("/metrics", self._page)
        app.router.add_get("/debug/fleet", self._fleet)
        app.router.add_get("/debug/decisions", self._last_decisions)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port, which matters when ``port`` is 0; raise ConfigError if it is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"cannot serve the admin pages on {host}:{port}: {error.strerror}; choose others with --host or --admin-port"
            ) from error
        return self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        hindrances = self._hindrances()
        return _json({"ready": not hindrances, "hindrances": hindrances}, status=503 if hindrances else 200)

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"content-type": PROMETHEUS})

    async def _fleet(self, _: web.Request) -> web.Response:
        return _json(self._look())

    async def _last_decisions(self, request: web.Request) -> web.Response:
        asked = request.query.get("last", str(KEEP))
        if not asked.isdecimal() or len(asked) > 9:
            return _json({"error": f"last={asked}: give a number"}, status=400)
        entries = self._decisions.latest(int(asked))
        return _json({"now_s": self._now_s(), "decisions": [entry.explain() for entry in entries]})


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
