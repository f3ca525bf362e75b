"""The exam as pytest items: ``pytest --shunter-target http://127.0.0.1:8000``, one item for each case.

Known failures, the profile's and the waived, are xfailed; what cannot be judged is skipped; an unexpected pass passes with a
warning. A SHOULD that is not met fails as a MUST does, since a run of tests knows no degrees; ``--shunter-level MUST`` leaves
the others out.
"""

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from shunter.conformance.cli.files import read_file
from shunter.conformance.core.case import AnyCase, Level, select
from shunter.conformance.core.events import CaseFinished, Event
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.core.waivers import load_waivers
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers import CASES
from shunter.conformance.shell.access import Access, parse_headers, trust
from shunter.conformance.shell.servers.exam import examine

__all__ = ["CaseItem", "Exam"]

EXAM = pytest.StashKey["Exam"]()


class Exam:
    """An exam that goes on as far as somebody asks."""

    def __init__(self, config: pytest.Config) -> None:
        option = cast("Callable[[str], Any]", config.getoption)
        self.cases = select(CASES, option("shunter_select"), Level(option("shunter_level")))
        waivers, signer = (Path(name) if (name := option(f"shunter_{each}")) else None for each in ("waivers", "ca_file"))
        self._runner = asyncio.Runner()
        self._findings: dict[str, CaseFinished] = {}
        self._events = examine(
            option("shunter_target"),
            cases=self.cases,
            profile=option("shunter_profile"),
            model=option("shunter_model"),
            access=Access(
                parse_headers(option("shunter_header"), os.environ), trust(signer, insecure=option("shunter_insecure"))
            ),
            waivers=load_waivers(read_file(waivers), str(waivers), {each.id for each in CASES}) if waivers else (),
        )

    def finding(self, case_id: str) -> CaseFinished:
        """Return what came of a case, after all those before it."""
        while case_id not in self._findings:
            event = self._runner.run(self._next())
            if isinstance(event, CaseFinished):
                self._findings[event.id] = event
        return self._findings[case_id]

    async def _next(self) -> Event:
        return await anext(self._events)

    def close(self) -> None:
        """Close the connections."""

        async def end() -> None:
            async with aclosing(self._events):
                pass

        self._runner.run(end())
        self._runner.close()


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: AnyCase, exam: Exam, **rest: Any) -> None:
        super().__init__(**rest)  # pyright: ignore[reportUnknownMemberType] # pytest leaves it untyped
        self._case, self._exam = case, exam

    def runtest(self) -> None:
        """Run it, and turn its verdict into pytest's."""
        found = self._exam.finding(self._case.id)
        self.user_properties += [("level", str(found.level)), ("verdict", str(found.verdict))]
        match found.verdict:
            case Verdict.SKIPPED | Verdict.NOT_SUPPORTED:
                pytest.skip(found.reason)
            case Verdict.KNOWN_FAILURE:
                pytest.xfail(found.reason)
            case Verdict.FAILED | Verdict.ERROR:
                raise NotMet(found)
            case Verdict.UNEXPECTED_PASS:
                self.warn(pytest.PytestWarning(f"{self._case.id} passes, and was known to fail: {found.reason}"))
            case _:
                pass

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, NotMet):
            return super().repr_failure(excinfo, style)
        found = excinfo.value.found
        # The first line is all that pytest's summary shows.
        rows = [(name.capitalize(), text) for name in ("actual", "expected", "reason") if (text := getattr(found, name))]
        rows += [("Requires", self._case.requirement), ("Because", self._case.why), ("Source", self._case.source)]
        rows += [("Reproduce", found.evidence[-1].curl)] if found.evidence else []
        return "\n".join(f"{name:<10} {text}" for name, text in rows)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self._case.id


class NotMet(Exception):  # noqa: N818 # a verdict
    """A requirement is not met."""

    def __init__(self, found: CaseFinished) -> None:
        super().__init__(found.id)
        self.found = found


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the exam."""
    group = parser.getgroup("shunter", "shunter: does a model server keep the protocol?")
    group.addoption("--shunter-target", metavar="URL", help="Examine the model server at this URL.")
    group.addoption("--shunter-profile", metavar="NAME", help="What kind of server it is; found out when not given.")
    group.addoption("--shunter-model", metavar="NAME", help="The model to ask for.")
    group.addoption("--shunter-select", metavar="ID-PREFIX", action="append", default=[], help="Only the cases under this id.")
    group.addoption("--shunter-level", choices=[*Level], default=str(Level.MAY), help="The weakest level to run.")
    group.addoption("--shunter-waivers", metavar="FILE", help="Failures to put up with.")
    sent = "Send this with every request, as `Authorization: Bearer ${KEY}`; ${KEY} is of the environment."
    group.addoption("--shunter-header", metavar="'NAME: VALUE'", action="append", default=[], help=sent)
    group.addoption("--shunter-ca-file", metavar="FILE", help="Who signed the server's certificate (PEM).")
    group.addoption("--shunter-insecure", action="store_true", help="Take any certificate.")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the exam; if no tests are named, it is all there is."""
    if config.getoption("shunter_target"):
        try:
            config.stash[EXAM] = Exam(config)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = []


def pytest_unconfigure(config: pytest.Config) -> None:
    """End it."""
    if EXAM in config.stash:
        config.stash[EXAM].close()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Add the cases behind the other tests, in their own order whatever others do to theirs."""
    yield
    if EXAM in config.stash:
        items += _items(session, config.stash[EXAM])


def _items(session: pytest.Session, exam: Exam) -> Iterator[pytest.Item]:
    for case in exam.cases:
        yield CaseItem.from_parent(session, name=case.id, case=case, exam=exam)  # pyright: ignore[reportUnknownMemberType] # too
