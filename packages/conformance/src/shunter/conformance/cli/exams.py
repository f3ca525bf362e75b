"""What all commands that examine share: their options, and following an exam to its end and into its reports."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shunter.conformance.cli.files import check_report, read_file, write_reports

if TYPE_CHECKING:
    from shunter.conformance.core.case import AnyCase
    from shunter.conformance.core.events import Event, Side
    from shunter.conformance.core.waivers import Waiver

__all__ = ["Wishes", "exam_options", "follow"]

# What a shell reports for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130

# What ends an exam early. Whoever stops a job sends SIGTERM: it ends the exam as Ctrl-C does, and what the exam has started
# with it. Not by way of SIGINT, to which a job in a script's background is deaf.
ENDS = (signal.SIGINT, signal.SIGTERM)

COLOURS = {"pass": "green", "FAIL": "red", "ERROR": "red", "PASS?": "yellow", "known": "yellow"}

Command = TypeVar("Command", bound=Callable[..., Any])
Cases = TypeVar("Cases", bound="AnyCase")


class Wishes:
    """What the examiner wishes of any exam, checked before anything happens; raises UsageError."""

    def __init__(
        self,
        prefixes: tuple[str, ...],
        level: str,
        features: tuple[str, ...],
        reports: tuple[Path, ...],
        implementation: tuple[str, ...],
        timeout_s: float,
        tries: int,
        waivers_file: Path | None,
        dry_run: bool,
    ) -> None:
        from shunter.conformance.core.report import REPORTS, parse_implementation

        self.timeout_s, self.tries, self.dry_run = timeout_s, tries, dry_run
        self.waivers: tuple[Waiver, ...] = _waivers(waivers_file)
        self._prefixes, self._level, self._features = prefixes, level, features
        self._reports, self._about = reports, parse_implementation(implementation)
        for path in reports:
            check_report(path, REPORTS)

    def choose(self, cases: "Sequence[Cases]", suite: str | None = None) -> "tuple[Cases, ...]":
        """Return those of the cases that are to run; raises UsageError if none is."""
        from shunter.conformance.core.case import Level, select
        from shunter.conformance.errors import UsageError

        chosen = select(cases, self._prefixes, Level(self._level), suite=suite, features=self._features)
        if not chosen:
            raise UsageError("no case is all that --select, --level, --feature and --profile ask for; leave one of them out")
        return chosen

    def write(self, events: "Sequence[Event]") -> None:
        """Write the reports."""
        from shunter.conformance.core.report import REPORTS

        write_reports({path: REPORTS[path.suffix](events, self._about) for path in self._reports})


def exam_options(command: Command) -> Command:
    """Give a command the options of `Wishes`, which it gets as its first argument."""

    @wraps(command)
    def wrapped(
        *args: Any,
        prefixes: tuple[str, ...],
        level: str,
        features: tuple[str, ...],
        reports: tuple[Path, ...],
        implementation: tuple[str, ...],
        timeout_s: float,
        tries: int,
        waivers_file: Path | None,
        dry_run: bool,
        **options: Any,
    ) -> Any:
        with _holding():
            wishes = Wishes(prefixes, level, features, reports, implementation, timeout_s, tries, waivers_file, dry_run)
            return command(wishes, *args, **options)

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # pyright: ignore[reportReturnType] # click's decorators keep what they decorate


@contextmanager
def _holding() -> Generator[None]:
    """Hold signals back that would end the program while it gets ready, or writes: no report would be left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow(exam: "AsyncGenerator[Event]", cases: "Sequence[AnyCase]", wishes: Wishes, side: "Side") -> None:
    """Show an exam while it happens, write its reports, and leave with its exit code."""
    from shunter.conformance.core.events import CaseFinished, conclude, unstarted
    from shunter.conformance.core.narration import summarise
    from shunter.conformance.core.verdict import exit_code
    from shunter.conformance.errors import LaunchError

    if wishes.dry_run:
        for case in cases:
            click.echo(f"{case.level:<6}  {case.id}")
        return
    events: list[Event] = []
    interrupted = False
    try:
        try:
            asyncio.run(_attend(exam, events))
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # there are reports to write
    except (KeyboardInterrupt, asyncio.CancelledError):
        interrupted = True
        if events:
            click.echo("interrupted")
        else:
            click.echo("interrupted before the exam began")
            date = datetime.now(UTC).isoformat(timespec="seconds")
            events.append(unstarted(cases, side, date, "the exam was interrupted before it began"))
        events.extend(conclude(events, "the exam was interrupted"))
    except LaunchError as error:
        click.echo(f"Error: {error}", err=True)
    except Exception as error:
        events.extend(conclude(events, f"the exam broke off: {type(error).__name__}: {error}"))
        if events:
            wishes.write(events)
        raise
    for line in summarise(events):
        click.echo(line)
    if events:
        wishes.write(events)
    findings = [(event.level, event.verdict) for event in events if isinstance(event, CaseFinished)]
    sys.exit(EXIT_INTERRUPTED if interrupted else exit_code(findings))


async def _attend(exam: "AsyncGenerator[Event]", events: "list[Event]") -> None:
    """Follow an exam and show it while it happens; why a target is gone is said once, not for every case that is left."""
    from shunter.conformance.core.events import CaseFinished
    from shunter.conformance.core.narration import narrate
    from shunter.conformance.core.verdict import Verdict

    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)  # what was held back comes now
    gone: str | None = None
    async with aclosing(exam):
        async for event in exam:
            events.append(event)
            if isinstance(event, CaseFinished) and event.verdict is Verdict.ERROR:
                if event.reason == gone:
                    continue
                gone = event.reason
            for line in narrate(event):
                label, space, rest = line.partition(" ")
                click.echo((click.style(label, fg=COLOURS[label]) if label in COLOURS else label) + space + rest)


def _waivers(file: Path | None) -> "tuple[Waiver, ...]":
    if file is None:
        return ()
    from shunter.conformance.core.waivers import expired, load_waivers
    from shunter.conformance.sections import CASES

    waivers = load_waivers(read_file(file), str(file), {case.id for case in CASES})
    for waiver in expired(waivers, datetime.now(UTC).date()):
        click.echo(f"the waiver of {waiver.id} ended on {waiver.until}, and counts no longer", err=True)
    return waivers


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--select", "prefixes", metavar="ID-PREFIX", multiple=True, help="Run only the cases under this id."),
    click.option("--level", type=click.Choice(["MUST", "SHOULD", "MAY"]), default="MAY", help="The weakest level to run."),
    click.option("--feature", "features", metavar="NAME", multiple=True, help="Run only the cases that need this feature."),
    click.option(
        "--report",
        "reports",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        multiple=True,
        help="Write a report: .yaml (ConformanceReport), .html (for people), .xml (JUnit), .md (a CI's step summary) or "
        ".ndjson (every event, from which `report` makes the others).",
    ),
    click.option(
        "--implementation",
        "implementation",
        metavar="KEY=VALUE",
        multiple=True,
        help="Who is examined, for the report: organization, project, url, version or contact.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=click.FloatRange(min=0.1),
        default=60.0,
        show_default=True,
        help="How long to wait for any complete answer.",
    ),
    click.option(
        "--tries",
        type=click.IntRange(1),
        default=3,
        show_default=True,
        help="How often a case with time limits is tried; the majority decides.",
    ),
    click.option(
        "--waivers",
        "waivers_file",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Failures to put up with: YAML, waivers: [{id, reason, until}].",
    ),
    click.option("--dry-run", is_flag=True, help="Only show which cases would run."),
)
