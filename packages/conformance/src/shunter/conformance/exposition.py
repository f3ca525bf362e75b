"""A metrics page read strictly: prometheus_client parses each line, and the rules between lines are checked here.

The Prometheus text format 0.0.4 asks for more than a parser checks: all lines of a family in one group, HELP and TYPE
first and at most once each, every combination of name and labels once, a line feed at the end. Prometheus and the
scrapers of endpoint pickers differ in what they make of a page that breaks these rules, which is why it must not.

Each sample line is parsed on its own. Parsing the page as a whole would let the library rename what it takes for
mistakes (a gauge that is declared a counter comes back with `_total`), and would lose the line numbers.
"""

import re
from functools import lru_cache

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from shunter.conformance.core.exchange import clip
from shunter.conformance.core.signals import Signal
from shunter.conformance.errors import FormatError

__all__ = ["Page", "Series", "read_page"]

# A page that is wrong all over is wrong enough after this many findings; to read on may take minutes.
MAX_PROBLEMS = 10

# The library takes minutes for a line of megabytes with many quoted characters; the longest real one seen has a thousand.
MAX_LINE_CHARS = 64 << 10

# Series that a family of such a type spreads over several names.
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}

_BLANK = re.compile(r"[ \t]")

# The library also takes the quoted names of later formats, which pickers do not.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

# What may follow name and labels: a value and a timestamp in milliseconds. The library ignores what comes after.
_TAIL = re.compile(r"[ \t]*[^ \t\r]+(?:[ \t]+-?[0-9]+)?[ \t]*")

_DESCRIPTION = re.compile(r"#[ \t]+(HELP|TYPE)[ \t]+([^ \t]+)(?:[ \t]|$)")


class Series(msgspec.Struct, frozen=True):
    """One sample of a page."""

    name: str
    labels: dict[str, str]
    value: float

    def __str__(self) -> str:
        """Name, labels and value as the page has them."""
        return f"{Signal(self.name, self.labels)} {self.value:g}"


class Page(msgspec.Struct, frozen=True):
    """A page that keeps the format: the declared types by family name, and every sample in order."""

    types: dict[str, str]
    series: tuple[Series, ...]

    def find(self, signal: Signal) -> list[Series]:
        """Every series of a signal."""
        return [
            series for series in self.series if series.name == signal.family and signal.labels.items() <= series.labels.items()
        ]

    def total(self, signal: Signal) -> float:
        """The sum of all series of a signal: 0 if there is none."""
        return sum(series.value for series in self.find(signal))

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, str]]], Series]:
        """Every series that may only rise: counters, and the buckets and counts of histograms and summaries."""
        rising = {name for name, kind in self.types.items() if kind == "counter"}
        for name, kind in self.types.items():
            rising.update(name + part for part in _PARTS.get(kind, ()) if part != "_sum")
        return {(s.name, frozenset(s.labels.items())): s for s in self.series if s.name in rising}


def read_page(body: bytes) -> Page:
    """Read a page; raises FormatError with every problem found (at most MAX_PROBLEMS)."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"byte {error.start}: the page is not UTF-8") from None
    reader = _Reader()
    *lines, rest = text.split("\n")
    for number, line in enumerate(lines, 1):
        if problem := reader.read(line):
            reader.problems.append(f"line {number}: {problem}")
            if len(reader.problems) == MAX_PROBLEMS:
                raise FormatError(*reader.problems)
    if rest:
        reader.problems.append(f"line {len(lines) + 1}: the last line does not end with a line feed: {clip(rest)!r}")
    if reader.problems:
        raise FormatError(*reader.problems)
    return Page(reader.types, tuple(reader.series))


@lru_cache(maxsize=2048)
def _parse(line: str) -> tuple[Metric, ...]:
    """What the library makes of a line. Most lines of a page stand on the next one too, and the library takes long."""
    return tuple(text_string_to_metric_families(line + "\n"))


class _Reader:
    """What is known of a page so far."""

    def __init__(self) -> None:
        self.types: dict[str, str] = {}
        self.series: list[Series] = []
        self.problems: list[str] = []
        self._helped: set[str] = set()
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self._sampled: set[str] = set()
        self._closed: set[str] = set()
        self._current = ""

    def read(self, line: str) -> str | None:
        """Take in one line; returns what is wrong with it."""
        if len(line) > MAX_LINE_CHARS:
            return f"{clip(line)!r} is longer than {MAX_LINE_CHARS} characters"
        line = line.strip(" \t")
        if not line or (line.startswith("#") and not _DESCRIPTION.match(line)):
            return None
        try:
            parsed = _parse(line)
        except (ValueError, IndexError, KeyError) as error:
            return f"{clip(line)!r} does not parse: {str(error) or type(error).__name__}"
        if description := _DESCRIPTION.match(line):
            return self._describe(description[1], description[2], parsed[0].type if parsed else "")
        samples = [sample for family in parsed for sample in family.samples]
        tail = line.rpartition("}")[2] if "{" in line else _BLANK.split(line, maxsplit=1)[-1]
        if len(samples) != 1 or not _TAIL.fullmatch(tail):
            return f"{clip(line)!r} is not a name, labels, a value and at most a timestamp"
        return self._sample(samples[0])

    def _describe(self, keyword: str, family: str, kind: str) -> str | None:
        known = self.types if keyword == "TYPE" else self._helped
        if family in known:
            return f"a second {keyword} for {family}"
        if family in self._sampled:
            return f"{keyword} for {family} comes after its samples"
        if keyword == "TYPE":
            self.types[family] = kind
        else:
            self._helped.add(family)
        return self._enter(family)

    def _sample(self, sample: Sample) -> str | None:
        key = (sample.name, frozenset(sample.labels.items()))
        series = Series(sample.name, dict(sample.labels), float(sample.value))
        if not _NAME.fullmatch(series.name) or not all(map(_LABEL.fullmatch, series.labels)):
            return f"the series {Signal(series.name, series.labels)} has a name that is none"
        if key in self._seen:
            return f"the series {Signal(series.name, series.labels)} appears twice"
        self._seen.add(key)
        self.series.append(series)
        family = self._family(sample.name)
        self._sampled.add(family)
        return self._enter(family)

    def _family(self, name: str) -> str:
        for kind, parts in _PARTS.items():
            for part in parts:
                if self.types.get(base := name.removesuffix(part)) == kind and base != name:
                    return base
        return name

    def _enter(self, family: str) -> str | None:
        if family == self._current:
            return None
        self._closed.add(self._current)
        self._current = family
        return f"the lines of {family} are not in one group" if family in self._closed else None
