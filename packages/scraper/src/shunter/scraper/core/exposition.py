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
that, the whole page is searched. A head that is still in its place has had its labels parsed already; where a name had one
line, comment and head are looked for in one go, and nothing but a plain number may follow. And where everything from the
comment to the next family is what it was, numbers included, one comparison tells; where only the number of an only line is
another, one pattern reads it. Hence one Scanner for one source of pages.
"""

import re
from collections.abc import Container, Mapping
from functools import lru_cache
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
_PLAIN = re.compile(rb" [0-9]{1,15}(?:\.[0-9]{1,17})?(?:e[-+]?[0-9]{1,2})?")  # as engines write most numbers
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
        self._marks: list[_Mark] = []

    def remember(self, page: "Page", numbers: Container[str] = ()) -> None:
        """Have this page be the one whose changes are told; ``numbers`` are names of which only the number may change."""
        self._marks = page.marks(numbers)

    def changes(self, content: bytes | bytearray, start: int, stop: int) -> dict[str, float] | None:
        """Return the numbers, by name, that may differ from the remembered page's, if nothing else does of what that was asked.

        They are remembered then. None where more differs, or may: the page is to be read.
        """
        if not (self._marks and content.startswith(b"#", start, stop) and content.endswith(b"\n", start, stop)):
            return None  # not as pages begin and end
        changed: dict[str, float] = {}
        moved: dict[str, _Mark] = {}
        shift = 0  # of what was looked for last: what follows has probably moved with it
        for name, at, seen, line in self._marks:
            if at < 0:
                if content.find(seen, start, stop) >= 0:
                    return None
                continue
            place = max(start, start + at + shift)
            if seen and content.startswith(seen, place, stop):
                if shift:
                    moved[name] = _Mark(name, place - start, seen, line)
                continue
            if line is None:
                return None
            found = line.match(content, place, stop)
            if found is None:
                end = min(place + len(seen) + NEIGHBOURHOOD_BYTES, stop)
                near = line.search(content, max(start, place - NEIGHBOURHOOD_BYTES), end)
                found = near and line.match(content, near.start(), stop)  # the next line may stand behind the neighbourhood
            if found is None:
                return None
            changed[name] = float(found[1])
            shift = found.start() - start - at
            moved[name] = _Mark(name, at + shift, _seen(content, found.start(), found.end(), name, stop), line)
        if moved:
            self._marks = [moved.get(mark.name, mark) for mark in self._marks]
        return changed

    def page(self, content: bytes | bytearray, start: int = 0, stop: int | None = None) -> "Page":
        """Return ``content[start:stop]`` ready to be asked; raises ExpositionError if it is no page at all.

        It is read where it is, in a buffer that may hold other things too, and must stay as it is while the page is asked.
        """
        return Page(content, start, len(content) if stop is None else stop, self._series)


class Page:
    """One page, read as far as it is asked."""

    def __init__(self, content: bytes | bytearray, start: int, stop: int, series: dict[str, "_Series"]) -> None:
        """Made by ``Scanner.page``."""
        if stop - start > MAX_PAGE_BYTES:
            raise ExpositionError(f"the page has {stop - start} bytes; the limit is {MAX_PAGE_BYTES}")
        if not content.startswith(b"#", start, stop):  # as pages begin
            foreign = _FOREIGN.get(bytes(content[start : min(start + EXCERPT_BYTES, stop)].lstrip()[:1]))
            if foreign:
                raise ExpositionError(foreign)
        openmetrics = content.endswith((b"\n# EOF\n", b"\n# EOF"), start, stop)
        if stop > start and not openmetrics and not content.endswith(b"\n", start, stop):
            raise ExpositionError("the page ends in the middle of a line: it was cut off")
        self._text = _Text(content, start, stop, openmetrics)
        self._series = series
        self._samples: dict[str, list[Sample]] = {}

    def samples(self, name: str) -> list[Sample]:
        """Return the samples called ``name``, in the page's order; none if there are none. Raises ExpositionError."""
        samples = self._samples.get(name)
        if samples is None:
            series = self._series.get(name)
            if series is None:
                series = self._series[name] = _Series(name)
            samples = self._samples[name] = series.read(self._text)
        return samples

    def marks(self, numbers: Container[str]) -> "list[_Mark]":
        """Return where the answers stand that were given; none if there is one whose changes could not be told."""
        content, start, stop, _ = self._text
        marks: list[_Mark] = []
        for name in self._samples:
            series = self._series[name]
            line = _line(series.lead, series.name) if series.lead and name in numbers else None
            if line is not None and not line.match(content, start + series.anchored_at, stop):
                line = None
            if not series.samples:
                marks.append(_Mark(name, -1, series.needle, None))
            elif series.seen or line:
                marks.append(_Mark(name, series.anchored_at, series.seen, line))
            else:
                return []
        return marks if any(mark.at >= 0 for mark in marks) else []


class _Text(NamedTuple):
    """A page and what is around it."""

    content: bytes | bytearray
    start: int
    stop: int
    openmetrics: bool


class _Mark(NamedTuple):
    name: str
    at: int  # from the page's start; -1: nowhere
    seen: bytes  # the lines with what is around them; empty if the next family was not there to see
    line: re.Pattern[bytes] | None  # the only line, with any number


@lru_cache(maxsize=1024)  # servers of one model have the same lines
def _line(lead: bytes, name: bytes) -> re.Pattern[bytes]:
    return re.compile(re.escape(lead) + b"(" + _PLAIN.pattern + rb")\n(?!" + re.escape(name) + rb"[{ \t])")


def _seen(content: bytes | bytearray, start: int, end: int, name: str | bytes, stop: int) -> bytes:
    """Return what stands from the comment before the first line to the byte that gives the line at ``end`` another name."""
    end += len(name) + 1
    return bytes(content[start:end]) if end <= stop else b""


class _Head(NamedTuple):
    text: bytes  # the name and its label block as they stand on the page
    labels: Mapping[str, str]


_NO_HEAD = _Head(b"\n", {})  # begins no line


class _Series:
    """The lines of one name: where they were, how they began, and how to read them."""

    __slots__ = ("anchor", "anchored_at", "heads", "interleaved", "labels", "lead", "name", "needle", "samples", "seen")

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a metric name")
        self.name = name.encode()
        self.needle = b"\n" + self.name
        self.interleaved = name.endswith(_PARTS)
        self.anchor = b""  # the comment before the first line, and that line up to the byte after the name
        self.anchored_at = 0
        self.heads: list[_Head] = []
        self.lead = b""  # the anchor's comment and the whole head, if there was but one line; these are its labels
        self.labels: Mapping[str, str] = {}
        self.samples: list[Sample] = []  # what was returned last
        self.seen = b""  # where it stood, from the anchor's comment to the byte that gives the next line another name

    def read(self, text: _Text) -> list[Sample]:
        content, start, stop, openmetrics = text
        if self.seen and not openmetrics and content.startswith(self.seen, start + self.anchored_at, stop):
            return self.samples
        self.samples, end = (self._read_only_line(text) if self.lead else None) or self._read_lines(text)
        known = self.samples and self.anchor and not openmetrics
        self.seen = _seen(content, start + self.anchored_at, end, self.name, stop) if known else b""
        return self.samples

    def _read_lines(self, text: _Text) -> tuple[list[Sample], int]:
        """Read every line of this name; return where the last ends, too."""
        content, start, stop, openmetrics = text
        samples: list[Sample] = []
        end = start
        at = self._first(text)
        while at >= 0:
            if len(samples) == MAX_SERIES:
                raise ExpositionError(f"more than {MAX_SERIES} series are called {self.name.decode()}")
            labels, value_at = self._head(text, at, len(samples))
            match = _VALUE.match(content, value_at, stop)
            if match is None or (match[3] and not openmetrics):
                raise _malformed(text, at, "no value, or something after it")
            samples.append(_sample(text, at, labels, match))
            end = match.end()
            at = self._next(text, end)
        self.lead = b""
        if len(samples) == 1 and self.anchor:
            place = start + self.anchored_at
            self.lead, self.labels = bytes(content[place : place + len(self.anchor) - len(self.name) - 1]), samples[0].labels
            self.lead += self.heads[0].text if self.heads[0] is not _NO_HEAD else self.name
        return samples, end

    def _read_only_line(self, text: _Text) -> tuple[list[Sample], int] | None:
        """Read the one line of this name if it begins as before and ends in a plain number; None if that is not so."""
        content, start, stop, _ = text
        found = start + self.anchored_at
        if not content.startswith(self.lead, found):
            found = self._find_anchor(text)
            if found < 0 or not content.startswith(self.lead, found):
                return None
        at = found + len(self.lead)
        end = content.find(b"\n", at, stop)
        if end < 0 or content.startswith(self.needle, end) or not _PLAIN.fullmatch(content, at, end):
            return None
        self.anchored_at = found - start
        return [Sample(self.labels, float(content[at:end]))], end + 1

    def _next(self, text: _Text, at: int) -> int:
        """Return where the next line begins, looking from the line at ``at``, or -1."""
        if self._begins(text, at):
            return at
        return self._search(text, at - 1) if self.interleaved else -1

    def _first(self, text: _Text) -> int:
        """Return where the first line begins, or -1."""
        content, start = text.content, text.start
        found = self._find_anchor(text) if self.anchor else -1
        if found >= 0:
            self.anchored_at = found - start
            return found + len(self.anchor) - len(self.name) - 1
        at = start if self._begins(text, start) else self._search(text, start)
        before = content.rfind(b"\n", start, at - 1) if at > start else -1
        known = before >= 0 and content.startswith(b"#", before + 1) and not self.interleaved
        self.anchor = bytes(content[before : at + len(self.name) + 1]) if known else b""
        self.anchored_at = before - start
        return at

    def _find_anchor(self, text: _Text) -> int:
        """Return where the anchor is, not far from where it was, or -1."""
        content, start, stop, _ = text
        place = start + self.anchored_at
        end = min(place + len(self.anchor) + NEIGHBOURHOOD_BYTES, stop)
        return content.find(self.anchor, max(start, place - NEIGHBOURHOOD_BYTES), end)

    def _search(self, text: _Text, at: int) -> int:
        """Return where the next line of this name begins behind the line that ends at ``at`` or later, or -1."""
        find, stop = text.content.find, text.stop
        found = find(self.needle, at, stop)
        while found >= 0 and not self._begins(text, found + 1):  # a longer name
            found = find(self.needle, found + 1, stop)
        return found + 1 if found >= 0 else -1

    def _begins(self, text: _Text, at: int) -> bool:
        """Tell whether a line of this name begins at ``at``."""
        content, start, stop, _ = text
        end = at + len(self.name)
        here = content.startswith(self.needle, at - 1) if at > start else content.startswith(self.name, at)
        return here and end < stop and content[end] in b"{ \t"

    def _head(self, text: _Text, at: int, index: int) -> tuple[Mapping[str, str], int]:
        """Return the labels of the line at ``at``, the ``index``-th of this name, and where they end."""
        content = text.content
        known = self.heads[index] if index < len(self.heads) else _NO_HEAD
        if content.startswith(known.text, at, text.stop):
            return known.labels, at + len(known.text)
        end = at + len(self.name)
        block = _BLOCK.match(content, end, text.stop)
        if block is None:
            head = _NO_HEAD
        else:
            end = block.end()
            head = _Head(bytes(content[at:end]), _labels(text, at, block[1]))
        self.heads[index : index + 1] = [head]
        return head.labels, end


def _labels(text: _Text, at: int, block: bytes) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    position, end = 0, len(block.rstrip(b" \t"))
    while position < end:
        pair = _PAIR.match(block, position)
        if pair is None:
            raise _malformed(text, at, 'labels are name="value" with commas between')
        name = pair[1].decode()
        if name in labels:
            raise _malformed(text, at, f"the label {name} appears twice")
        try:
            value = pair[2].decode()
        except UnicodeDecodeError:
            raise _malformed(text, at, f"the label {name} is not UTF-8") from None
        labels[name] = _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], value) if "\\" in value else value
        position = pair.end()
    return labels


def _sample(text: _Text, at: int, labels: Mapping[str, str], match: re.Match[bytes]) -> Sample:
    number, timestamp = match[1], match[2]
    try:
        # Python takes 1_000 for a number, the format does not.
        value = float(number.replace(b"_", b"?"))
        return Sample(labels, value, None if timestamp is None else float(timestamp) * (1000 if text.openmetrics else 1))
    except ValueError:
        raise _malformed(text, at, "the value or its time is not a number") from None


def _malformed(text: _Text, at: int, why: str) -> ExpositionError:
    line = text.content.count(b"\n", text.start, at) + 1
    shown = bytes(text.content[at : min(at + EXCERPT_BYTES, text.stop)]).split(b"\n", 1)[0]
    return ExpositionError(f"line {line}: {why}: {excerpt(shown)}")
