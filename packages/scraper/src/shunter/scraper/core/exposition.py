r"""Reads the wanted samples of a Prometheus text page, and nothing else of it.

Why not a parser
----------------
A vLLM page has 600 lines of which six are wanted. prometheus_client's parser takes milliseconds to build all of it;
finding a name with ``bytes.find`` takes microseconds, and checking that it is still where it was on the page before
takes less than one.

What is promised
----------------
1. Total: ``Scanner.page`` and ``Page.samples`` return or raise ExpositionError, whatever the bytes.
2. Linear: a byte is looked at a bounded number of times per wanted name; possessive quantifiers keep patterns from
   backtracking.
3. Exact names: ``x`` is neither ``x_created`` nor ``x_by_reason``; counters and histograms are wanted by the names of
   their samples.
4. Agreement with prometheus_client's parser on every page that keeps the format, within two bounds: a sample's line
   begins with its name (the format allows blanks before it; nobody writes them, and looking for them doubles the price),
   and the lines of a name are contiguous (the format demands it of families, hence of names but for the parts of
   histograms and summaries, which take turns; those are searched for on the whole page).

The format is text 0.0.4, whose last line ends with a line feed: a page that does not is cut off and must not be
believed. A page that ends in ``# EOF`` is OpenMetrics: its time stamps are seconds and exemplars may follow a value.
``\r`` before ``\n`` is a blank.

How a name is found
-------------------
A Scanner remembers, for each name, where its first line was, the comment before it (``# TYPE …``) and the heads
(``name{labels}``) of its lines. On the next page comment and name are looked for together in the neighbourhood (a
longer number somewhere moves everything by a byte or two): after a comment a line is the first of its name. Failing
that, the whole page is searched. A head that is still in its place has had its labels parsed already. Hence one
Scanner for one source of pages.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from shunter.scraper.core.excerpt import EXCERPT_BYTES, excerpt
from shunter.scraper.errors import ExpositionError

__all__ = ["MAX_PAGE_BYTES", "MAX_SERIES", "Page", "Sample", "Scanner"]

# Real pages have 3 to 90 KB, and 8 MiB must work (a server that labels by request); at twice that the page is the
# problem.
MAX_PAGE_BYTES = 16 << 20
# vLLM keeps one series of lora_requests_info for every combination of adapters that ever ran, so thousands can be real.
MAX_SERIES = 16_384
# A number that grew a digit moves what follows by a byte; only a series that appears or vanishes moves it further.
NEIGHBOURHOOD_BYTES = 1024

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# Bare text and quoted strings, in which a backslash escapes one character: a brace in quotes does not end the block.
_BLOCK = re.compile(rb'[ \t]*+\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"[^"}\n]*+)*+)\}')
_PAIR = re.compile(rb'[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+(?:,[ \t]*+|\Z)')
_VALUE = re.compile(rb"[ \t]*+([^\s#]++)(?:[ \t]++([-+0-9.eE]++))?[ \t\r]*+(#[^\n]*+)?(?:\n|\Z)")
_ESCAPE = re.compile(r'\\([\\n"])')
_ESCAPED = {"\\": "\\", "n": "\n", '"': '"'}
_PARTS = ("_bucket", "_count", "_sum")
_FOREIGN = {
    b"{": "JSON, not Prometheus text (trtllm-serve has it at /prometheus/metrics)",
    b"[": "JSON, not Prometheus text (trtllm-serve has it at /prometheus/metrics)",
    b"<": "HTML, not Prometheus text: is this the metrics path?",
    b"\x1f": "compressed, though plain text was asked for",
}


class Sample(NamedTuple):
    """One line: its labels, its value, and its time in milliseconds since 1970 if the server gave one."""

    labels: Mapping[str, str]
    value: float
    timestamp_ms: float | None = None


class Scanner:
    """Reads page after page of one server."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}

    def page(self, content: bytes) -> "Page":
        """Return ``content`` ready to be asked; raises ExpositionError if it is no page at all."""
        return Page(content, self._series)


class Page:
    """One page, read as far as it is asked."""

    def __init__(self, content: bytes, series: dict[str, "_Series"]) -> None:
        """Made by ``Scanner.page``."""
        if len(content) > MAX_PAGE_BYTES:
            raise ExpositionError(f"the page has {len(content)} bytes; the limit is {MAX_PAGE_BYTES}")
        foreign = _FOREIGN.get(content[:EXCERPT_BYTES].lstrip()[:1])
        if foreign:
            raise ExpositionError(foreign)
        self._openmetrics = content.endswith((b"\n# EOF\n", b"\n# EOF"))
        if content and not content.endswith(b"\n") and not self._openmetrics:
            raise ExpositionError("the page ends in the middle of a line: it was cut off")
        self._content = content
        self._series = series
        self._samples: dict[str, list[Sample]] = {}

    def samples(self, name: str) -> list[Sample]:
        """Return the samples called ``name``, in the page's order; none if there are none. Raises ExpositionError."""
        samples = self._samples.get(name)
        if samples is None:
            series = self._series.get(name)
            if series is None:
                series = self._series[name] = _Series(name)
            samples = self._samples[name] = series.read(self._content, self._openmetrics)
        return samples


class _Head(NamedTuple):
    text: bytes  # the name and its label block as they stand on the page
    labels: Mapping[str, str]


_NO_HEAD = _Head(b"\n", {})  # begins no line


class _Series:
    """The lines of one name: where they were, how they began, and how to read them."""

    __slots__ = ("anchor", "anchored_at", "heads", "interleaved", "name", "needle")

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a metric name")
        self.name = name.encode()
        self.needle = b"\n" + self.name
        self.interleaved = name.endswith(_PARTS)
        self.anchor = b""  # the comment before the first line, and that line up to the byte after the name
        self.anchored_at = 0
        self.heads: list[_Head] = []

    def read(self, content: bytes, openmetrics: bool) -> list[Sample]:
        samples: list[Sample] = []
        at = self._first(content)
        while at >= 0:
            if len(samples) == MAX_SERIES:
                raise ExpositionError(f"more than {MAX_SERIES} series are called {self.name.decode()}")
            labels, value_at = self._head(content, at, len(samples))
            match = _VALUE.match(content, value_at)
            if match is None or (match[3] and not openmetrics):
                raise _malformed(content, at, "no value, or something after it")
            samples.append(_sample(content, at, labels, match, 1000 if openmetrics else 1))
            at = self._next(content, match.end())
        return samples

    def _next(self, content: bytes, at: int) -> int:
        """Return where the next line begins, looking from the line at ``at``, or -1."""
        if self._begins(content, at):
            return at
        return self._search(content, at - 1, len(content)) if self.interleaved else -1

    def _first(self, content: bytes) -> int:
        """Return where the first line begins, or -1."""
        if self.anchor:
            start = max(0, self.anchored_at - NEIGHBOURHOOD_BYTES)
            found = content.find(self.anchor, start, self.anchored_at + len(self.anchor) + NEIGHBOURHOOD_BYTES)
            if found >= 0:
                self.anchored_at = found
                return found + len(self.anchor) - len(self.name) - 1
        at = self._search(content, 0, len(content))
        before = content.rfind(b"\n", 0, at - 1) if at > 0 else -1
        known = before >= 0 and content.startswith(b"#", before + 1) and not self.interleaved
        self.anchor = content[before : at + len(self.name) + 1] if known else b""
        self.anchored_at = before
        return at

    def _search(self, content: bytes, start: int, stop: int) -> int:
        if start == 0 and self._begins(content, 0):
            return 0
        found = content.find(self.needle, start, stop)
        while found >= 0 and not self._begins(content, found + 1):  # a longer name
            found = content.find(self.needle, found + 1, stop)
        return found + 1 if found >= 0 else -1

    def _begins(self, content: bytes, at: int) -> bool:
        """Tell whether a line of this name begins at ``at``."""
        end = at + len(self.name)
        here = content.startswith(self.needle, at - 1) if at else content.startswith(self.name)
        return here and content[end : end + 1] in {b"{", b" ", b"\t"}

    def _head(self, content: bytes, at: int, index: int) -> tuple[Mapping[str, str], int]:
        """Return the labels of the line at ``at``, the ``index``-th of this name, and where they end."""
        known = self.heads[index] if index < len(self.heads) else _NO_HEAD
        if content.startswith(known.text, at):
            return known.labels, at + len(known.text)
        end = at + len(self.name)
        block = _BLOCK.match(content, end)
        if block is None:
            head = _NO_HEAD
        else:
            end = block.end()
            head = _Head(content[at:end], _labels(content, at, block[1]))
        self.heads[index : index + 1] = [head]
        return head.labels, end


def _labels(content: bytes, at: int, block: bytes) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    position, end = 0, len(block.rstrip(b" \t"))
    while position < end:
        pair = _PAIR.match(block, position)
        if pair is None:
            raise _malformed(content, at, 'labels are name="value" with commas between')
        name = pair[1].decode()
        if name in labels:
            raise _malformed(content, at, f"the label {name} appears twice")
        try:
            value = pair[2].decode()
        except UnicodeDecodeError:
            raise _malformed(content, at, f"the label {name} is not UTF-8") from None
        labels[name] = _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], value) if "\\" in value else value
        position = pair.end()
    return labels


def _sample(content: bytes, at: int, labels: Mapping[str, str], match: re.Match[bytes], scale: int) -> Sample:
    number, timestamp = match[1], match[2]
    try:
        # Python takes 1_000 for a number, the format does not.
        value = float(number.replace(b"_", b"?"))
        return Sample(labels, value, None if timestamp is None else float(timestamp) * scale)
    except ValueError:
        raise _malformed(content, at, "the value or its time is not a number") from None


def _malformed(content: bytes, at: int, why: str) -> ExpositionError:
    line = content.count(b"\n", 0, at) + 1
    shown = content[at : at + EXCERPT_BYTES].split(b"\n", 1)[0]
    return ExpositionError(f"line {line}: {why}: {excerpt(shown)}")
