"""The command line of the exam: `run`, `report`, `compare`, `list` and `explain`."""

import asyncio
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shunter.conformance.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from shunter.conformance.core.events import Event

__all__ = ["main"]

# What a shell reports for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130

COLOURS = {"pass": "green", "FAIL": "red", "ERROR": "red", "PASS?": "yellow", "known": "yellow"}


class _Group(click.Group):
    """A group whose commands may raise UsageError."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise click.UsageError(str(error)) from None


@click.group(name="conformance", cls=_Group)
def main() -> None:
    """Examine whether a model server keeps the protocol that inference gateways rely on."""


@main.command()
@click.argument("url")
@click.option("--profile", metavar="NAME", help="What kind of server it is; found out when not given.")
@click.option("--model", metavar="NAME", help="The model to ask for; the first of /v1/models when not given.")
@click.option("--metrics-url", metavar="URL", help="Where the metrics page is, if not at the profile's path.")
@click.option("--health-path", metavar="PATH", help="What answers 200 when the server is ready, if not the profile's path.")
@click.option("--metric", "metrics", metavar="ROLE=FAMILY", multiple=True, help="Name a gauge: queue, running or kv.")
@click.option("--select", "prefixes", metavar="ID-PREFIX", multiple=True, help="Run only the cases under this id.")
@click.option("--level", type=click.Choice(["MUST", "SHOULD", "MAY"]), default="MAY", help="The weakest level to run.")
@click.option(
    "--report",
    "reports",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Write a report: .yaml (ConformanceReport), .html (for people), .xml (JUnit), .md (a CI's step summary) or .ndjson "
    "(every event, from which `report` makes the others).",
)
@click.option(
    "--implementation",
    "implementation",
    metavar="KEY=VALUE",
    multiple=True,
    help="Who is examined, for the report: organization, project, url, version or contact.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="How long to wait for any complete answer.",
)
@click.option(
    "--waivers",
    "waivers_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Failures to put up with: YAML, waivers: [{id, reason, until}].",
)
@click.option("--dry-run", is_flag=True, help="Only show which cases would run.")
def run(
    url: str,
    profile: str | None,
    model: str | None,
    metrics_url: str | None,
    health_path: str | None,
    metrics: tuple[str, ...],
    prefixes: tuple[str, ...],
    level: str,
    reports: tuple[Path, ...],
    implementation: tuple[str, ...],
    timeout_s: float,
    waivers_file: Path | None,
    dry_run: bool,
) -> None:
    """Examine the model server at URL.

    Exit code: 0 nothing is newly broken, 1 a MUST failed, 2 wrong usage, 3 the target cannot be reached.
    """
    from shunter.conformance.core.case import Level, select
    from shunter.conformance.core.events import CaseFinished, conclude
    from shunter.conformance.core.narration import summarise
    from shunter.conformance.core.profile import parse_signals
    from shunter.conformance.core.report import REPORTS, parse_implementation
    from shunter.conformance.core.verdict import exit_code
    from shunter.conformance.core.waivers import expired, load_waivers
    from shunter.conformance.sections import CASES
    from shunter.conformance.shell.runner import examine

    cases = select(CASES, prefixes, Level(level))
    about = parse_implementation(implementation)
    for path in reports:
        _check_report(path, REPORTS)
    waivers = load_waivers(_read(waivers_file), str(waivers_file), {case.id for case in CASES}) if waivers_file else ()
    for waiver in expired(waivers, datetime.now(UTC).date()):
        click.echo(f"the waiver of {waiver.id} ended on {waiver.until}, and counts no longer", err=True)
    exam = examine(
        url,
        cases=cases,
        profile=profile,
        model=model,
        metrics_url=metrics_url,
        health_path=health_path,
        signals=parse_signals(metrics),
        waivers=waivers,
        timeout_s=timeout_s,
    )
    if dry_run:
        for case in cases:
            click.echo(f"{case.level:<6}  {case.id}")
        return
    if sys.stdout.isatty():
        click.echo(f"Looking at {url}; a server that hangs takes up to {timeout_s:g} s for each question.", err=True)
    events: list[Event] = []
    interrupted = False
    try:
        asyncio.run(_attend(exam, events))
    except KeyboardInterrupt:
        interrupted = True
        events.extend(conclude(events, "the exam was interrupted"))
        click.echo("interrupted" if events else "interrupted before the exam began; no report")
    for line in summarise(events):
        click.echo(line)
    for path in reports if events else ():
        _write(path, REPORTS[path.suffix](events, about))
    findings = [(event.level, event.verdict) for event in events if isinstance(event, CaseFinished)]
    raise SystemExit(EXIT_INTERRUPTED if interrupted else exit_code(findings))


@main.command()
@click.argument("source", metavar="RUN.ndjson", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-o",
    "--output",
    "outputs",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="What to write; the suffix chooses the form, as for `run --report`.",
)
@click.option("--implementation", metavar="KEY=VALUE", multiple=True, help="As for `run`.")
def report(source: Path, outputs: tuple[Path, ...], implementation: tuple[str, ...]) -> None:
    """Make other reports of an exam that is over."""
    from shunter.conformance.core.comparison import read_events
    from shunter.conformance.core.events import Started
    from shunter.conformance.core.report import REPORTS, parse_implementation

    about = parse_implementation(implementation)
    for path in outputs:
        _check_report(path, REPORTS)
    events = read_events(_read(source), str(source))
    if not any(isinstance(event, Started) for event in events):
        raise UsageError(f"{source}: there is no exam in it")
    for path in outputs:
        _write(path, REPORTS[path.suffix](events, about))


@main.command()
@click.argument("before", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, dir_okay=False))
def compare(before: Path, after: Path) -> None:
    """Say what changed from one report to another (.yaml or .ndjson).

    Exit code: 0 nothing got worse, 1 something did, or a MUST fails that was not asked before; 2 wrong usage.
    """
    from shunter.conformance.core import comparison

    read = [comparison.read_findings(_read(path), str(path)) for path in (before, after)]
    differences = comparison.compare(*read)
    for line in comparison.describe(differences):
        click.echo(line)
    worse = len(comparison.regressions(differences))
    click.echo(f"{len(differences)} of {len({*read[0], *read[1]})} cases differ, {worse} for the worse")
    raise SystemExit(1 if worse else 0)


@main.command("list")
@click.argument("prefixes", metavar="[ID-PREFIX]...", nargs=-1)
def list_cases(prefixes: tuple[str, ...]) -> None:
    """List the cases: level, id and requirement."""
    from shunter.conformance.core.case import select
    from shunter.conformance.sections import CASES

    for case in select(CASES, prefixes):
        click.echo(f"{case.level:<6}  {case.id:<32}  {case.requirement}")


@main.command()
@click.argument("case_id", metavar="ID")
def explain(case_id: str) -> None:
    """Say what a case requires, why, who says so, and which servers are excused."""
    from shunter.conformance.core import narration
    from shunter.conformance.core.case import find
    from shunter.conformance.sections import CASES

    for line in narration.explain(find(CASES, case_id)):
        click.echo(line)


async def _attend(exam: "AsyncGenerator[Event]", events: "list[Event]") -> None:
    """Follow an exam and show it while it happens."""
    from shunter.conformance.core.narration import narrate

    async with aclosing(exam):
        async for event in exam:
            events.append(event)
            for line in narrate(event):
                label, space, rest = line.partition(" ")
                click.echo((click.style(label, fg=COLOURS[label]) if label in COLOURS else label) + space + rest)


def _check_report(path: Path, suffixes: "Iterable[str]") -> None:
    if path.suffix not in suffixes:
        raise UsageError(f"--report {path}: want a file name that ends in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"--report {path}: there is no directory {path.parent}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {path}: {error.strerror}") from None
