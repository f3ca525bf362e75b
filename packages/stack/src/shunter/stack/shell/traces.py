"""``explain --trace``: the last spans of a stack that was started with ``--traces``."""

import contextlib
import time
from pathlib import Path

from shunter.stack.core.traces import Span, document, find, read_spans, tree
from shunter.stack.errors import StackError
from shunter.stack.shell import state
from shunter.stack.traces import FILE, OLDER

__all__ = ["read_lines", "show_trace"]

# Envoy is asked to send spans every 0.2 s here, the picker as often, and after it has waited for Envoy's record.
QUIET_S = 0.6
SETTLE_S = 5.0
POLL_S = 0.1


def show_trace(name: str, wanted: str | None, *, as_json: bool) -> str:
    """Return a trace as a tree, or as OTLP JSON; that of a trace's or request's id, or the last one. Raises StackError."""
    plan = state.load(name).plan
    if not plan.traces:
        raise StackError("this stack has no traces: start it with shunter up --traces")
    directory = Path(plan.directory)
    began_s = changed_s = time.monotonic()
    lines: list[bytes] = []
    spans: list[Span] = []
    while (now_s := time.monotonic()) - began_s < SETTLE_S:  # they come from several processes: until no more do
        before, lines = lines, read_lines(directory)
        spans = find(read_spans(lines), wanted)
        if len(lines) != len(before):
            changed_s = now_s
        if spans and now_s - changed_s > QUIET_S:
            break
        time.sleep(POLL_S)
    if not spans:
        raise StackError(f"no trace{f' of {wanted}' if wanted else ' yet'}; the last ones are in {directory / FILE}")
    return document(lines, spans[0].trace_id).decode() if as_json else "\n".join(tree(spans))


def read_lines(directory: Path) -> list[bytes]:
    """Return what the collector has written, oldest first."""
    lines: list[bytes] = []
    for name in (OLDER, FILE):
        with contextlib.suppress(FileNotFoundError):
            lines += (directory / name).read_bytes().splitlines()
    return lines
