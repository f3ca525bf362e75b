"""News for the web page by server-sent events: one producer however many look, and nobody who looks can hold it up.

::

    every second, while somebody looks → the sections of core.page that changed → each viewer's mailbox → its socket
    every five seconds, always         → a moment for the small charts, which are there when somebody comes

A mailbox holds of each section the newest only, so a slow viewer misses news and never piles any up. One that takes nothing for
a while, or is one too many, is dropped and counted; its browser tries again by itself.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Generator, Sequence

import msgspec
from aiohttp import web

from shunter.picker.core.page import Worker, attained, tell
from shunter.picker.core.pulse import EVERY_S, Pulse, moment
from shunter.picker.core.shadow import describe
from shunter.picker.errors import SilenceError
from shunter.picker.shell.page.files import HEADERS
from shunter.picker.shell.report import Source, WorkerReport

__all__ = ["Live"]

# What changes faster nobody reads.
LOOK_S = 1.0

# A worker takes a tenth of a millisecond to put a decision in words, and nine times that if it had 1,000 candidates; in that
# time it picks for nobody. So it is asked for a few, and for fewer in a large pool.
DECISIONS_S = 2.0
DECISIONS = 8
CANDIDATES = 2_000

# Each has a browser; more are a mistake, or malice.
MOST_VIEWERS = 16

# A suspended laptop takes nothing. What the kernel keeps for it is bounded too: 1,000 endpoints make news of 40 kB a second.
PATIENCE_S = 10.0
UNSENT_BYTES = 256 * 1024

# Told to browsers: how long to wait before they come again.
AGAIN_MS = 2_000

log = logging.getLogger(__name__)


class Viewer:
    """A mailbox: of each section the newest, until it is taken."""

    def __init__(self) -> None:
        """Have no news."""
        self._news: dict[str, bytes] = {}
        self._some = asyncio.Event()

    def offer(self, section: str, data: bytes) -> None:
        """Put something in place of what is not taken yet, and last: a load is of the endpoints that were told before it."""
        self._news.pop(section, None)
        self._news[section] = data
        self._some.set()

    def close(self) -> None:
        """Bring no more."""
        self._news.clear()
        self._some.set()

    async def take(self) -> bytes:
        """Wait for news and return all there are, as events; nothing when no more will come."""
        await self._some.wait()
        self._some.clear()
        news, self._news = self._news, {}
        return b"".join([b"event: %b\ndata: %b\n\n" % (section.encode(), data) for section, data in news.items()])


class Live:
    """Serves ``/events``."""

    def __init__(self, source: Source, *, look_s: float = LOOK_S, patience_s: float = PATIENCE_S) -> None:
        """Look at nothing yet."""
        self._source = source
        self._look_s = look_s
        self._patience_s = patience_s
        self._pulse = Pulse()
        self._viewers: set[Viewer] = set()
        self._told: dict[str, bytes] = {}  # what whoever comes next is told first
        self._come = asyncio.Event()
        self._producing: asyncio.Task[None] | None = None
        self.dropped = 0
        """Viewers that did not take their news, or were too many."""

    async def start(self, _: web.Application) -> None:
        """Begin to look now and then."""
        self._producing = asyncio.create_task(self._produce())

    async def stop(self, _: web.Application) -> None:
        """Look no more, and let everybody go."""
        if self._producing is not None:
            self._producing.cancel()
            await asyncio.gather(self._producing, return_exceptions=True)
        for viewer in self._viewers:
            viewer.close()

    def routes(self) -> list[web.RouteDef]:
        """Return where the news are; who asks for their head alone would wait for ever."""
        return [web.get("/events", self._events, allow_head=False)]

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Tell one viewer all there is, and then what changes, until it leaves."""
        if request.headers.get("Sec-Fetch-Site") == "cross-site":  # it could not read them, but take others' places
            raise web.HTTPForbidden(text="this is for the picker's own page\n")
        if len(self._viewers) >= MOST_VIEWERS:
            self.dropped += 1
            raise web.HTTPServiceUnavailable(text=f"{MOST_VIEWERS} look already\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        with self._seat() as viewer, contextlib.suppress(OSError):  # it left
            await response.prepare(request)
            if request.transport is not None:
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
            await response.write(b"retry: %d\n\n" % AGAIN_MS)
            while news := await viewer.take():
                try:
                    async with asyncio.timeout(self._patience_s):
                        await response.write(news)
                except TimeoutError:
                    self.dropped += 1
                    if request.transport is not None:
                        request.transport.abort()
                    break
        return response

    @contextlib.contextmanager
    def _seat(self) -> Generator[Viewer]:
        viewer = Viewer()
        for section, data in self._told.items():
            viewer.offer(section, data)
        self._viewers.add(viewer)
        self._come.set()
        try:
            yield viewer
        finally:
            self._viewers.remove(viewer)

    async def _produce(self) -> None:
        asked_s = 0.0
        while True:
            if self._viewers:
                await asyncio.sleep(self._look_s)
            else:
                self._come.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._come.wait(), EVERY_S)
            try:
                endpoints = self._look()
                if self._viewers and time.monotonic() - asked_s >= DECISIONS_S:
                    asked_s = time.monotonic()
                    last = max(1, min(DECISIONS, CANDIDATES // max(1, endpoints)))
                    with contextlib.suppress(SilenceError):  # those told last stay
                        self._publish("decisions", msgspec.json.encode(await self._source.decisions(last, None)))
            except Exception:  # the boundary: figures come from files that others write, and words from plugins
                log.exception("the page cannot be told how things are")
                await asyncio.sleep(EVERY_S)

    def _look(self) -> int:
        """Tell all but the decisions, and return how many endpoints there are."""
        source, now_s = self._source, time.monotonic()
        overview, learned, reports = source.overview(), source.learned(), source.workers()
        tally = source.tally()
        now = moment(overview, tally, learned, now_s, restarts=_ended(reports))
        self._pulse.add(now)
        if not self._viewers:
            self._told.clear()
            return 0
        account, trial = source.shadow(), source.trial()
        for section, data in tell(
            overview,
            learned,
            now,
            self._pulse,
            [_worker(report) for report in reports],
            pool=source.pool(),
            hindrances=source.hindrances(),
            shadow=describe(account) if account is not None else (),
            trial=trial.report if trial is not None else (),
            reloads=source.reloads(),
            levels=attained(source.service_levels(), tally.levels),
            wall_s=time.time(),
        ).items():
            self._publish(section, data)
        return len(overview.endpoints)

    def _publish(self, section: str, data: bytes) -> None:
        if self._told.get(section) != data:
            self._told[section] = data
            for viewer in self._viewers:
                viewer.offer(section, data)


def _ended(reports: Sequence[WorkerReport]) -> dict[str, int]:
    """Count the processes that ended and should not have, by worker and reason."""
    return {
        f"{report.worker} {reason}": count
        for report in reports
        for reason, count in report.restarts.items()
        if reason != "relieved"
    }


def _worker(report: WorkerReport) -> Worker:
    return Worker(
        worker=report.worker,
        address=report.address,
        pid=report.pid,
        ready=report.ready,
        hindrances=report.hindrances,
        streams=report.streams,
        certificate_expires_s=report.certificate_expires_s,
        restarts=report.restarts,
    )
