"""`run`: examine a model server."""

import os
import sys
from pathlib import Path

import click

from shunter.conformance.cli.exams import Wishes, exam_options, follow
from shunter.conformance.cli.launching import Sought, sought_options

__all__ = ["run"]


@click.command()
@sought_options
@click.option(
    "--profile",
    "profiles",
    metavar="NAME",
    multiple=True,
    help="What kind of server it is; found out when not given. `gie`: only whether it may stand in an InferencePool.",
)
@click.option("--model", metavar="NAME", help="The model to ask for; the first of /v1/models when not given.")
@click.option("--metrics-url", metavar="URL", help="Where the metrics page is, if not at the profile's path.")
@click.option("--health-path", metavar="PATH", help="What answers 200 when the server is ready, if not the profile's path.")
@click.option("--metric", "metrics", metavar="ROLE=FAMILY", multiple=True, help="Name a gauge: queue, running or kv.")
@click.option(
    "--header",
    "headers",
    metavar="'NAME: VALUE'",
    multiple=True,
    help="Send this with every request, as `Authorization: Bearer ${KEY}`; ${KEY} is of the environment. No report shows it.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Who signed the server's certificate (PEM), beside whom the machine trusts.",
)
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@exam_options
def run(
    wishes: Wishes,
    *,
    sought: Sought,
    profiles: tuple[str, ...],
    model: str | None,
    metrics_url: str | None,
    health_path: str | None,
    metrics: tuple[str, ...],
    headers: tuple[str, ...],
    ca_file: Path | None,
    insecure: bool,
) -> None:
    """Examine the model server at URL, or one that --launch starts.

    Exit code: 0 nothing is newly broken, 1 a MUST failed, 2 wrong usage, 3 the target cannot be reached or started.
    """
    from shunter.conformance.core.events import Side
    from shunter.conformance.core.profile import GIE
    from shunter.conformance.core.signals import parse_signals
    from shunter.conformance.errors import UsageError
    from shunter.conformance.sections.servers import CASES
    from shunter.conformance.shell.access import Access, parse_headers, trust

    kinds = [name for name in profiles if name != GIE]
    if len(kinds) > 1:
        raise UsageError(f"--profile {kinds[1]}: the server is {kinds[0]} already")
    cases = wishes.choose(CASES, GIE if GIE in profiles else None)
    exam = sought.examine(
        cases=cases,
        profile=kinds[0] if kinds else None,
        model=model,
        metrics_url=metrics_url,
        health_path=health_path,
        signals=parse_signals(metrics),
        access=Access(parse_headers(headers, os.environ), trust(ca_file, insecure=insecure)),
        waivers=wishes.waivers,
        timeout_s=wishes.timeout_s,
        tries=wishes.tries,
    )
    if sys.stdout.isatty() and not wishes.dry_run:
        click.echo(f"Looking at {sought}; a server that hangs takes up to {wishes.timeout_s:g} s for each question.", err=True)
    follow(exam, cases, wishes, Side.MODEL_SERVER)
