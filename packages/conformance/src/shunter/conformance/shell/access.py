"""How an examiner gets in: headers that go with every request, and whom to trust behind https."""

import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from shunter.conformance.errors import UsageError

__all__ = ["OPEN", "REDACTED", "Access", "parse_headers", "trust"]

REDACTED = "***"
"""What stands in evidence instead of what an examiner's header says."""

# Shorter values are no secrets, and taking each `1` of an answer for one would ruin the evidence.
SHORTEST_SECRET_CHARS = 8

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Access:
    """Headers and trust of one examiner; `tls` None is the trust of the machine."""

    def __init__(self, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        self.tls = tls
        # Servers quote what they are sent, with the scheme of the credentials or without.
        words = {word for value in self.headers.values() for word in (value, value.rpartition(" ")[2])}
        self._secrets = sorted((word for word in words if len(word) >= SHORTEST_SECRET_CHARS), key=len, reverse=True)

    def redact(self, text: str) -> str:
        """The text without the values of the headers."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text

    def redact_bytes(self, body: bytes) -> bytes:
        """The same for what a server has sent."""
        for secret in self._secrets:
            body = body.replace(secret.encode(), REDACTED.encode())
        return body


OPEN = Access()
"""Access to what anybody may ask."""


def parse_headers(texts: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Read each `NAME: VALUE`; `${VARIABLE}` in a value comes from the environment, and so into no shell's history."""
    headers: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        # What stands behind the colon may be secret, so a message quotes the name at most.
        if not colon or not _NAME.fullmatch(name.strip()):
            quoted = f" {name.strip()!r}" if colon else ""
            raise UsageError(f"--header{quoted}: want 'NAME: VALUE'")

        def look_up(variable: re.Match[str], name: str = name) -> str:
            if variable[1] not in environment:
                raise UsageError(f"--header {name.strip()}: the environment has no {variable[1]}")
            return environment[variable[1]]

        value = _VARIABLE.sub(look_up, value.strip())
        if not value.isprintable() or not value.isascii():
            raise UsageError(f"--header {name.strip()}: the value has characters that no header may have")
        headers[name.strip().lower()] = value
    return headers


def trust(ca_file: Path | None, *, insecure: bool) -> ssl.SSLContext | None:
    """Whom to trust beside the authorities of the machine, or anybody; raises UsageError."""
    if ca_file is not None and insecure:
        raise UsageError("--insecure trusts anybody: --ca-file has nothing to add")
    if ca_file is None and not insecure:
        return None
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError:
        raise UsageError(f"--ca-file {ca_file}: there is no certificate in it (PEM is wanted)") from None
    except OSError as error:
        raise UsageError(f"--ca-file {ca_file}: {error.strerror}") from None
    return context
