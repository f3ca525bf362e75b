"""Listening at an address, or saying what would have to be another one."""

import errno
import socket

from aiohttp import web

from shunter.lab.errors import ParamsError

__all__ = ["listen"]

# A stalled answer must not hold up the end of a server for longer.
CLEANUP_S = 0.5


async def listen(app: web.Application, host: str, port: int, option: str) -> tuple[web.AppRunner, int]:
    """Answer at a port, of which 0 is any free one; returns it. Raises ParamsError, which names the option to change."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=CLEANUP_S, handle_signals=False)
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
