"""Listening at an address, or saying what would have to be another one."""

import errno
import logging
import socket

from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import HttpProcessingError

from shunter.lab.errors import ParamsError

__all__ = ["listen"]

# A stalled answer must not hold up the end of a server for longer.
CLEANUP_S = 0.5

# What clients do: they write no HTTP, spoil a body, go away before the answer. They are answered 400 if they are still there,
# and the log is for mistakes of this server.
OF_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ClientConnectionResetError)


def _of_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], OF_CLIENTS))


LOGGER = logging.getLogger(__name__)
LOGGER.addFilter(_of_ours)


async def listen(app: web.Application, host: str, port: int, option: str) -> tuple[web.AppRunner, int]:
    """Answer at a port, of which 0 is any free one; returns it. Raises ParamsError, which names the option to change."""
    runner = web.AppRunner(
        app, access_log=None, logger=LOGGER, handler_cancellation=True, shutdown_timeout=CLEANUP_S, handle_signals=False
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, OverflowError) as error:
        await runner.cleanup()
        reason = getattr(error, "strerror", None) or str(error)
        foreign = isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        remedy = "--host is an address of this machine" if foreign else f"choose another {option} (0 takes a free one)"
        raise ParamsError(f"cannot listen on {host}:{port}: {reason}; {remedy}") from error
    return runner, runner.addresses[0][1]
