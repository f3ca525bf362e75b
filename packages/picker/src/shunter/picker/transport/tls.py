"""Who we are and whom we trust, as TLS has it: certificate, key and client CA, in files that may change while we serve.

What the files hold is tried out before it is used, at the start and whenever one of them has changed: a handshake with
ourselves shows what a client would find. At the start, files of no use are a ConfigError; later, those used last are kept
and the reason is logged once. A certificate that has expired is used, with a warning: a gateway that trusts anybody, as GIE's
often do, still takes it.

A connection that is open stays as it is when files change. For five minutes a TLS 1.2 client may resume its session without
showing its certificate again.
"""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from shunter.picker.errors import ConfigError

__all__ = ["ALPN", "EXPIRY_S", "Identity", "Material", "Tls"]

ALPN = "h2"  # RFC 9113 section 3.2

# For TLS 1.2: what is ephemeral and authenticated, which is all that RFC 9113 section 9.2.2 leaves; every gateway has them.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# From when on it is said that a certificate will expire: a weekend, and days to act after it.
EXPIRY_S = 7 * 86400

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which the module ssl has no name.
_ANY_TIME = 0x200000

log = logging.getLogger(__name__)


class Tls(msgspec.Struct, frozen=True):
    """Where PEM files are: our certificate with its chain, its key, and the CAs of which one must have signed a client's."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class Material(msgspec.Struct, frozen=True):
    """What was in the files, proven to work together."""

    cert: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    expires_s: float  # the certificate, in seconds since 1970


class Identity:
    """The material of the moment. ``clock`` is the time of day in seconds, for what expires."""

    def __init__(self, tls: Tls, *, clock: Callable[[], float] = time.time) -> None:
        """Read the files; raise ConfigError if they are of no use."""
        self._tls = tls
        self._clock = clock
        self._concern = ""
        self._stamps = _look(tls)
        self.material = _read(tls)
        self.door = _context()  # for a server's lifetime: each handshake gets the material of its moment
        self.door.verify_mode = self.material.context.verify_mode
        self.door.sni_callback = self._show
        self._consider_age()

    def refresh(self) -> None:
        """Take files that have changed since, if they are of use. It costs three ``stat``."""
        stamps = _look(self._tls)
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self.material = _read(self._tls)
            except ConfigError as error:
                log.error("TLS goes on with the files as they were, for they have changed and are of no use: %s", error)  # noqa: TRY400  the message says it all
            else:
                log.info("TLS goes on with the new files: %s", self._tls.cert)
        self._consider_age()

    def _show(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, door: ssl.SSLContext) -> None:
        del name, door
        connection.context = self.material.context

    def _consider_age(self) -> None:
        """Say once that the certificate expires soon, and once that it has."""
        left_s = self.material.expires_s - self._clock()
        concern = "has expired" if left_s <= 0 else "expires within a week" if left_s < EXPIRY_S else ""
        if concern != self._concern:
            self._concern = concern
            if concern:
                log.warning(
                    "the certificate %s %s: replace it; a running picker takes the new one by itself", self._tls.cert, concern
                )


def _look(tls: Tls) -> list[tuple[int, int, int] | None]:
    """Return by what files differ that have changed, also behind symbolic links, as Kubernetes swaps them."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in (tls.cert, tls.key, tls.client_ca):
        try:
            found = path and path.stat()
        except OSError:
            found = None
        stamps.append(found and (found.st_ino, found.st_mtime_ns, found.st_size))
    return stamps


def _read(tls: Tls) -> Material:
    """Read the files and try them out."""
    try:
        return _load(tls)
    except OSError as error:  # OpenSSL reads them again: they were there a moment ago, and somebody is about to replace them
        raise ConfigError(f"{tls.cert} with {tls.key} cannot be read: {error.strerror}") from error


def _load(tls: Tls) -> Material:
    cert = _read_pem(tls.cert, b"CERTIFICATE-----", "certificate")
    key = _read_pem(tls.key, b"PRIVATE KEY-----", "key")
    client_ca = tls.client_ca and _read_pem(tls.client_ca, b"CERTIFICATE-----", "CA for clients")
    context = _context()
    try:
        context.load_cert_chain(tls.cert, tls.key, password=lambda: _refuse_password(tls.key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{tls.key} is not the key of the certificate {tls.cert}: give the pair that was made together"
            ) from error
        raise ConfigError(f"{tls.cert} with {tls.key} cannot be used: {_reason(error)}") from error
    expires_s = _try_out(tls.cert, context)
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as error:
            raise ConfigError(f"{tls.client_ca} cannot be used as the CA for clients: {_reason(error)}") from error
    return Material(cert, key, client_ca, context, expires_s)


def _read_pem(path: Path, mark: bytes, what: str) -> bytes:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error.strerror}") from error
    if mark not in pem:
        raise ConfigError(f"{path} is no {what} in PEM form: it has no line that ends with {mark.decode()}")
    return pem


def _refuse_password(path: Path) -> NoReturn:
    raise ConfigError(f"the key {path} is encrypted: store it without a password, readable by the picker alone")


def _context() -> ssl.SSLContext:
    """Make a server's context, with nothing of the files in it yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113 section 9.2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([ALPN])
    return context


def _try_out(cert: Path, server_context: ssl.SSLContext) -> float:
    """Shake hands as a client that trusts this very certificate would; return when it expires."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _ANY_TIME
    upstream, downstream = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client_context.load_verify_locations(cert)
        client = client_context.wrap_bio(downstream, upstream)
        server = server_context.wrap_bio(upstream, downstream, server_side=True)
        while not all([_step(client), _step(server)]):
            pass
    except ssl.SSLError as error:
        raise ConfigError(f"no client would accept the certificate {cert}: {_reason(error)}") from error
    return float(ssl.cert_time_to_seconds(str((client.getpeercert() or {})["notAfter"])))


def _step(side: ssl.SSLObject) -> bool:
    """Go on with a handshake; return whether this side has done its part."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _reason(error: ssl.SSLError) -> str:
    """Say in OpenSSL's words what is wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).replace("_", " ").lower()
