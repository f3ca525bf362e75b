"""The scraper's HTTP pages, for probes, for people and for machines.

::

    /healthz        200 while the scraper lives
    /readyz         200 once a snapshot has been published, else 503; JSON with what hinders it and what is wrong besides
    /metrics        Prometheus text
    /debug/cluster  JSON: version, what is followed and how it stands, pools with their endpoints, pools of other
                    clusters, complaints
"""

import time
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import web

from shunter.scraper.errors import ConfigError
from shunter.scraper.shell.metrics import Metrics
from shunter.scraper.shell.service import Scraper
from shunter.snapshot import SCHEMA
from shunter.snapshot.addresses import addresses_of, why_not

__all__ = ["Admin"]

# For pages on their way while the scraper ends; aiohttp would wait for a minute.
LAST_PAGES_S = 2.0

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Admin:
    """Serves the pages; knows nothing that its scraper does not tell it."""

    def __init__(self, scraper: Scraper) -> None:
        self._scraper = scraper
        self._version = version("shunter-scraper")
        self._metrics = Metrics(scraper, self._version)
        app = web.Application()
        for path, page in {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._numbers,
            "/debug/cluster": self._cluster,
        }.items():
            app.router.add_get(path, page)
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
        registry, ready = self._scraper.registry, bool(self._scraper.publisher.published_ns)
        unread = [f"{each.place}: {each.trouble or 'not read yet'}" for each in registry.following if not each.known]
        answer = {
            "ready": ready,
            "hindrances": [] if ready else unread or ["the first snapshot is being made"],
            "troubles": [f"{each.place}: {each.trouble}" for each in registry.following if each.trouble]
            + [trouble for trouble in self._scraper.troubles.values() if trouble],
            "complaints": len(registry.complaints),
        }
        return _json(answer, status=200 if ready else 503)

    async def _numbers(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"content-type": PROMETHEUS})

    async def _cluster(self, _: web.Request) -> web.Response:
        registry, topology = self._scraper.registry, self._scraper.topology
        members: list[list[str]] = [[] for _ in topology.pools]
        for endpoint in topology.endpoints:
            for index in endpoint.pools:
                members[index].append(endpoint.authority)
        pools: list[dict[str, Any]] = [
            {"namespace": pool.namespace, "name": pool.name, "endpoints": endpoints}
            for pool, endpoints in zip(topology.pools, members, strict=True)
        ]
        complaints: list[dict[str, str]] = [
            {"resource": title, "namespace": key.namespace, "name": key.name, **complaint._asdict()}
            for (title, key), complaint in sorted(registry.complaints.items())
        ]
        return _json(
            {
                "version": self._version,
                "schema": SCHEMA,
                "now_s": time.time(),
                "generation": topology.generation,
                "following": registry.following,
                "pools": pools,
                "imports": [each._asdict() for each in self._scraper.imports],
                "complaints": complaints,
            }
        )


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
