"""A control plane as a whole: server, status pages, and what follows the intent and the snapshot, until told to stop."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shunter.envoyconf.core.envoy.remote import from_control_plane
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.reading import load_intent
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.errors import IntentError
from shunter.envoyconf.shell.ads import Keys, Server
from shunter.envoyconf.shell.live import Live
from shunter.envoyconf.shell.status import StatusPages
from shunter.envoyconf.shell.texts import read_texts

__all__ = ["Place", "run"]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where it listens, and who it is there."""

    host: str = "127.0.0.1"
    port: int = 0
    status_host: str = "127.0.0.1"
    status_port: int = 0
    keys: Keys | None = None


async def run(
    sources: Sequence[str], place: Place, snapshot: Path | None, settings: Settings, say: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; raise IntentError if the intent cannot be used or a port cannot be had.

    ``say`` is told where it listens.
    """
    schema = envoy_schema()
    server = Server(schema, time.monotonic)
    pages = StatusPages(server.report)
    live = Live(
        lambda: read_intent(sources),
        [Path(source) for source in sources],
        server,
        schema=schema,
        source=from_control_plane,
        settings=settings,
        snapshot=snapshot,
    )
    server.trouble["intent"] = "not read yet"
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    following: asyncio.Task[None] | None = None
    try:
        status_port = await pages.start(place.status_host, place.status_port)
        await live.start()
        port = await server.start(place.host, place.port, place.keys)
        say(
            f"Envoys are served on {_authority(place.host, port)}, status pages on {_authority(place.status_host, status_port)}"
        )
        following = asyncio.create_task(live.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if following.done():
            following.result()
    finally:
        if following:
            following.cancel()
        await server.stop()
        await pages.stop()
        live.close()


def read_intent(sources: Sequence[str]) -> Intent:
    """Return the intent that one file states; raise IntentError if it states none."""
    texts = read_texts(sources)
    if len(texts) != 1:
        raise IntentError(f"{', '.join(texts)}: an intent is one file")
    (text,) = texts.values()
    return load_intent(text)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
