"""The state-of-the-world form: a request names all that is wanted; a response of listeners or clusters has all there are.

Of the other kinds a response may have the changed ones only; Envoy and gRPC keep what they had. Its version is that of all of
them together, as what a client has then.
"""

from collections.abc import Mapping

from shunter.envoyconf.core.xds.channel import EVERYTHING, Channel, Request, Response
from shunter.envoyconf.core.xds.state import Item, fingerprint

__all__ = ["difference", "subscribe"]


def subscribe(channel: Channel, request: Request, *, first: bool) -> None:
    """Take a request; one that answers an older response than the last is stale: the client says so again with the next.

    No names at all mean everything, in the first request for listeners or clusters, and until names were given.
    """
    if first:
        channel.accepted = request.version
    elif request.nonce != channel.nonce:
        return
    names = {*request.names}
    unnamed = not names and channel.kind.complete and (first or (channel.everything and not channel.names))
    channel.everything = unnamed or EVERYTHING in names
    for name in channel.names - names:
        channel.forget(name)
    channel.ask(names)
    channel.answer(request.nonce, request.error)


def difference(channel: Channel, wanted: Mapping[str, Item], *, hold: bool) -> Response | None:
    """Return what the client is to be sent, or None; ``hold`` what is there no longer."""
    if not channel.kind.complete:
        items = channel.changed(wanted)
        known = {**{name: item for name, item in channel.sent.items() if name in wanted}, **{item.name: item for item in items}}
        return Response(kind=channel.kind, items=items, version=fingerprint(known.values())) if items else None
    items = tuple((({**channel.sent} if hold else {}) | dict(wanted)).values())
    version = fingerprint(items)
    if {item.name: item.version for item in items} == channel.refused:
        return None
    if channel.silent or channel.due or version != channel.version:
        return Response(kind=channel.kind, items=items, version=version, whole=True)
    return None
