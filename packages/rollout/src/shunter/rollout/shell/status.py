"""What a sync says of itself over HTTP: a page for people and programs, metrics, and whether all is as it should be.

``/status`` is JSON, ``/metrics`` Prometheus text, ``/readyz`` 200 once every adapter is where it should be and 503 before.
The gauge ``lora_syncer_adapter_status`` is that of the reference's sidecar; over a pool it is 1 where all endpoints agree.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from shunter.rollout.core.desired import Desired
from shunter.rollout.core.reconcile import Standing
from shunter.rollout.errors import ConfigError
from shunter.rollout.shell.following import Following
from shunter.rollout.shell.syncing import Sync
from shunter.snapshot.addresses import addresses_of, why_not

__all__ = ["serve_status"]

PLACED = (Standing.READY, Standing.ABSENT)


class _Metrics(Collector):
    def __init__(self, sync: Sync, config: Following[Desired]) -> None:
        self._sync = sync
        self._config = config

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        desired, reports = self._config.content, self._sync.reports
        asked = [*(adapter.id for adapter in desired.wanted), *desired.unwanted]
        upstream = GaugeMetricFamily(
            "lora_syncer_adapter_status", "1 if the adapter is loaded, or gone, as it should be.", labels=["adapter_name"]
        )
        ours = GaugeMetricFamily(
            "shunter_rollout_adapter_ready", "1 if the endpoint has the adapter.", labels=["endpoint", "adapter_name"]
        )
        for each in asked:
            placed = [report.adapters.get(each) in PLACED for report in reports.values()]
            upstream.add_metric([each], float(bool(placed) and all(placed)))
            for url, report in reports.items():
                ours.add_metric([url, each], float(report.adapters.get(each) is Standing.READY))
        yield upstream
        yield ours
        calls = CounterMetricFamily(
            "shunter_rollout_calls",
            "Calls that loaded or unloaded an adapter, or failed to.",
            labels=["endpoint", "call", "outcome"],
        )
        for (url, verb, succeeded), count in self._sync.calls.items():
            calls.add_metric([url, verb, "success" if succeeded else "failure"], count)
        yield calls
        trouble = GaugeMetricFamily("shunter_rollout_config_refused", "1 if the newest configuration cannot be used.")
        trouble.add_metric([], float(self._config.trouble is not None))
        yield trouble


@asynccontextmanager
async def serve_status(host: str, port: int, sync: Sync, config: Following[Desired]) -> AsyncGenerator[int]:
    """Serve it while the block runs; yields the port. Raises ConfigError if the port is taken."""
    registry = CollectorRegistry()
    registry.register(_Metrics(sync, config))

    async def status(_: web.Request) -> web.Response:
        body = {
            "settled": sync.settled,
            "configRefused": config.trouble,
            "conflicts": config.content.conflicts,
            "endpoints": {
                url: {"adapters": report.adapters, "reasons": report.reasons, "trouble": report.trouble}
                for url, report in sync.reports.items()
            },
        }
        return web.Response(body=msgspec.json.format(msgspec.json.encode(body)), content_type="application/json")

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if sync.settled else web.Response(status=503, text="not yet\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/status", status), web.get("/readyz", ready), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            for each in addresses_of(host):
                await web.TCPSite(runner, each, port).start()
                port = runner.addresses[0][1]
        except OSError as error:
            raise ConfigError(f"--status-host {host} --status-port {port}: {why_not(error)}") from None
        yield port
    finally:
        await runner.cleanup()
