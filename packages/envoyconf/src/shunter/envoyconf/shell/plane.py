"""A control plane as a whole: it follows intent and snapshot, passes them on and shows how it is, until told to stop."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from shunter.envoyconf.core.authority import join_authority
from shunter.envoyconf.core.envoy.remote import from_control_plane
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.kube.rewrites import rewrite_artefacts
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.sources import assemble
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.xds.files import from_files
from shunter.envoyconf.shell.ads import Keys, Server
from shunter.envoyconf.shell.directory import Directory
from shunter.envoyconf.shell.live import Live
from shunter.envoyconf.shell.status import StatusPages
from shunter.envoyconf.shell.texts import read_texts

__all__ = ["Place", "Sight", "run"]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where it listens and who it is there, or which directory it keeps."""

    host: str = "127.0.0.1"
    port: int = 0
    keys: Keys | None = None
    status_host: str = "127.0.0.1"
    status_port: int = 0
    directory: Path | None = None  # instead of listening


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What it follows."""

    sources: tuple[str, ...]  # of the intent
    snapshot: Path | None = None  # where a scraper publishes
    learned: Path | None = None  # where a picker's collector does


async def run(
    sight: Sight, place: Place, settings: Settings, say: Callable[[str], None], warn: Callable[[Iterable[str]], None]
) -> None:
    """Serve until SIGTERM or SIGINT; raise IntentError if the intent cannot be used or a port cannot be had.

    ``say`` is told where Envoys are served and where the status pages are, once both are so; ``warn`` what is not served of
    an intent, each time that one is read, and why if it is all of it.
    """
    schema = envoy_schema()
    server = Server(schema, time.monotonic)
    directory = Directory(place.directory) if place.directory else None
    outlet = directory or server
    pages = StatusPages(outlet.report)
    live = Live(
        _Reading(sight.sources, settings, warn).read,
        [Path(source) for source in sight.sources],
        outlet,
        schema=schema,
        source=from_files(str(directory.place)) if directory else from_control_plane,
        settings=settings,
        snapshot=sight.snapshot,
        warn=warn,
        learned=sight.learned,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def follow() -> None:
        status_port = await pages.start(place.status_host, place.status_port)
        await live.start()
        where = f"in {directory.place}" if directory else await _listen(server, place)
        say(f"Envoys are served {where}, status pages on {join_authority(place.status_host, status_port)}")
        await live.run()

    following, stopping = asyncio.create_task(follow()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        following.cancel()
        stopping.cancel()
        await server.stop()
        await pages.stop()
        live.close()


class _Reading:
    """Reads an intent, again and again, and says what of it is not served."""

    def __init__(self, sources: tuple[str, ...], settings: Settings, warn: Callable[[Iterable[str]], None]) -> None:
        self._sources = sources
        self._settings = settings
        self._warn = warn
        self._bootstrap: Resource | None = None  # what Envoys are started with

    def read(self) -> Intent:
        """Return the intent as it is now; raise IntentError if it cannot be used."""
        assembled = assemble(read_texts(self._sources), os.environ)
        output = assembled.generate(Target.XDS, self._settings)
        self._warn((*assembled.notes, *output.warnings, *self._left_out(assembled.intent, output.documents[0])))
        return assembled.intent

    def _left_out(self, intent: Intent, bootstrap: Resource) -> Iterator[str]:
        if rewrite_artefacts(intent, intent.pools):
            yield "rewrites are for pickers, and not served: `generate -o dir=DIR` writes them into rewrites.yaml"
        if self._bootstrap not in (None, bootstrap):
            yield "what Envoys are started with has changed (admin, controlPlane, a collector): generate it, start them anew"
        self._bootstrap = bootstrap


async def _listen(server: Server, place: Place) -> str:
    return f"on {join_authority(place.host, await server.start(place.host, place.port, place.keys))}"
