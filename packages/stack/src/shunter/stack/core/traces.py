"""The spans of a trace, wherever they came from, as a tree that a person reads.

What is read is OTLP in JSON (opentelemetry-proto, "JSON Protobuf Encoding"): lines of ``{"resourceSpans": …}``.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shunter.stack.core.screen import printable

__all__ = ["Span", "document", "find", "read_spans", "tree"]

# Attributes that a line has room for, in this order, and what they are called there.
SHOWN = {
    "target_model": "model",
    "gen_ai.request.model": "model",
    "llm_d.epp.scheduling.profile.name": "profile",
    "pick": "pick",
    "upstream_address": "to",
    "server.address": "served_by",
    "server.port": "port",
    "http.response.status_code": "status",
    "http.status_code": "status",
    "gen_ai.response.time_to_first_chunk": "first_token_s",
    "gen_ai.usage.output_tokens": "tokens",
    "shunter.cached_tokens": "cached",
    "shunter.refusal": "refused",
    "shunter.reason": "because",
}
REQUEST_IDS = ("gen_ai.request.id", "guid:x-request-id")
ERROR = 2  # Status.StatusCode


class Value(msgspec.Struct, rename="camel"):
    """An attribute's."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: str | int | None = None
    double_value: float | None = None

    @property
    def text(self) -> str:
        """As a person reads it; of a list nothing."""
        if self.double_value is not None:
            return f"{self.double_value:.4g}"
        plain = (each for each in (self.string_value, self.int_value, self.bool_value) if each is not None)
        return str(next(plain, ""))


class Attribute(msgspec.Struct):
    """One."""

    key: str
    value: Value = msgspec.field(default_factory=Value)


class Status(msgspec.Struct):
    """How it went."""

    code: int = 0
    message: str = ""


class Span(msgspec.Struct, rename="camel"):
    """One span; what a foreign one leaves out is empty."""

    trace_id: str = ""
    span_id: str = ""
    name: str = ""
    parent_span_id: str = ""
    start_time_unix_nano: str | int = 0
    end_time_unix_nano: str | int = 0
    attributes: list[Attribute] = []
    status: Status = msgspec.field(default_factory=Status)
    service: str = ""  # whose

    @property
    def began_ns(self) -> int:
        """Since 1970."""
        return int(self.start_time_unix_nano)

    @property
    def ended_ns(self) -> int:
        """Since 1970."""
        return int(self.end_time_unix_nano)

    @property
    def told(self) -> dict[str, str]:
        """Its attributes."""
        return {each.key: each.value.text for each in self.attributes}


class Scope(msgspec.Struct, rename="camel"):
    """Of one library."""

    spans: list[Span] = []


class Resource(msgspec.Struct):
    """Who made spans."""

    attributes: list[Attribute] = []


class ResourceSpans(msgspec.Struct, rename="camel"):
    """Of one process."""

    resource: Resource = msgspec.field(default_factory=Resource)
    scope_spans: list[Scope] = []


class Batch(msgspec.Struct, rename="camel"):
    """A line."""

    resource_spans: list[ResourceSpans] = []


class Spans(msgspec.Struct, rename="camel"):
    """Of one library, as they came."""

    scope: msgspec.Raw = msgspec.Raw(b"{}")
    spans: list[msgspec.Raw] = []


class Process(msgspec.Struct, rename="camel"):
    """Of one process, as they came."""

    resource: msgspec.Raw = msgspec.Raw(b"{}")
    scope_spans: list[Spans] = []


class Whole(msgspec.Struct, rename="camel"):
    """A line, or a document."""

    resource_spans: list[Process] = []


_span = msgspec.json.Decoder(Span)
_whole = msgspec.json.Decoder(Whole)
_batch = msgspec.json.Decoder(Batch)


def read_spans(lines: Iterable[bytes]) -> list[Span]:
    """Return all spans, oldest lines first; a line that is no batch, as one that is being written, is left out."""
    spans: list[Span] = []
    for line in lines:
        try:
            batch = _batch.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        for process in batch.resource_spans:
            service = next((each.value.text for each in process.resource.attributes if each.key == "service.name"), "")
            for scope in process.scope_spans:
                for span in scope.spans:
                    span.service = service
                    spans.append(span)
    return spans


def find(spans: Sequence[Span], wanted: str | None) -> list[Span]:
    """Return the spans of the trace that has this id or request id, or of the one that began last."""
    if wanted is None:
        newest = max(spans, key=lambda span: span.began_ns, default=None)
        trace_id = newest.trace_id if newest is not None else ""
    else:
        named = (span for span in spans if wanted in {span.trace_id, *(span.told.get(name) for name in REQUEST_IDS)})
        trace_id = next((span.trace_id for span in named), "")
    return [span for span in spans if span.trace_id == trace_id]


def document(lines: Iterable[bytes], trace_id: str) -> bytes:
    """Return one OTLP JSON document of all there is of a trace: what viewers take as a file."""
    found: list[Process] = []
    for line in lines:
        try:
            processes = _whole.decode(line).resource_spans if trace_id.encode() in line else []
        except (msgspec.DecodeError, ValueError):  # as above
            continue
        for process in processes:
            for scope in process.scope_spans:
                scope.spans = [span for span in scope.spans if _span.decode(span).trace_id == trace_id]
            process.scope_spans = [scope for scope in process.scope_spans if scope.spans]
            found += [process] if process.scope_spans else []
    return msgspec.json.encode(Whole(found))


def tree(spans: Sequence[Span]) -> list[str]:
    """Return a line for each span of one trace, below its parent's: when it began and what it took, in ms, whose and what."""
    if not spans:
        return []
    known = {span.span_id for span in spans}
    began_ns = min(span.began_ns for span in spans)
    width = max(len(span.service) for span in spans)
    lines = [f"trace {spans[0].trace_id}, {len(spans)} spans of {len({span.service for span in spans})} services"]

    def below(parent: str | None, depth: int) -> Iterator[str]:
        inner = [span for span in spans if (span.parent_span_id if span.parent_span_id in known else None) == parent]
        for span in sorted(inner, key=lambda span: (span.began_ns, -span.ended_ns)):
            at_ms, took_ms = (span.began_ns - began_ns) / 1e6, (span.ended_ns - span.began_ns) / 1e6
            yield f"{at_ms:9.2f} {took_ms:9.2f}  {span.service:<{width}}  {'  ' * depth}{span.name}{_words(span)}"
            if depth < len(spans):  # spans that are each other's parents
                yield from below(span.span_id, depth + 1)

    return [*map(printable, [*lines, *below(None, 0)])]


def _words(span: Span) -> str:
    told = span.told
    words = {name: told[key] for key, name in SHOWN.items() if told.get(key)}
    if span.status.code == ERROR:
        words["failed"] = span.status.message or "yes"
    return "".join(f"  {name}={text}" for name, text in words.items())
