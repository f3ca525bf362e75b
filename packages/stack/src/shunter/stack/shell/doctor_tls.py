"""The certificate that is shown where a picker speaks ext_proc, at a port or at a socket in the file system."""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from shunter.stack.core.doctor.facts import UNIX, TlsFacts

__all__ = ["UNIX", "shake_hands"]

TIMEOUT_S = 5.0
# RFC 9113 §3.4: how a client begins, with SETTINGS that set nothing; a server's answer begins with a frame of that type.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
FRAME_HEADER_BYTES, FRAME_TYPE_AT, SETTINGS = 9, 3, 4


def shake_hands(where: str, wanted: str) -> TlsFacts:
    """Have a certificate shown, and read it: as one that is trusted, since who signed it is not the question here.

    At a socket in the file system (``unix:PATH``) any name will do, unless one is wanted.
    """
    host = "" if where.startswith(UNIX) else where.rpartition(":")[0].strip("[]")
    wanted = _plainly(wanted or host)

    def show(context: ssl.SSLContext) -> tuple[bytes, Mapping[str, Any]]:
        with _connect(where) as plain, context.wrap_socket(plain, server_hostname=wanted or None) as secure:
            return secure.getpeercert(binary_form=True) or b"", secure.getpeercert() or {}

    try:
        believing = ssl.create_default_context()
        believing.check_hostname = False
        believing.verify_mode = ssl.CERT_NONE
        shown, _ = show(believing)
        trusting = ssl.create_default_context(cadata=shown)
        trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        trusting.check_hostname = False
        _, certificate = show(trusting)
    except (OSError, ValueError) as error:
        trouble = getattr(error, "verify_message", "") or str(error)
        return TlsFacts(where=where, wanted=wanted, trouble=trouble, plain=_is_plain(where))
    names = tuple(_plainly(str(value)) for _, value in certificate.get("subjectAltName", ()))
    expires = certificate.get("notAfter")
    return TlsFacts(
        where=where,
        wanted=wanted,
        names=names,
        expires_s=ssl.cert_time_to_seconds(expires) if isinstance(expires, str) else None,
    )


def _connect(where: str) -> socket.socket:
    if not where.startswith(UNIX):
        host, _, port = where.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(TIMEOUT_S)
        connection.connect(where.removeprefix(UNIX))
    except BaseException:
        connection.close()
        raise
    return connection


def _is_plain(where: str) -> bool:
    """Whether who listens there answers as HTTP/2 does, without TLS."""
    answer = b""
    with contextlib.suppress(OSError, ValueError), _connect(where) as connection:
        connection.sendall(PREFACE)
        while len(answer) < FRAME_HEADER_BYTES and (more := connection.recv(FRAME_HEADER_BYTES - len(answer))):
            answer += more
    return len(answer) == FRAME_HEADER_BYTES and answer[FRAME_TYPE_AT] == SETTINGS


def _plainly(name: str) -> str:
    """Return a host's name or address as everybody writes it; certificates write IPv6 addresses at length."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name.lower()
