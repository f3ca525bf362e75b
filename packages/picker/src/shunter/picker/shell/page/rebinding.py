"""Whoever asks a picker on loopback must call it by an address, or localhost: a stranger's web page calls it by its own name.

The pages have no password where only this machine reaches them. A browser on this machine reaches them too, and would hand them
to any web page whose host name has been made to resolve to 127.0.0.1 (DNS rebinding): for the browser both are of one origin.
It sends that name as Host, which gives the page away.
"""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import web

__all__ = ["refuse_strange_names"]

LOCALHOST = "localhost"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def refuse_strange_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 421 where this is so; a picker that listens elsewhere may have any name, and is anybody's to ask."""
    if _is_loopback(_own_address(request)) and not _is_address(host := _host(request)):
        raise web.HTTPMisdirectedRequest(text=f"ask for localhost or an IP address, not for {host!r}\n")
    return await handler(request)


def _own_address(request: web.Request) -> str:
    place = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(place[0]) if place else ""


def _host(request: web.Request) -> str:
    """Return the host that is asked for, without its port; HTTP/1.0 may name none."""
    host = request.headers.get("Host", LOCALHOST)
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host.lower().removesuffix(".") == LOCALHOST
    return True


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
