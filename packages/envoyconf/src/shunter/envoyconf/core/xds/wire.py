"""Discovery requests and responses as bytes, in both forms.

The messages are those of Envoy's own schema; of what a client says of itself, its name, its cluster and its version are kept.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from shunter.envoyconf.core.schema import Schema
from shunter.envoyconf.core.xds.channel import Request, Response
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.stream import Form
from shunter.envoyconf.errors import EnvoyconfError

__all__ = ["Node", "Wire", "WireError"]

# Of a text that a client sends and people see.
LONGEST_TEXT = 2000

BY_URL = {kind.url: kind for kind in Kind}


class WireError(EnvoyconfError):
    """Bytes that are no discovery request."""


class Node(msgspec.Struct, frozen=True):
    """Who a client says it is."""

    id: str
    cluster: str = ""
    version: str = ""  # such as 1.40.0


class Wire:
    """One form's messages."""

    def __init__(self, schema: Schema, form: Form) -> None:
        prefix = "envoy.service.discovery.v3"
        self._delta = form is Form.DELTA
        self._request: Any = schema.message(f"{prefix}.{'Delta' if self._delta else ''}DiscoveryRequest")
        self._response: Any = schema.message(f"{prefix}.{'Delta' if self._delta else ''}DiscoveryResponse")

    def decode(self, data: bytes, kind: Kind | None = None) -> tuple[Request | None, Node | None]:
        """Return what a client says, and who it is if it says so; no request if that is of a kind that is not served.

        ``kind`` is that of a stream for one only, whose requests may leave it out. Raises WireError for anything else.
        """
        try:
            message = self._request.FromString(data)
        except DecodeError as error:
            raise WireError(f"no discovery request: {error}") from None
        node = _node(message.node) if message.HasField("node") else None
        known = BY_URL.get(message.type_url) if message.type_url else kind
        if known is None or (kind and known is not kind):
            return None, node
        error = _printable(message.error_detail.message, but="\n") if message.HasField("error_detail") else None
        if self._delta:
            return Request(
                kind=known,
                nonce=message.response_nonce,
                error=error,
                names=tuple(message.resource_names_subscribe),
                unwanted=tuple(message.resource_names_unsubscribe),
                held=dict(message.initial_resource_versions),
            ), node
        names: Sequence[str] = message.resource_names
        version = _printable(message.version_info)
        return Request(kind=known, nonce=message.response_nonce, error=error, names=tuple(names), version=version), node

    def encode(self, response: Response) -> bytes:
        """Return a response's bytes."""
        url, identifier = response.kind.url, {"identifier": "shunter"}
        fields = {"type_url": url, "nonce": response.nonce, "control_plane": identifier}
        if self._delta:
            message = self._response(**fields, system_version_info=response.version, removed_resources=response.removed)
            for item in response.items:
                resource = message.resources.add(name=item.name, version=item.version)
                resource.resource.type_url, resource.resource.value = url, item.body
        else:
            message = self._response(**fields, version_info=response.version)
            for item in response.items:
                message.resources.add(type_url=url, value=item.body)
        return message.SerializeToString()


def _node(message: Any) -> Node:
    version = message.user_agent_build_version.version
    numbers = f"{version.major_number}.{version.minor_number}.{version.patch}" if version.ByteSize() else ""
    return Node(_printable(message.id), _printable(message.cluster), numbers)


def _printable(text: str, but: str = "") -> str:
    """Return a text as it can stand on a page, whoever chose it."""
    return "".join(each if each.isprintable() or each in but else "?" for each in text[:LONGEST_TEXT])
