"""The umbrella command ``shunter``, and its own commands ``up``, ``top``, ``explain`` and ``doctor``.

Every package contributes its commands through the entry-point group ``shunter.commands``; a package that is not installed is
simply not there, and none is imported before it is asked for.
"""

import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
from click.core import ParameterSource

__all__ = ["doctor", "explain", "main", "top", "up"]


NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
# A name, an IPv4 address or, in brackets, an IPv6 one, maybe with its zone.
HOST_PORT = re.compile(r"(?:[\w-]{1,63}(?:\.[\w-]{1,63})*\.?|\[[\da-f:.]+(?:%[\w.-]+)?\]):(\d{1,5})", re.ASCII | re.IGNORECASE)


class Commands(click.Group):
    """The commands of all installed packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Name what is installed."""
        return sorted(entry_points(group="shunter.commands").names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        """Import one package's command."""
        for entry_point in entry_points(group="shunter.commands", name=cmd_name):
            return entry_point.load()
        return None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shunter-stack", prog_name="shunter")
def main() -> None:
    """Shunter turns an ordinary Envoy into an LLM-aware gateway.

    Try `shunter up` first: it starts the whole system on this machine and prints a request to paste.
    """


def _check_name(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} must be letters, digits, - or _, at most 40: it names a directory")
    return name


def _check_pages(_context: click.Context, _parameter: click.Parameter, pages: str | None) -> str | None:
    if pages is not None and not ((found := HOST_PORT.fullmatch(pages)) and 0 < int(found[1]) < 1 << 16):
        raise click.BadParameter(f"{pages}: want HOST:PORT of its admin pages, such as 127.0.0.1:9090")
    return pages


def _named(command: click.decorators.FC) -> click.decorators.FC:
    option = click.option(
        "--name",
        default="default",
        show_default=True,
        callback=_check_name,
        help="Which stack, if several run on this machine.",
    )
    return option(command)


def _asking(command: click.decorators.FC) -> click.decorators.FC:
    option = click.option(
        "--picker", metavar="HOST:PORT", callback=_check_pages, help="Ask the picker with these admin pages, not a stack's."
    )
    return option(command)


@click.command()
@_named
@click.option(
    "--engine", type=click.Choice(["lab", "llamacpp"]), default="lab", show_default=True, help="Which model servers to start."
)
@click.option(
    "--engines", "count", type=click.IntRange(1, 64), default=3, show_default=True, help="How many model servers to start."
)
@click.option(
    "--disaggregated",
    is_flag=True,
    help="Let prompts be computed by some engines and answered by others, behind sidecars: --engines of each, 2 by default.",
)
@click.option(
    "--encoders",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    help="Let so many more engines encode pictures for those; without one they read text only.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="URL",
    help="Use a model server that already runs, and start none; repeatable.",
)
@click.option(
    "--dialect", default="vllm", show_default=True, help="Which engine the --backend servers are (their metrics' names)."
)
@click.option(
    "--profile",
    type=click.Choice(["lean", "usage", "strict", "headers", "full", "native"]),
    default="lean",
    show_default=True,
    help="How picker and Envoy share the work.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The gateway's port.")
@click.option(
    "--picker-port",
    type=click.IntRange(0, 65535),
    default=9002,
    show_default=True,
    help="The picker's first ext_proc port; further workers have the next free numbers.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="The picker's processes.")
@click.option("--sockets", is_flag=True, help="Have Envoy ask them at sockets in the file system, not at ports.")
@click.option(
    "--health-port", type=click.IntRange(0, 65535), default=9003, show_default=True, help="The picker's gRPC health port."
)
@click.option(
    "--admin-port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="The picker's metrics and debug port."
)
@click.option(
    "--collector-port",
    type=click.IntRange(0, 65535),
    default=24224,
    show_default=True,
    help="Where Envoy tells the picker of requests that ended.",
)
@click.option(
    "--scraper-port",
    type=click.IntRange(0, 65535),
    default=9091,
    show_default=True,
    help="The scraper's metrics, and what is wrong with objects.",
)
@click.option("--envoy-admin-port", type=click.IntRange(0, 65535), default=9901, show_default=True, help="Envoy's admin port.")
@click.option(
    "--engine-port",
    type=click.IntRange(0, 65535),
    default=8101,
    show_default=True,
    help="The first model server's port; the rest follow.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    help="How fast the lab's engines are; 1 is a small GPU.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The picker's EndpointPickerConfig; by default the one of `shunter picker builtins default`. Edits are followed.",
)
@click.option(
    "--manifests",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML with further objects of the pool `engines`: InferenceObjective, InferenceModelRewrite. Edits are followed.",
)
@click.option(
    "--shadow-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another configuration that decides every request too, without a say: `shunter explain --shadow`.",
)
@click.option(
    "--picker-option",
    "picker_options",
    multiple=True,
    metavar="OPTION",
    help="Whatever else `shunter picker run` takes, such as --picker-option=--log-decisions=1; repeatable.",
)
@click.option(
    "--sidecar-option",
    "sidecar_options",
    multiple=True,
    metavar="OPTION",
    help="Whatever else `shunter lab sidecar` takes, such as --sidecar-option=--prefill-timeout=5; repeatable.",
)
@click.option(
    "--traces", is_flag=True, help="Trace every request through Envoy, picker and engines; in Jaeger too, if it is installed."
)
@click.option(
    "--prometheus", is_flag=True, help="Scrape everything with a Prometheus that is installed, and keep the picker's rules."
)
@click.option(
    "--any-port", is_flag=True, help="Take any free port for everything (stack.json in the runtime directory tells which)."
)
@click.option("--once", is_flag=True, help="Start, prove that a request succeeds, print it, and end.")
@click.pass_context
def up(context: click.Context, **options: object) -> None:
    """Start the whole stack here, from model servers to Envoy.

    Ctrl-C ends everything it started and nothing else.
    """
    for name in ("engine", "count", "engine_port", "speed") if options["backends"] else ("dialect",):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(each.opts[0] for each in context.command.params if each.name == name)
            raise click.UsageError(f"{option} is {'not for' if options['backends'] else 'only for'} --backend servers")
    if options["disaggregated"]:
        if options["backends"] or options["engine"] != "lab":
            raise click.UsageError("--disaggregated is for the lab's engines only")
        if context.get_parameter_source("count") is not ParameterSource.COMMANDLINE:
            options["count"] = 2
    elif options["encoders"]:
        raise click.UsageError("--encoders are only for --disaggregated engines")
    elif options["sidecar_options"]:
        raise click.UsageError("--sidecar-option is only for --disaggregated engines")
    from shunter.stack.errors import StackError
    from shunter.stack.shell.up import Wishes, run

    try:
        sys.exit(run(Wishes(**options)))  # pyright: ignore[reportArgumentType]  click has checked them
    except StackError as error:
        raise click.exceptions.Exit(_complain(error)) from error


@click.command()
@_named
@_asking
@click.option("--once", is_flag=True, help="Print the table once and end.")
def top(name: str, picker: str | None, *, once: bool) -> None:
    """Watch what a picker sees: one line an endpoint.

    Queue, run and KV % are what the engine itself reported, so long ago as age says: requests waiting, requests running,
    cache in use. In flight, picks and hits are the picker's own account: requests sent there that have not ended, all it
    sent there, and how much of their prompts it expected to be cached. A dash is what nobody knows.
    """
    from shunter.stack.errors import StackError
    from shunter.stack.shell.top import watch

    try:
        watch(name, picker, once=once)
    except StackError as error:
        raise click.exceptions.Exit(_complain(error)) from error


@click.command()
@_named
@_asking
@click.option("--last", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many decisions; of one, all.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as a line of JSON for each decision.")
@click.option("--shadow", is_flag=True, help="How the shadow configuration differs (shunter picker run --shadow-config).")
@click.option(
    "--trace", is_flag=True, help="The spans of the last request, or of REQUEST_ID (shunter up --traces); --json: for viewers."
)
@click.argument("request_id", required=False)
def explain(
    name: str, picker: str | None, last: int, request_id: str | None, *, as_json: bool, shadow: bool, trace: bool
) -> None:
    """Tell why the last requests went where they went. A line each; of the one named REQUEST_ID, everything."""
    from shunter.stack.errors import StackError
    from shunter.stack.shell.top import compare_shadow, decisions, pages_of
    from shunter.stack.shell.traces import show_trace

    if trace and picker:
        raise click.UsageError("--trace shows what a stack has kept; of other pickers ask your collector of traces")
    try:
        if trace:
            click.echo(show_trace(name, request_id, as_json=as_json))
            return
        admin = picker or pages_of(name)[0]
        click.echo(compare_shadow(admin) if shadow else decisions(admin, last, request_id, as_json=as_json))
    except StackError as error:
        raise click.exceptions.Exit(_complain(error)) from error


@click.command()
@_named
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Examine a Kubernetes cluster, reached by this file.  [default: as kubectl does]",
)
@click.option("--context", help="Examine a Kubernetes cluster: this context of the kubeconfig.")
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Examine these namespaces of a cluster; repeatable.")
@click.option(
    "--service-account", "account", help="Whose rights are asked for: NAME or NAMESPACE/NAME.  [default: the picker's pods']"
)
@click.option("--picker", "pickers", multiple=True, metavar="HOST:PORT", help="Admin pages of a picker; repeatable.")
@click.option("--scraper", "scrapers", multiple=True, metavar="HOST:PORT", help="Pages of a scraper; repeatable.")
@click.option("--envoy", "envoys", multiple=True, metavar="HOST:PORT", help="Admin pages of an Envoy; repeatable.")
@click.option(
    "--ext-proc", multiple=True, metavar="ADDRESS", help="Where a picker speaks ext_proc: HOST:PORT or unix:PATH; repeatable."
)
@click.option(
    "--server-name", default="", help="The name its certificate must have.  [default: the host of --ext-proc; any at a socket]"
)
@click.option("--json", "as_json", is_flag=True, help="Every answer, as JSON.")
@click.option("--list", "listing", is_flag=True, help="List the checks.")
def doctor(*, as_json: bool, listing: bool, **wanted: object) -> None:
    """Examine what runs, here or on Kubernetes, and say what to do.

    Exit codes: 0 nothing fails; 1 something does; 2 usage, or nothing to examine.
    """
    from shunter.stack.core.doctor import CHECKS, as_text, examine, exit_code
    from shunter.stack.core.doctor import as_json as in_json
    from shunter.stack.errors import StackError
    from shunter.stack.shell.doctor import Wanted, gather

    if listing:
        click.echo("".join(f"{check.id:<15} {check.question}\n" for check in CHECKS), nl=False)
        return
    try:
        answers = examine(gather(Wanted(**wanted)), CHECKS)  # pyright: ignore[reportArgumentType]  click has checked them
    except StackError as error:
        raise click.exceptions.Exit(_complain(error)) from error
    click.echo(in_json(answers) if as_json else as_text(answers))
    raise click.exceptions.Exit(exit_code(answers))


def _complain(error: Exception) -> int:
    click.echo(f"shunter: {error}", err=True)
    return 2


if __name__ == "__main__":
    main(prog_name=f"{Path(sys.executable).name} -m shunter.stack.cli")
