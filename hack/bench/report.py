"""The result for people: a table for the terminal, and ``docs/performance.md``."""

from collections.abc import Iterable, Iterator, Sequence

from hack.bench.processes import ROOT
from hack.bench.rows import Head, Result, Row
from hack.bench.verdicts import Verdict, judge, judge_peers

__all__ = ["PAGE", "page", "peer_table", "table"]

PAGE = ROOT / "docs" / "performance.md"

PEER_COLUMNS = ("case", "subject", "all µs", "of that Envoy", "× shunter, lean", "p50 ms", "p99 ms", "MB", "per s", "failed")
COLUMNS = ("case", "subject", "picker µs", "× floor", "Envoy µs", "p50 ms", "p99 ms", "MB", "per s", "failed")

INTRODUCTION = """\
# What it costs

`make bench-picker` measured this and wrote this page: Shunter's picker beside a reference loop, the gRPC library's
transport and, where it can be had, the reference implementation in Go, all behind the same Envoy with the configuration
that `shunter envoyconf` generates, on one machine, in turns.
"""

BROKEN = """\
Why budgets are broken:

- **Small prompts, of the floor** (1 KB, 50 KB). An exchange takes twice as many instructions as the floor's and finds four
  times as many of the lines it needs outside the first caches, since it is spread over six times as many functions; these
  misses are most of its time. They are what refusals, limits, metrics, ledger, decisions and the default's expected delay
  are made of. [Decision 006](decisions/006-own-http2-transport.md) has the counts, and what was tried: compilers, other
  Pythons, fewer layers.
- **SSE behind Envoy, of the floor.** The same for each chunk, which comes in a read of its own; where chunks come together
  (direct) the budget is kept.
- **Half of the Go picker, 1 KB** (32 clients, direct; at 500 requests a second 0.49 and 0.54 in two runs). Of a short prompt
  most is transport, in both; with longer ones, streams or more endpoints the two are further apart.
- **Lean SSE, a tenth of full.** What lean does for a stream is one exchange and one record, whatever follows; chunks in
  full would have to cost four to five times as much as they do.
- **p99 beside no picker.** The floor's is more than twice that, too: asking over a socket, on cores shared with who asks.
- **A router in one process** (below). At fixed rates Envoy with its ext_proc filter alone takes more CPU than the whole of
  it.
"""

METHOD = """\
## How to read it

- **CPU** is that of all processes of the picker (supervisor, workers, collector), by the kernel's clock, divided by the
  requests answered; what it takes without requests, measured just before, is subtracted. The scraper is a process of its
  own and is counted in the rows called idle, where a "request" is a completed scrape. Envoy's CPU stands beside it.
- **floor** is the least that a prefix-aware pick in FULL_DUPLEX_STREAMED has to do (`hack/bench/floor`): HTTP/2 by hand,
  JSON, hashing, an index, scores, and nothing of a product: no checks, no limits, no metrics, no snapshot, no ledger.
  **Absolute figures belong to this machine; multiples of the floor can be compared.** In other profiles than full they
  are multiples of the floor in full. The calibration is the floor's 1 KB exchange in process.
- Each row is the median of its rounds, with the lowest and the highest. In a round every subject is started, warmed and
  measured after the other, so that they meet the same noise. Load generator, Envoy, picker and model servers share the
  cores: latencies at the limit (32 clients) are queueing.
- Prompts come in groups that share four fifths of their text. "per s" is what was answered; at a fixed rate it is that
  rate. Latency counts from when a request was due, whether it could be sent or not.
- **direct** rows leave Envoy out: a replayer sends what Envoy sends, ends each stream by RST_STREAM, and measures the time
  to the pick. SSE chunks arrive one by one through Envoy and all in one read in direct rows.
- The model servers are one C process that answers at once, serves a recorded vLLM page of 56 KB, and gzips it for whoever
  asks, as vLLM does.
- **go-epp** is a Go picker that you have built: `EPP_BIN=… make bench-picker`, of llm-d-router (v0.10, which Go is asked to
  fetch and build where none is given) or of gateway-api-inference-extension (v1.5, from which that one came; its version,
  which a checkout without its tag does not say, by `EPP_VERSION`). The head of this page says which. It asks for gzip, and is
  given one scrape a second except in the idle row, since at its default of 50 ms scraping would swamp the rest. That of
  gateway-api-inference-extension knows no endpoints but from Kubernetes: it has a real API server with pods that nobody
  started, which beside all rows from its first on does nothing for 1 to 2 % of a core. It is in profile full only, where its
  rows are; no row is left out for it.
- wrk, h2load, hey, ghz and fortio were considered: none sends hundreds of different prompts on time and counts latency from
  when they were due, or plays Envoy's side of ext_proc. The load generators are small C programs (`hack/bench/c`).
- Not measured: more than one Envoy thread, a real network, arm64, Kubernetes discovery, hours of running.
"""


def table(rows: Sequence[Row]) -> str:
    """A Markdown table; the floor is that of the same load."""
    floors = {row.load: row.picker_us_per_request for row in rows if row.subject == "floor"}
    return "\n".join(_markdown(COLUMNS, (_cells(row, floors.get(row.load)) for row in rows)))


def peer_table(rows: Sequence[Row]) -> str:
    """The same for whole data paths."""
    lean = {row.case: row.total_us for row in rows if row.subject == "shunter, lean"}
    return "\n".join(_markdown(PEER_COLUMNS, (_peer_cells(row, lean.get(row.case)) for row in rows)))


def page(result: Result, peers: Result | None = None) -> str:
    """The page for the documentation."""
    verdicts = judge(result)
    parts = [INTRODUCTION, _told(result.head), "## Budgets\n", _verdicts(verdicts)]
    if any(each.kept is False for each in verdicts):
        parts.append(BROKEN)
    sections = (
        ("Through Envoy", lambda row: not row.case.startswith(("direct", "idle"))),
        ("Straight into the picker", lambda row: row.case.startswith("direct")),
        ("Scraping", lambda row: row.case.startswith("idle")),
    )
    for title, belongs in sections:
        parts += [f"## {title}\n", table([row for row in result.rows if belongs(row)]) + "\n"]
    parts.append(_left_out(result.rows))
    if peers is not None:
        parts += [PEERS, _told(peers.head), peer_table(peers.rows) + "\n", _verdicts(judge_peers(peers))]
        parts.append(_left_out(peers.rows))
    return "\n".join(filter(None, [*parts, METHOD]))


PEERS = """\
## Beside other routers

What a user could run instead, installed from PyPI (`make bench-peers`), at their defaults. All CPU on the data path counts
here: Envoy, picker and scraper together, or the router with its children, with what they do in the background. "none" is
Envoy alone.
"""


def _told(head: Head) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in head.versions.items())
    before, after = head.calibration_us
    return (
        f"Measured on {head.date}: {head.cores} cores of {head.cpu}, Linux {head.kernel}, {head.python}, {versions};"
        f" rounds: {head.rounds}, of {head.round_s:g} s a row; {head.seconds / 60:.0f} minutes altogether; load average"
        f" {head.load_before:g} before it began. Calibration: {before:g} µs before, {after:g} µs after.\n"
    )


def _verdicts(verdicts: Iterable[Verdict]) -> str:
    words = {True: "kept", False: "**broken**", None: "–"}
    cells = ((each.budget, each.limit, each.found, words[each.kept]) for each in verdicts)
    return "\n".join(_markdown(("budget", "limit", "found", "verdict"), cells)) + "\n"


def _left_out(rows: Iterable[Row]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            reasons.setdefault(f"{row.subject}: {row.reason}", []).append(row.case)
    lines = [f"- {reason}" + ("" if len(cases) > 3 else f" ({'; '.join(cases)})") for reason, cases in reasons.items()]
    return "Left out, or not measured in every round:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _cells(row: Row, floor_us: float | None) -> tuple[str, ...]:
    if row.picker_us_per_request is None:
        return (row.case, row.subject, *["–"] * (len(COLUMNS) - 2))
    times = f"{row.picker_us_per_request / floor_us:.2f}" if floor_us and row.subject != "none" else ""
    return (
        row.case,
        row.subject,
        _spread(row.picker_us_per_request, row.picker_us_range),
        times,
        _spread(row.envoy_us_per_request, row.envoy_us_range),
        *_rest(row),
    )


def _peer_cells(row: Row, lean_us: float | None) -> tuple[str, ...]:
    total_us = row.total_us
    if total_us is None:
        return (row.case, row.subject, *["–"] * (len(PEER_COLUMNS) - 2))
    return (
        row.case,
        row.subject,
        _plain(total_us),
        _plain(row.envoy_us_per_request),
        f"{total_us / lean_us:.2f}" if lean_us else "",
        *_rest(row),
    )


def _rest(row: Row) -> tuple[str, ...]:
    return (
        _plain(row.p50_ms),
        _spread(row.p99_ms, row.p99_ms_range),
        f"{row.rss_mb or 0:.0f}",
        f"{row.per_second or 0:.0f}",
        str(row.failures),
    )


def _spread(value: float | None, ends: tuple[float, float] | None) -> str:
    if not value:
        return "" if value is None else "0"
    return f"{_plain(value)} ({_plain(ends[0])}–{_plain(ends[1])})" if ends and ends[0] < ends[1] else _plain(value)


def _plain(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Aligned, so that it can be read as it is."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(head))]
    for number, line in enumerate(table):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        if not number:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
