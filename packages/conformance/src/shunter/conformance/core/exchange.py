"""One request and its answer, as it went over the wire: the raw material of evidence."""

import re
import shlex
from typing import TypeVar

import msgspec

from shunter.conformance.errors import Mismatch

__all__ = ["Evidence", "Exchange", "clip", "evidence", "printable", "read_json"]

# Enough to see what is wrong with an answer; a metrics page of 90 KB per failure would make reports unreadable.
EVIDENCE_BODY_CHARS = 2048

# Linux takes no argument above 128 KiB; and nobody reads one of a quarter of that.
ARGUMENT_BYTES = 32 << 10

# What a line of prose quotes of a body.
QUOTE_CHARS = 160

# Generated text is full of control characters: some drive a terminal, some XML cannot carry, some YAML takes for line
# breaks. Whoever needs the exact characters finds them in the NDJSON report.
_UNPRINTABLE = re.compile("[^\t\n\u0020-\u007e\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

Shape = TypeVar("Shape")


def clip(text: str, limit_chars: int = QUOTE_CHARS) -> str:
    """Shorten for a line of prose; what was left out is counted."""
    return text if len(text) <= limit_chars else f"{text[:limit_chars]}… ({len(text) - limit_chars} more characters)"


def printable(text: str) -> str:
    """The text with U+FFFD for each character that a terminal, XML or YAML cannot take as it is."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _ends(text: str) -> str:
    """Head and tail of a long text: a stream is usually wrong at its end."""
    half = EVIDENCE_BODY_CHARS // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n… ({left_out} characters left out) …\n{text[-half:]}"


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request and what came back; `problem` says why no complete answer did, and `status` is 0 if not even a head did.

    `arrivals` are the pieces of the body as they came: seconds since the request began, and bytes so far.
    """

    method: str
    url: str
    request_headers: dict[str, str] = {}
    request_body: bytes = b""
    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    elapsed_s: float = 0.0
    arrivals: tuple[tuple[float, int], ...] = ()
    problem: str = ""

    @property
    def text(self) -> str:
        """The body for a human eye; bytes that are not UTF-8 show as U+FFFD."""
        return self.body.decode("utf-8", "replace")

    @property
    def content_type(self) -> str:
        """Media type without parameters, in lower case; empty when the header is missing."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def curl(self) -> str:
        """A line for a shell that sends the same request again."""
        words = ["curl", "-sS", "-I" if self.method == "HEAD" else "-i"]
        if self.method not in {"GET", "HEAD"}:
            words += ["-X", self.method]
        for name, value in self.request_headers.items():
            words += ["-H", f"{name}: {value}"]
        if self.request_body:
            size = len(self.request_body)
            text = f"@FILE-OF-{size}-BYTES" if size > ARGUMENT_BYTES else self.request_body.decode("utf-8", "replace")
            words += ["--data-binary", text]
        return shlex.join([*words, self.url])

    def expect_status(self, *wanted: int) -> None:
        """Raise Mismatch unless the status is one of the wanted."""
        if self.status not in wanted:
            choice = " or ".join(map(str, wanted))
            where = f", location {clip(self.location)}" if self.location else ""
            raise Mismatch(f"HTTP {choice} from {self.method} {self.url}", f"HTTP {self.status}{where}: {clip(self.text)!r}")

    @property
    def location(self) -> str:
        """Where a redirect leads; empty for any other answer."""
        return self.headers.get("location", "") if 300 <= self.status < 400 else ""

    def read(self, shape: type[Shape]) -> Shape:
        """Decode the JSON body as `shape`; what does not fit is a Mismatch that carries the path of the fault."""
        return read_json(self.body, shape)


def read_json(body: bytes | str, shape: type[Shape]) -> Shape:
    """Decode JSON as `shape` or raise a Mismatch with the path of the first fault and the head of the text."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        raise Mismatch(f"a JSON {shape.__name__}", f"{error} in {clip(text)!r}") from None


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exchange prepared for a report: how to repeat it, and what was seen."""

    curl: str
    status: int
    headers: dict[str, str]
    body: str
    elapsed_s: float
    problem: str = ""


def evidence(exchange: Exchange) -> Evidence:
    """Prepare an exchange for a report."""
    return Evidence(
        curl=exchange.curl,
        status=exchange.status,
        headers=exchange.headers,
        body=_ends(exchange.text),
        elapsed_s=round(exchange.elapsed_s, 6),
        problem=exchange.problem,
    )
