"""The few shapes that every Envoy resource is made of, in protobuf's JSON form."""

from typing import Any

__all__ = ["Resource", "duration", "extension", "listening_address", "server_address", "socket_address", "typed"]

Resource = dict[str, Any]


def typed(message: str, **fields: Any) -> Resource:
    """Return an Any that holds a message, named without its prefix ``envoy.``."""
    return {"@type": f"type.googleapis.com/envoy.{message}", **fields}


def extension(name: str, message: str, **fields: Any) -> Resource:
    """Return a named extension (TypedExtensionConfig and those that look like it)."""
    return {"name": name, "typed_config": typed(message, **fields)}


def duration(seconds: float) -> str:
    """Return a Duration; Envoy's finest is a millisecond."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def socket_address(host: str, port: int) -> Resource:
    """Return a TCP Address."""
    return {"socket_address": {"address": host, "port_value": port}}


def server_address(host: str, port: int) -> Resource:
    """Return the Address of a server: a TCP port, or a socket in the file system, whose path stands for the host."""
    return {"pipe": {"path": host}} if host.startswith("/") else socket_address(host, port)


def listening_address(host: str, port: int) -> Resource:
    """Return an Address to bind; ``::`` is every one of both families, where Envoy by itself takes IPv6 alone."""
    address = socket_address(host, port)
    if host == "::":
        address["socket_address"]["ipv4_compat"] = True
    return address
