"""Commands that read: `report`, `compare`, `list` and `explain`."""

from pathlib import Path

import click

from shunter.conformance.cli.files import check_report, read_file, write_reports
from shunter.conformance.errors import UsageError

__all__ = ["compare", "explain", "list_cases", "report"]


@click.command()
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
        check_report(path, REPORTS)
    events = read_events(read_file(source), str(source))
    if not any(isinstance(event, Started) for event in events):
        raise UsageError(f"{source}: there is no exam in it")
    write_reports({path: REPORTS[path.suffix](events, about) for path in outputs})


@click.command()
@click.argument("before", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, dir_okay=False))
def compare(before: Path, after: Path) -> None:
    """Say what changed from one report to another (.yaml or .ndjson).

    Exit code: 0 nothing got worse, 1 something did, or a MUST fails that was not asked before; 2 wrong usage.
    """
    from shunter.conformance.core import comparison

    read = [comparison.read_findings(read_file(path), str(path)) for path in (before, after)]
    differences = comparison.compare(*read)
    for line in comparison.describe(differences):
        click.echo(line)
    worse = len(comparison.regressions(differences))
    click.echo(f"{len(differences)} of {len({*read[0], *read[1]})} cases differ, {worse} for the worse")
    raise SystemExit(1 if worse else 0)


@click.command("list")
@click.argument("prefixes", metavar="[ID-PREFIX]...", nargs=-1)
def list_cases(prefixes: tuple[str, ...]) -> None:
    """List the cases: level, id and requirement."""
    from shunter.conformance.core.case import select
    from shunter.conformance.sections import CASES

    for case in select(CASES, prefixes):
        click.echo(f"{case.level:<6}  {case.id:<32}  {case.requirement}")


@click.command()
@click.argument("prefixes", metavar="ID-PREFIX...", nargs=-1, required=True)
def explain(prefixes: tuple[str, ...]) -> None:
    """Say what cases require, why, who says so, who is excused."""
    from shunter.conformance.core import narration
    from shunter.conformance.core.case import select
    from shunter.conformance.sections import CASES, PROFILES

    told = [narration.explain(case, PROFILES[case.id.partition(".")[0]]) for case in select(CASES, prefixes)]
    click.echo("\n\n".join("\n".join(lines) for lines in told))
