"""Looking at a server: the views of which pages and facts are made, with gauges as old as its kind has them."""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from shunter.lab.core.models import Models
from shunter.lab.core.reporting import Reporting
from shunter.lab.dialects import Dialect, View, render
from shunter.lab.shell.clockwork import Clockwork
from shunter.lab.shell.generation import Generation

__all__ = ["DialectPage", "Views"]


class Views:
    """Looks at one server. `unix_minus_engine_s`: what to add to the engine's time to get unix time."""

    def __init__(
        self, dialect: Dialect, models: Models, clockwork: Clockwork, generation: Generation, unix_minus_engine_s: float
    ) -> None:
        self._models = models
        self._clockwork = clockwork
        self._generation = generation
        self._unix_minus_engine_s = unix_minus_engine_s
        self._reporting = Reporting(dialect.refresh)
        if dialect.refresh.steps > 1:
            clockwork.watch = self.look

    def look(self) -> View:
        """As of now, or as old as what the engine says is."""
        now_s = asyncio.get_running_loop().time()
        engine, truth = self._clockwork.engine, self._clockwork.gauges()
        return View(
            models=self._models,
            params=engine.params,
            tally=engine.tally,
            gauges=self._reporting.report(truth, engine.tally, now_s),
            live=self._generation.live,
            unix_s=now_s + self._unix_minus_engine_s,
        )


class DialectPage:
    """The metrics page of a dialect that makes families of a view."""

    def __init__(self, dialect: Dialect, look: Callable[[], View]) -> None:
        self._dialect = dialect
        self._look = look
        self._registry = CollectorRegistry()
        if dialect.process:
            GCCollector(self._registry)
            PlatformCollector(self._registry)
            ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The page as of now."""
        families = self._dialect.families
        own = b"" if families is None else render(families(self._look()), self._dialect.number)
        return generate_latest(self._registry) + own
