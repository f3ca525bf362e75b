"""The delta form: requests add and take away names; responses have what has changed, and name what is gone.

A client that comes back says which versions it has, and is sent the rest.
"""

from collections.abc import Mapping

from shunter.envoyconf.core.xds.channel import ABSENT, EVERYTHING, Channel, Request, Response
from shunter.envoyconf.core.xds.state import Item, fingerprint

__all__ = ["difference", "subscribe"]


def subscribe(channel: Channel, request: Request, *, first: bool) -> None:
    """Take a request. Names count whatever response it answers; one that is asked for again is sent again."""
    subscribed, dropped = {*request.names}, {*request.unwanted}
    if first:
        channel.sent = {name: Item(name, version, b"") for name, version in request.held.items()}
        channel.everything = channel.kind.complete and not subscribed
    else:
        for name in subscribed:
            channel.forget(name)
    channel.everything = (channel.everything or EVERYTHING in subscribed) and EVERYTHING not in dropped
    channel.ask((channel.names | subscribed) - dropped - {EVERYTHING})
    for name in dropped:
        channel.forget(name)
    channel.answer(request.nonce, request.error)


def difference(channel: Channel, wanted: Mapping[str, Item], *, hold: bool) -> Response | None:
    """Return what the client is to be sent, or None; ``hold`` what is there no longer.

    A name that never was is told at once: a client that waits for it could not go on. The first request is answered even with
    nothing, for the same reason.
    """
    items = channel.changed(wanted)
    gone = {name for name, item in channel.sent.items() if name not in wanted and item.version != ABSENT}
    never = channel.names - wanted.keys() - channel.sent.keys()
    removed = never if hold else never | gone
    if not (items or removed or channel.silent):
        return None
    version = fingerprint(wanted.values())
    return Response(kind=channel.kind, items=items, version=version, removed=tuple(sorted(removed)))
