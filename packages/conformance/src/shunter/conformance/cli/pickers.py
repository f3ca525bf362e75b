"""`picker`: examine an endpoint picker, as the proxy before it and the model servers behind it."""

import os
from pathlib import Path

import click

from shunter.conformance.cli.exams import Wishes, exam_options, follow

__all__ = ["picker"]


@click.command()
@click.argument("words", metavar="[HOST:PORT] [-- ARGUMENT…]", nargs=-1)
@click.option("--servers", metavar="HOST:PORT,…", help="The endpoints that the picker was told of: the exam listens there.")
@click.option("--dialect", default="vllm", show_default=True, metavar="NAME", help="Whose metrics these model servers have.")
@click.option("--health", metavar="HOST:PORT", help="Where its gRPC health is asked for, if not where it picks.")
@click.option("--metrics-url", metavar="URL", help="Where its metrics page is.")
@click.option("--profile", metavar="NAME", help="What kind of picker it is.")
@click.option("--tls", is_flag=True, help="Speak TLS to it, and take any certificate.")
@click.option("--launch", type=click.Choice(["shunter", "epp"]), help="Start one: Shunter's, or llm-d's Go picker.")
@click.option(
    "--bin", "binary", default="", metavar="PROGRAM", help="What --launch runs: the command `shunter`, or the binary epp."
)
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The EndpointPickerConfig that --launch gives it, instead of the exam's own.",
)
@click.option(
    "--envoy",
    metavar="PROGRAM",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The binary of an Envoy, through which it is examined too.",
)
@click.option(
    "--patience", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="A factor on every time limit."
)
@exam_options
def picker(
    wishes: Wishes,
    words: tuple[str, ...],
    *,
    servers: str | None,
    dialect: str,
    health: str | None,
    metrics_url: str | None,
    profile: str | None,
    tls: bool,
    launch: str | None,
    binary: str,
    config: Path | None,
    envoy: Path | None,
    patience: float,
) -> None:
    """Examine the picker at HOST:PORT, or one that --launch starts.

    The exam is the proxy before it and, at the addresses of --servers, the model servers behind it. What stands behind -- is
    for the command of a picker that is started.

    Exit code: 0 nothing is newly broken, 1 a MUST failed, 2 wrong usage, 3 the picker cannot be reached or started.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # the library tells of every connection that a picker closes
    from shunter.conformance.core.events import Side
    from shunter.conformance.errors import UsageError
    from shunter.conformance.sections.pickers import CASES
    from shunter.conformance.shell.pickers.exam import examine
    from shunter.conformance.shell.pickers.launching import Process
    from shunter.conformance.shell.pickers.recipes import RECIPES

    if not launch and len(words) != 1:
        raise UsageError("want one HOST:PORT, or --launch KIND")
    if not launch and (binary or config):
        raise UsageError("--bin and --config are for a picker that --launch starts")
    if launch and (health or metrics_url):
        raise UsageError(
            "--health and --metrics-url are for a picker at an address; one that --launch starts is asked where it serves"
        )
    cases = wishes.choose(CASES)
    exam = examine(
        Process(RECIPES[launch](binary, words), config) if launch else words[0],
        servers=servers.split(",") if servers else (),
        dialect=dialect,
        cases=cases,
        profile=profile,
        health=health,
        metrics_url=metrics_url,
        tls=tls,
        envoy=envoy,
        waivers=wishes.waivers,
        timeout_s=wishes.timeout_s,
        patience=patience,
        tries=wishes.tries,
    )
    follow(exam, cases, wishes, Side.PICKER)
