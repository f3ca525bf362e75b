"""Waiting for a server that has just been started, and giving up with a reason."""

import asyncio
from collections.abc import Awaitable, Callable

from shunter.conformance.errors import Unanswered
from shunter.conformance.shell.wire import Wire

__all__ = ["GRACE_S", "POLL_S", "READY_WITHIN_S", "last_words", "ready"]

# As Kubernetes gives every pod that says nothing else.
GRACE_S = 30.0

# A big model takes minutes to load and to compile.
READY_WITHIN_S = 900.0

POLL_S = 0.1

# A server that answers later than this is not ready yet.
ANSWER_TIMEOUT_S = 5.0

LAST_LINES = 20


async def ready(url: str, trouble: Callable[[], Awaitable[str | None]], within_s: float) -> None:
    """Return when `url` answers 200; raises TimeoutError that says why if `trouble` is found, or time is up."""
    last = "nobody answered"
    try:
        async with asyncio.timeout(within_s), Wire(ANSWER_TIMEOUT_S) as wire:
            while True:
                if found := await trouble():
                    break
                try:
                    status = (await wire.exchange("GET", url)).status
                except Unanswered as error:
                    last = str(error)
                else:
                    if status == 200:
                        return
                    last = f"GET {url} → {status}"
                wire.transcript.clear()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        found = f"not ready within {within_s:g} s: {last}"
    raise TimeoutError(found)


def last_words(log: str) -> str:
    """Return the end of a log, to stand behind an error message."""
    lines = log.rstrip().splitlines()[-LAST_LINES:]
    return "".join(f"\n  {line}" for line in lines) or "; it said nothing"
