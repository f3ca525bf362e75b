"""The command line of the picker: run it, check its configuration, list its plugins."""

import math
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import click

__all__ = ["main"]

T = TypeVar("T")
PORT = click.IntRange(0, 65535)

# Each follows all others: from about five on a pick of 1 KB costs twice what it costs one (docs/decisions/007). More is a slip.
MOST_WORKERS = 64


class Number(click.FloatRange):
    """A number in a range: nan is neither in it nor out of it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan."""
        number = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is not a number.", param, ctx) if math.isnan(number) else number


# Of a gateway that knows a single port: few enough that it opens several connections under load, and renewed often enough that
# a worker that was started again has its share within half a minute.
ONE_PORT_STREAMS = 16
ONE_PORT_AGE_S = 20.0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """The endpoint picker: Envoy asks, it names the model server."""


@main.command()
@click.option(
    "--role",
    type=click.Choice(["endpoint-picker", "body-router"]),
    default="endpoint-picker",
    show_default=True,
    help="A body-router names each request's model in headers, for a gateway to route by, and picks nobody.",
)
@click.option(
    "--config",
    "--config-file",
    "config_file",
    type=click.Path(path_type=Path),
    help="EndpointPickerConfig file; the built-in default without it. Of a body-router: ConfigMaps of base models.",
)
@click.option("--config-text", help="The same, as text instead of a file.")
@click.option("--builtin", metavar="NAME", help="A configuration that comes with the picker: see the command builtins.")
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    help="Directory into which the scraper publishes; a body-router needs none.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on, or unix:PATH.")
@click.option(
    "--socket-mode",
    type=click.Choice(["0600", "0660", "0666"]),
    default="0600",
    show_default=True,
    help="Who may ask at unix:PATH: its user, its group as well, everybody.",
)
@click.option(
    "--port",
    "ports",
    type=PORT,
    multiple=True,
    show_default="9002, of a body-router 9004",
    help="ext_proc. Further workers have the next free numbers, unless it is given once for each.",
)
@click.option("--health-port", type=PORT, show_default="9003, of a body-router 9005", help="gRPC health, for probes.")
@click.option("--admin-host", default="127.0.0.1", show_default=True, help="Address of the admin pages; :: is every one.")
@click.option("--admin-port", type=PORT, default=9090, show_default=True, help="Metrics, fleet and decisions, by HTTP.")
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS), show_default="cores - 1", help="Processes that answer Envoy.")
@click.option(
    "--collector-port",
    type=PORT,
    show_default="no collector",
    help="Take Envoy's records of requests here: times, tokens, and the account of dead workers' requests.",
)
@click.option(
    "--collector-host",
    default="127.0.0.1",
    show_default=True,
    help="Address for them. Whoever reaches it is believed: let nobody do so but gateways.",
)
@click.option(
    "--share",
    "share_url",
    envvar="SHUNTER_SHARE_URL",
    metavar="URL",
    show_default="each replica knows of itself",
    help="A Redis by which replicas tell each other what they send where: redis[s]://[USER:PASSWORD@]HOST:PORT.",
)
@click.option("--share-group", default="default", show_default=True, help="Which replicas do: those of the same name there.")
@click.option("--one-port", is_flag=True, help="All workers on --port, for gateways that know a single one.")
@click.option(
    "--max-streams",
    type=click.IntRange(1, (1 << 31) - 1),
    show_default="65536, with --one-port 16",
    help="Requests at once on a connection; a gateway opens another one beyond it.",
)
@click.option(
    "--connection-max-age",
    "max_age_s",
    type=Number(1),
    show_default="forever, with --one-port 20",
    help="Seconds after which a gateway is told to open a new connection, more or less.",
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    show_default="in shared memory, by the port's number",
    help="Directory for what the workers share.",
)
@click.option(
    "--service-levels",
    type=click.Path(path_type=Path),
    help="What is fast enough for whom, as YAML: requests and good ones are counted by level. Reloaded with the configuration.",
)
@click.option(
    "--metric-names",
    type=click.Choice(["current", "legacy", "both"]),
    default="current",
    show_default=True,
    help="Show metrics under the reference's names of today, those of its older releases, or both.",
)
@click.option("--watch-config", is_flag=True, help="Reload when the configuration file changes, as at SIGHUP.")
@click.option(
    "--reload-max-change",
    type=Number(0, 1),
    show_default="no limit",
    help="Keep the configuration if a new one would change more than this part of the last picks.",
)
@click.option(
    "--record-decisions",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a sample of decisions into this directory, as lines of JSON; of each worker the last 64 to 128 MiB are kept.",
)
@click.option(
    "--record-sample",
    type=Number(0, 1),
    default=0.1,
    show_default=True,
    help="The part of decisions that is written.",
)
@click.option(
    "--shadow-config",
    type=click.Path(path_type=Path),
    help="An EndpointPickerConfig that decides a sample of requests too, without a say: /debug/shadow compares.",
)
@click.option(
    "--shadow-sample",
    type=Number(0, 1),
    default=0.05,
    show_default=True,
    help="The part of requests that it decides.",
)
@click.option(
    "--transport",
    type=click.Choice(["native", "grpcio"]),
    default="native",
    show_default=True,
    help="Who speaks gRPC: the picker itself, or the gRPC library.",
)
@click.option(
    "--body-bytes",
    type=int,
    default=32 << 20,
    show_default=True,
    help="Largest request body; the gateway's limit (envoyconf's limits.bodyBytes) should be the same.",
)
@click.option(
    "--buffered-bytes",
    type=int,
    default=256 << 20,
    show_default=True,
    help="Unfinished bodies altogether, in each worker; beyond it 503.",
)
@click.option(
    "--tls-cert-file",
    type=click.Path(path_type=Path),
    help="The picker's certificate with its chain, PEM; ext_proc is then TLS.",
)
@click.option("--tls-key-file", type=click.Path(path_type=Path), help="Its key, PEM, without a password.")
@click.option(
    "--tls-client-ca-file",
    type=click.Path(path_type=Path),
    help="CAs, PEM; only who shows a certificate of theirs is let in. All three files are read again when they change.",
)
@click.option("--pool", help="Serve this InferencePool only: a name, or namespace/name.")
@click.option(
    "--serve-models",
    is_flag=True,
    help="Answer GET /v1/models here: all that clients may ask for, by rules, adapters or the engines' own lists "
    "(shunter scraper run --models-interval); of a body-router, the models in its ConfigMaps.",
)
@click.option(
    "--drain-timeout",
    "drain_s",
    type=Number(0),
    default=30.0,
    show_default=True,
    help="Seconds for requests to end after SIGTERM.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged at least. PUT /debug/log-level changes it; SIGUSR2 makes it debug, and undoes that.",
)
@click.option(
    "--log-decisions",
    type=Number(0, 1),
    default=0.0,
    show_default=True,
    help="The part of decisions that has a line in the log, with how the request went: never its prompt.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="A line of the log: for whom."
)
def run(
    role: Literal["endpoint-picker", "body-router"],
    config_file: Path | None,
    config_text: str | None,
    builtin: str | None,
    snapshot: Path | None,
    host: str,
    socket_mode: Literal["0600", "0660", "0666"],
    ports: tuple[int, ...],
    health_port: int | None,
    admin_host: str,
    admin_port: int,
    workers: int | None,
    collector_port: int | None,
    collector_host: str,
    share_url: str | None,
    share_group: str,
    one_port: bool,
    max_streams: int | None,
    max_age_s: float | None,
    runtime: Path | None,
    service_levels: Path | None,
    metric_names: Literal["current", "legacy", "both"],
    watch_config: bool,
    reload_max_change: float | None,
    record_decisions: Path | None,
    record_sample: float,
    shadow_config: Path | None,
    shadow_sample: float,
    transport: Literal["native", "grpcio"],
    body_bytes: int,
    buffered_bytes: int,
    tls_cert_file: Path | None,
    tls_key_file: Path | None,
    tls_client_ca_file: Path | None,
    pool: str | None,
    serve_models: bool,
    drain_s: float,
    log_level: Literal["debug", "info", "warning", "error"],
    log_decisions: float,
    log_format: Literal["text", "json"],
) -> None:
    """Answer Envoy until SIGTERM or SIGINT. SIGHUP reloads the configuration, and loses no request."""
    # Who wants a reload before the configuration has been read gets what it wants.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    click.get_current_context().call_on_close(lambda: signal.signal(signal.SIGHUP, before))
    from shunter.picker.config.tracing import read_tracing
    from shunter.picker.core.limits import Limits
    from shunter.picker.shell import arguments, collector, layout, sharer, supervisor, worker
    from shunter.picker.transport.server import MAX_STREAMS

    routes = role == "body-router"
    if snapshot is None and not routes:
        raise click.UsageError("Missing option '--snapshot': the directory into which the scraper publishes")
    if routes and pool is not None:
        raise click.UsageError("--pool is for endpoint pickers: a body-router names models and asks no pool; leave it out")
    if socket_mode != "0600" and not host.startswith(layout.UNIX):
        raise click.UsageError("--socket-mode is for sockets in the file system: give it with --host unix:PATH")
    ports = ports or ((9004,) if routes else (9002,))
    if health_port is None:
        health_port = 9005 if routes else 9003
    runtime = runtime or _or_complain(lambda: arguments.choose_runtime(ports[0]))
    snapshot = snapshot or runtime
    settings = layout.Settings(
        worker=worker.Settings(
            snapshot=snapshot,
            role=role,
            serve_models=serve_models,
            shadow=None if shadow_config is None else _or_complain(lambda: arguments.read_valid(shadow_config)[0]),
            shadow_sample=shadow_sample,
            record=None if record_decisions is None else _or_complain(lambda: arguments.make_directory(record_decisions)),
            record_sample=record_sample,
            log_decisions=log_decisions,
            tracing=_or_complain(lambda: read_tracing(os.environ)),
            host=host,
            socket_mode=int(socket_mode, 8),
            health_port=health_port,
            transport=transport,
            tls=arguments.choose_tls(tls_cert_file, tls_key_file, tls_client_ca_file),
            pool=pool,
            drain_s=drain_s,
            limits=_or_complain(lambda: Limits(body_bytes, buffered_bytes)),
            max_streams=max_streams or (ONE_PORT_STREAMS if one_port else MAX_STREAMS),
            max_age_s=max_age_s or (ONE_PORT_AGE_S if one_port else None),
        ),
        ports=ports,
        workers=workers or max(len(ports), len(os.sched_getaffinity(0)) - 1),
        sharer=None if share_url is None else sharer.Settings(url=share_url, group=share_group, snapshot=snapshot),
        collector=None
        if collector_port is None
        else collector.Settings(snapshot=snapshot, host=collector_host, port=collector_port, pool=pool),
        runtime=runtime,
        config_file=config_file,
        levels_file=service_levels,
        admin_host=admin_host,
        admin_port=admin_port,
        one_port=one_port,
        metric_names=metric_names,
        watch_config=watch_config,
        reload_max_change=reload_max_change,
        log_level=log_level,
        log_format=log_format,
    )
    read = arguments.source(config_file, config_text, builtin, default="" if routes else None)
    read_levels = arguments.source(service_levels, None, None, default="")
    sys.exit(_or_complain(lambda: supervisor.run(settings, read, read_levels)))


@main.command()
@click.option(
    "-f",
    "--file",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="EndpointPickerConfig file.",
)
@click.option("--config-text", help="The same, as text instead of a file.")
@click.option("--builtin", metavar="NAME", help="A configuration that comes with the picker: see the command builtins.")
@click.option(
    "--profile",
    type=click.Choice(["lean", "usage", "strict", "headers", "full", "native"]),
    default="lean",
    show_default=True,
    help="How the gateway asks the picker, which decides what it can see of responses.",
)
@click.option(
    "--snapshot", type=click.Path(path_type=Path), help="Directory into which a scraper publishes: do filters leave anybody?"
)
@click.option("--against", metavar="URL", help="Admin pages of a running picker: what would change of its last picks?")
@click.option("--decisions", type=click.File("rb"), help="The same of a file of recorded decisions (/debug/precedents).")
@click.option("--strict", is_flag=True, help="End with 1 if there are warnings.")
def check(
    config_file: Path | None,
    config_text: str | None,
    builtin: str | None,
    profile: str,
    snapshot: Path | None,
    against: str | None,
    decisions: BinaryIO | None,
    strict: bool,
) -> None:
    """Validate a configuration, and warn about what cannot work. It is printed with every default filled in.

    The configuration goes to stdout; the warnings, and what would change, to stderr. Ends with 2 if it cannot be used.
    """
    from shunter.picker import config
    from shunter.picker.shell import arguments

    _, plan = _or_complain(lambda: arguments.read_valid(config_file, config_text, builtin))
    warnings = config.review(plan, profile)
    if snapshot is not None:
        warnings += config.review_fleet(plan, _or_complain(lambda: arguments.read_fleet(snapshot)), random.Random())  # noqa: S311  no secret
    click.echo(config.effective(plan), nl=False)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if against is not None or decisions is not None:
        for line in _or_complain(lambda: arguments.hold_trial(plan, against, decisions)):
            click.echo(line, err=True)
    sys.exit(1 if warnings and strict else 0)


@main.command()
@click.argument("type_name", metavar="[TYPE]", required=False)
def plugins(type_name: str | None) -> None:
    """List the plugins for configurations, or describe one. What it does, its parameters, what it needs."""
    from shunter.picker.config import manual

    if type_name is not None:
        click.echo(manual.describe(_or_complain(lambda: manual.look_up(type_name))), nl=False)
        return
    for kind, entries in manual.registrations_by_kind():
        click.echo(f"{manual.plural(kind)}:")
        width = max(len(entry.type_name) for entry in entries)
        for entry in entries:
            standing = "deprecated" if entry.replacement else entry.stability
            click.echo(f"  {entry.type_name:<{width}}  {standing:<10}  {manual.prose(entry.plugin).splitlines()[0]}")


@main.command()
@click.argument("name", required=False)
def builtins(name: str | None) -> None:
    """List the configurations that come with the picker, or print one."""
    from shunter.picker import config

    if name is not None:
        click.echo(_or_complain(lambda: config.read_builtin(name)), nl=False)
        return
    names = config.builtin_names()
    for each in names:
        click.echo(f"{each:<{max(map(len, names))}}  {config.about_builtin(each)}")


@main.command()
@click.option("--kubernetes", is_flag=True, help="As a PrometheusRule, for the Prometheus Operator.")
@click.option("--runbook", metavar="URL", help="Where the alerts' links lead; docs/runbook.md unless you publish it.")
def rules(kubernetes: bool, runbook: str | None) -> None:
    """Print alerts and the rules of service levels, for Prometheus."""
    import yaml

    from shunter.picker.core import rules

    groups = rules.rules(runbook or rules.RUNBOOK)
    document = rules.prometheus_rule(groups) if kubernetes else groups
    click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=math.inf), nl=False)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    import msgspec

    from shunter.picker import config

    click.echo(msgspec.json.format(msgspec.json.encode(config.schema()), indent=2))


def _or_complain(act: Callable[[], T]) -> T:
    from shunter.picker.errors import PickerError

    try:
        return act()
    except PickerError as error:
        click.echo(f"shunter picker: {error}", err=True)
        raise click.exceptions.Exit(2) from error
