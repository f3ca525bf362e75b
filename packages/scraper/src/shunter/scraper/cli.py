"""The commands: ``shunter scraper run`` and ``shunter scraper probe``."""

import contextlib
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from shunter.scraper.core.slices import Service
    from shunter.scraper.shell.registry import Registry
    from shunter.scraper.shell.service import Scraper

__all__ = ["main"]

M_TRIM_THRESHOLD = -1  # <malloc.h>
# Asking for a list of models takes an engine about as long as a page of metrics.
MODELS_MIN_S = 0.1
SIGNALS = (
    "waiting",
    "running",
    "kv_usage",
    "block_size",
    "num_blocks",
    "max_adapters",
    "running_adapters",
    "waiting_adapters",
)


class Refusal(click.ClickException):
    """What was given cannot be used; nothing was started."""

    exit_code = 2


@click.group()
def main() -> None:
    """Turn model-server metrics and endpoint files into snapshots."""


milliseconds = click.IntRange(1, 60_000)
port = click.IntRange(1, 65_535)


def _namespaces(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no namespace (an empty name would be all of them), and take each once."""
    for name in names:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            raise click.BadParameter(f"{name!r} is no namespace: up to 63 small letters, digits and inner hyphens")
    return tuple(dict.fromkeys(names))


def _services(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> "list[Service]":
    """Read each NAME[:PORT]; refuse two of one name."""
    from shunter.scraper.core.slices import parse_service

    services: dict[str, Service] = {}
    for text in texts:
        service = parse_service(text)
        if service is None:
            raise click.BadParameter(f"{text!r}: write the name of a Service, and after a colon the name or number of a port")
        if services.setdefault(service.name, service) != service:
            raise click.BadParameter(f"{service.name} is named twice, with different ports; a Service is one pool")
    return [*services.values()]


service_option = click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME[:PORT]",
    callback=_services,
    help="Follow a Service as a pool instead of InferencePools; PORT is its pods', by name or number; repeatable.",
)


@main.command()
@click.option(
    "--endpoints",
    type=click.Path(path_type=Path),
    help="File, or directory of files, that says who exists.  [default: a Kubernetes API does]",
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    callback=_namespaces,
    help="Namespace of pools and pods; repeatable.  [default: one's own]",
)
@click.option("--all-namespaces", is_flag=True, help="Follow the pools and pods of every namespace.")
@service_option
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="How to reach the API server.  [default: the pod's service account, else $KUBECONFIG, else ~/.kube/config]",
)
@click.option("--context", help="Which context of the kubeconfig.  [default: its current one]")
@click.option("--write-status", is_flag=True, help="Tell objectives and rewrites in their status whether they count.")
@click.option("--snapshot", type=click.Path(path_type=Path), help="Directory of the snapshot; made if missing.")
@click.option("--interval-min-ms", type=milliseconds, default=50, show_default=True, help="Between scrapes when busy.")
@click.option("--interval-max-ms", type=milliseconds, default=1000, show_default=True, help="When idle, or failing.")
@click.option("--timeout-ms", type=milliseconds, default=1000, show_default=True, help="For all of one scrape.")
@click.option("--kv-events-port", type=port, help="Where engines publish KV events, plus rank.  [default: they do not]")
@click.option("--kv-replay-port", type=port, help="Where they repeat what was missed, plus rank.  [default: they do not]")
@click.option(
    "--models-interval",
    "models_interval_s",
    type=click.FloatRange(0, 86_400),
    default=1,
    show_default=True,
    help="Seconds between asking each engine for its models (GET /v1/models); 0: never.",
)
@click.option(
    "--admin-host", default="127.0.0.1", show_default=True, help="Address of the pages for probes and metrics; :: is every one."
)
@click.option(
    "--admin-port",
    type=click.IntRange(0, 65_535),
    help="Serve /healthz, /readyz and /metrics there; 0 takes any free port.  [default: nowhere]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged at least. SIGUSR2 makes it debug, and undoes that.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="A line of the log: for whom."
)
def run(
    *,
    endpoints: Path | None,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    services: "list[Service]",
    kubeconfig: Path | None,
    context: str | None,
    write_status: bool,
    snapshot: Path | None,
    interval_min_ms: int,
    interval_max_ms: int,
    timeout_ms: int,
    kv_events_port: int | None,
    kv_replay_port: int | None,
    models_interval_s: float,
    admin_host: str,
    admin_port: int | None,
    log_level: Literal["debug", "info", "warning", "error"],
    log_format: Literal["text", "json"],
) -> None:
    """Scrape every endpoint and publish what is known in --snapshot. It ends when interrupted.

    Who exists says a Kubernetes API, or a file.
    """
    if endpoints and (namespaces or all_namespaces or services or kubeconfig or context or write_status):
        raise click.UsageError("either --endpoints says who exists or a Kubernetes API does; leave one of them out")
    if namespaces and all_namespaces:
        raise click.UsageError("--all-namespaces has those of --namespace, too; leave one of them out")
    if services and all_namespaces:
        raise click.UsageError("--service is of the namespaces that are named: --namespace instead of --all-namespaces")
    if snapshot is None:
        raise click.UsageError("say where the snapshot goes: --snapshot DIRECTORY, private and best on tmpfs")
    if 0 < models_interval_s < MODELS_MIN_S:
        raise click.UsageError(f"--models-interval {models_interval_s:g}: at least {MODELS_MIN_S:g} s, or 0 for never")
    if interval_min_ms > interval_max_ms:
        raise click.UsageError(f"--interval-min-ms {interval_min_ms} is more than --interval-max-ms {interval_max_ms}")

    import asyncio
    import signal

    import uvloop

    from shunter.scraper.core.cadence import Cadence
    from shunter.scraper.errors import ConfigError
    from shunter.scraper.shell.kvevents import KvEvents
    from shunter.scraper.shell.models import Models
    from shunter.scraper.shell.service import Scraper
    from shunter.snapshot import SnapshotError, SnapshotWriter
    from shunter.snapshot.stderr import log_to_stderr, toggle_debug

    _keep_freed_memory()
    _take_descriptors()
    log_to_stderr(log_level, log_format, "scraper")
    try:
        snapshot.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"{snapshot}: {error.strerror}; --snapshot is a directory that exists or can be made") from None
    try:
        with (
            contextlib.closing(SnapshotWriter(snapshot)) as writer,
            contextlib.closing(
                KvEvents(snapshot, events_port=kv_events_port, replay_port=kv_replay_port),
            ) as kv_events,
        ):

            async def scrape() -> None:
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, toggle_debug, log_level)
                homes = (None,) if all_namespaces else namespaces
                async with _registry(endpoints, kubeconfig, context, homes, services, write_status=write_status) as registry:
                    scraper = Scraper(
                        registry,
                        writer,
                        cadence=Cadence(interval_min_ms / 1000, interval_max_ms / 1000),
                        timeout_s=timeout_ms / 1000,
                        kv_events=kv_events,
                        models=Models(models_interval_s, timeout_ms / 1000) if models_interval_s else None,
                    )
                    async with _pages(scraper, admin_host, admin_port):
                        _spare_the_collector()
                        await scraper.run()

            uvloop.run(_until_interrupted(scrape()))
    except (ConfigError, SnapshotError) as error:
        raise Refusal(str(error)) from None


@main.command()
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    callback=_namespaces,
    help="Namespace to follow; repeatable.  [default: the account's]",
)
@click.option("--all-namespaces", is_flag=True, help="Allow to follow every namespace.")
@service_option
@click.option("--service-account", default="shunter", show_default=True, help="Who runs the scraper.")
@click.option("--service-account-namespace", "home", default="default", show_default=True, help="And where.")
@click.option("--name", default="shunter-scraper", show_default=True, help="Of the roles and bindings.")
@click.option("--write-status", is_flag=True, help="With what `run --write-status` needs beyond.")
def rbac(
    *,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    services: "list[Service]",
    service_account: str,
    home: str,
    name: str,
    write_status: bool,
) -> None:
    """Print what the scraper must be allowed to do. It is for `kubectl apply -f -`."""
    import yaml

    from shunter.scraper.core.rbac import rbac as manifests
    from shunter.scraper.core.resources import RESOURCES, RESOURCES_OF_SERVICES

    if namespaces and all_namespaces:
        raise click.UsageError("--all-namespaces has those of --namespace, too; leave one of them out")
    wanted = None if all_namespaces else namespaces or (home,)
    resources = RESOURCES_OF_SERVICES if services else RESOURCES
    documents = manifests(name, service_account, home, wanted, resources, write_status=write_status)
    click.echo(yaml.safe_dump_all(documents, sort_keys=False), nl=False)


@main.command()
@click.argument("url")
@click.option("--engine", help="In which dialect to read the page; by default the one it looks like.")
@click.option("--timeout-ms", type=milliseconds, default=1000, show_default=True, help="For all of the scrape.")
def probe(*, url: str, engine: str | None, timeout_ms: int) -> None:
    """Scrape one page once, and print what is read of it. URL is http://127.0.0.1:8000/metrics, say."""
    import asyncio
    import time

    from shunter.scraper.core.dialect import DIALECTS
    from shunter.scraper.core.documents import near
    from shunter.scraper.core.excerpt import printable
    from shunter.scraper.core.exposition import Scanner
    from shunter.scraper.core.fold import fold, guess_engine
    from shunter.scraper.errors import ExpositionError
    from shunter.scraper.shell.fetch import Failure, Fetcher
    from shunter.snapshot import LoadRow

    if engine is not None and engine not in DIALECTS:
        raise click.UsageError(f"{engine!r} is not an engine; {near(engine, DIALECTS)}")
    fetcher = Fetcher(*_target(url, DIALECTS[engine].metrics_path if engine else "/metrics"), timeout_s=timeout_ms / 1000)

    async def fetch() -> bytes | Failure:
        with contextlib.closing(fetcher):
            return await fetcher.get()

    started_s = time.perf_counter()
    answer = asyncio.run(fetch())
    if isinstance(answer, Failure):
        raise click.ClickException(answer.reason)
    click.echo(f"{len(answer)} bytes in {(time.perf_counter() - started_s) * 1000:.0f} ms")
    try:
        page = Scanner().page(answer)
        engine = engine or guess_engine(page)
        if engine is None:
            raise click.ClickException(f"no metric of any engine on the page; known engines: {', '.join(DIALECTS)}")
        row = fold(page, DIALECTS[engine], LoadRow(slot=0, incarnation=0), 0)
    except ExpositionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{'engine':18}{engine}")
    for name in SIGNALS:
        value: float | tuple[str, ...] | None = getattr(row, name)
        shown = ", ".join(value) or "none" if isinstance(value, tuple) else "unknown" if value is None else f"{value:g}"
        click.echo(f"{name:18}{printable(shown)}")


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, up to 16 MiB; does nothing where the C library has no ``mallopt``.

    A page of 56 KB comes and goes at the end of the heap. Giving it back to the kernel and asking for it again costs 13 page
    faults a scrape: 155 instead of 125 µs of CPU with a hundred servers, in turns on one machine.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 16 << 20)


def _take_descriptors() -> None:
    """Take all the descriptors that we may.

    An endpoint needs two, and four more if it publishes KV events. The usual limit, 1,024, is there for programs that still use
    ``select``; whoever minds how many there are sets the hard one, which stays.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _spare_the_collector() -> None:
    """Let the garbage collector look at what is new, and seldom: a scrape leaves nothing that only it could find."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@contextlib.asynccontextmanager
async def _registry(
    endpoints: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    namespaces: "Sequence[str | None]",
    services: "Sequence[Service]",
    *,
    write_status: bool,
) -> "AsyncGenerator[Registry]":
    """Open what says who exists; raises ConfigError."""
    if endpoints is not None:
        from shunter.scraper.shell.files import Files

        yield Files(endpoints)
        return
    from shunter.scraper.errors import ConfigError

    try:
        from shunter.scraper.shell.kube.api import connect
        from shunter.scraper.shell.kube.registry import Kubernetes
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'shunter-scraper[kubernetes]', or use --endpoints") from None
    async with contextlib.AsyncExitStack() as stack:
        try:
            api = await stack.enter_async_context(connect(kubeconfig, context))
        except ConfigError as error:
            raise ConfigError(f"{error}, or say by --endpoints FILE who exists") from None
        yield Kubernetes(api, namespaces or (api.namespace,), services=services, write_status=write_status)


@contextlib.asynccontextmanager
async def _pages(scraper: "Scraper", host: str, port: int | None) -> "AsyncGenerator[None]":
    """Serve a scraper's pages; raises ConfigError."""
    if port is None:
        yield
        return
    import logging

    from shunter.scraper.shell.admin import Admin

    admin = Admin(scraper)
    bound = await admin.start(host, port)
    logging.getLogger("shunter.scraper").info("pages at http://%s:%d", f"[{host}]" if ":" in host else host, bound)
    try:
        yield
    finally:
        await admin.stop()


async def _until_interrupted(running: Coroutine[Any, Any, None]) -> None:
    """Run until SIGINT or SIGTERM."""
    import asyncio
    import signal

    task = asyncio.ensure_future(running)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _target(url: str, default_path: str) -> tuple[str, int, str]:
    refusal = click.UsageError(f"{url!r} is not a URL like http://127.0.0.1:8000/metrics (plain http only)")
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError:
        raise refusal from None
    path = (parts.path or default_path) + (f"?{parts.query}" if parts.query else "")
    if parts.scheme != "http" or not host or not port or not all("!" <= character <= "~" for character in path):
        raise refusal
    return host, port, path


if __name__ == "__main__":
    main()
