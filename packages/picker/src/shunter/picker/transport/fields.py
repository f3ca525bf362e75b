"""What the header fields of a request may be (RFC 9113 section 8): names, values, pseudo-header fields, trailers."""

import re
from collections.abc import Iterable

__all__ = ["MalformedError", "read_request", "read_trailers"]

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_FORBIDDEN = re.compile(r"[\x00\r\n]|^[ \t]|[ \t]$")

_PSEUDO = frozenset({":method", ":scheme", ":path", ":authority"})
_NEEDED = (":method", ":scheme", ":path")
# They speak about an HTTP/1 connection (section 8.2.2).
_CONNECTION_SPECIFIC = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"})

# Of a content-length: nobody sends an exabyte.
_LENGTH_DIGITS = 18


class MalformedError(ValueError):
    """The message is malformed (section 8.1.1): its stream is to be reset with PROTOCOL_ERROR."""


def read_request(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a request's fields by name; values of a repeated name are joined as RFC 9110 section 5.3 says.

    CONNECT, which has neither scheme nor path, is malformed here: there is nothing to connect to.
    """
    request: dict[str, str] = {}
    regular = False
    for name, value in fields:
        if name[:1] == ":":
            if regular:
                raise MalformedError(f"{name} after a regular field")
            if name not in _PSEUDO:
                raise MalformedError(f"{name} in a request")
            if name in request:
                raise MalformedError(f"{name} twice")
            _check_value(name, value)
            request[name] = value
        else:
            regular = True
            _add(request, name, value)
    for name in _NEEDED:
        if not request.get(name):
            raise MalformedError(f"no {name}")
    length = request.get("content-length", "0")
    if not length.isdecimal() or len(length) > _LENGTH_DIGITS:
        raise MalformedError(f"content-length {length[:64]!r}")
    return request


def read_trailers(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of a trailer section, which has no pseudo-header fields (section 8.1)."""
    trailers: dict[str, str] = {}
    for name, value in fields:
        if name[:1] == ":":
            raise MalformedError(f"{name} in trailers")
        _add(trailers, name, value)
    return trailers


def _add(fields: dict[str, str], name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError(f"field name {name[:64]!r}")
    if name in _CONNECTION_SPECIFIC or (name == "te" and value != "trailers"):
        raise MalformedError(f"{name} has no place in HTTP/2")
    _check_value(name, value)
    if name in fields:
        value = fields[name] + ("; " if name == "cookie" else ", ") + value
    fields[name] = value


def _check_value(name: str, value: str) -> None:
    if _FORBIDDEN.search(value):
        raise MalformedError(f"the value of {name} has a forbidden byte")
