"""What the tests of the exam share: running one, broken servers beyond the lab's, and recorded metrics pages."""

import json
import lzma
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from shunter.conformance.core.case import AnyCase, Bound, Case
from shunter.conformance.core.events import CaseFinished, CaseStarted, Event
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.servers import CASES
from shunter.conformance.shell.servers.exam import examine

DATA = Path(__file__).parent / "data"

# `make conformance-mutants` asks whatever is broken everything, and notes here what it failed.
MUTATIONS = os.environ.get("SHUNTER_MUTATIONS")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Findings(dict[str, CaseFinished]):
    """The findings of an exam by case id, and all its events."""

    def __init__(self, events: Sequence[Event]) -> None:
        super().__init__({event.id: event for event in events if isinstance(event, CaseFinished)})
        self.events = tuple(events)

    def ids(self, *verdicts: Verdict) -> set[str]:
        return {case_id for case_id, finding in self.items() if finding.verdict in verdicts}


@pytest.fixture
def note():
    """Note what somebody failed who is broken in one way."""

    def write(case_id: str, breaks: str, findings: Mapping[str, CaseFinished]) -> None:
        failed = [each.id for each in findings.values() if each.verdict is Verdict.FAILED]
        judged = sum(each.verdict in {Verdict.PASSED, Verdict.FAILED} for each in findings.values())
        if MUTATIONS:
            with Path(MUTATIONS).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"case": case_id, "breaks": breaks, "failed": failed, "judged": judged}) + "\n")

    return write


class Limits:
    """Which bounds were used while each case was asked."""

    def __init__(self) -> None:
        self._case = ""
        self._used: dict[str, set[Bound]] = {}

    def follow(self, event: Event) -> Event:
        """See an event: what comes next is the doing of the case that has started."""
        self._case = event.id if isinstance(event, CaseStarted) else ""
        return event

    def use(self, bound: Bound) -> None:
        self._used.setdefault(self._case, set()).add(bound)

    def undeclared(self, cases: Sequence[AnyCase]) -> dict[str, set[str]]:
        """By case: the names of the bounds that it used and does not have."""
        missing = {case.id: {each.name for each in self._used.get(case.id, set()) - {*case.bounds}} for case in cases}
        return {case_id: names for case_id, names in missing.items() if names}


@pytest.fixture
def watch_limits(monkeypatch):
    """Watch what a kind of target is asked for bounds."""

    def watch(kind: type) -> Limits:
        limits, seconds = Limits(), kind.seconds

        def watched(target, bound: Bound) -> float:
            limits.use(bound)
            return seconds(target, bound)

        monkeypatch.setattr(kind, "seconds", watched)
        return limits

    return watch


@pytest.fixture
def exam():
    """Run an exam to its end."""

    async def run(url: str, *, cases: Sequence[Case] = CASES, tries: int = 1, **options) -> Findings:
        return Findings([event async for event in examine(url, cases=cases, tries=tries, **options)])

    return run


@pytest.fixture
def serving():
    """A server whose every path is answered by one handler; yields its URL."""

    @asynccontextmanager
    async def serve(handler: Handler) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    return serve


@pytest.fixture(params=sorted(path.name for path in DATA.glob("*.txt.xz")))
def recorded_page(request) -> bytes:
    """The metrics page of a real server, one after the other."""
    return lzma.decompress((DATA / request.param).read_bytes())
