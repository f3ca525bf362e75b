"""``serve``: the control plane of Envoys that are configured while they run."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import click

from shunter.envoyconf.cli.asking import plain_errors, tell, warn

__all__ = ["serve"]

log = logging.getLogger(__name__)


@click.command()
@click.option(
    "-f",
    "--file",
    "sources",
    multiple=True,
    required=True,
    metavar="FILE|DIR",
    help="The intent; a change is taken up when it is valid, else shown on the status pages.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to serve Envoys on; others than loopback want TLS."
)
@click.option("--port", type=click.IntRange(0, 65535), default=18000, show_default=True, help="Port to serve Envoys on.")
@click.option("--status-host", default="127.0.0.1", show_default=True, help="Address of the status pages and metrics.")
@click.option(
    "--status-port",
    type=click.IntRange(0, 65535),
    default=18001,
    show_default=True,
    help="Port of the status pages and metrics.",
)
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    help="Directory into which a scraper publishes: endpoints follow it.  [default: those of the intent]",
)
@click.option(
    "--learned",
    type=click.Path(path_type=Path),
    help="--runtime of a picker whose collector learns how fast endpoints are: weights in the profile native heed it.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the files of the target envoy-fs here up to date for Envoys of this machine, instead of serving by network.",
)
@click.option("--envoy-version", help="The oldest Envoy that is served, such as 1.38.  [default: the newest that is known]")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM file of the certificate; replaced ones are taken up.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file of its key.")
@click.option(
    "--client-ca", type=click.Path(path_type=Path), help="PEM file of the CAs that must have signed an Envoy's certificate."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What is said on standard error: for whom.",
)
def serve(
    sources: tuple[str, ...],
    host: str,
    port: int,
    status_host: str,
    status_port: int,
    snapshot: Path | None,
    learned: Path | None,
    directory: Path | None,
    envoy_version: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    log_format: Literal["text", "json"],
) -> None:
    """Configure Envoys while they run. The intent's resources go by xDS, endpoints as the scraper sees them.

    Envoys are started with what `generate --target xds` prints. They lose nothing when this ends, and take up what has
    changed when it is back.
    """
    import asyncio
    from ipaddress import ip_address

    from shunter.envoyconf.core.authority import check_address
    from shunter.envoyconf.core.output import Settings
    from shunter.envoyconf.core.versions import DEFAULT_VERSION, parse_version
    from shunter.envoyconf.shell.ads import Keys
    from shunter.envoyconf.shell.plane import Place, Sight, run
    from shunter.snapshot.stderr import log_to_stderr

    if "-" in sources:
        raise click.UsageError("-f -: what is served is read again when it changes; give a FILE or DIR")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key are of no use without each other")
    if client_ca and not tls_cert:
        raise click.UsageError("--client-ca needs --tls-cert and --tls-key: without TLS nobody shows a certificate")
    if directory and tls_cert:
        raise click.UsageError("--directory is for Envoys that read files: nobody connects, and --tls-cert is of no use")
    say, heed = tell, warn
    if log_format == "json":
        log_to_stderr("info", log_format, "envoyconf")
        say, heed = log.info, _log_warnings
    keys = Keys(tls_cert, tls_key, client_ca) if tls_cert and tls_key else None
    place = Place(host=host, port=port, keys=keys, status_host=status_host, status_port=status_port, directory=directory)
    sight = Sight(sources=sources, snapshot=snapshot, learned=learned)
    with plain_errors():
        for address in (host, status_host):
            check_address(address)
        if not (client_ca or directory or ip_address(host).is_loopback):
            heed([f"whoever reaches {host} is told the configuration, clients' API keys too; --client-ca lets Envoys in only"])
        settings = Settings(envoy_version=parse_version(envoy_version) if envoy_version else DEFAULT_VERSION)
        asyncio.run(run(sight, place, settings, say, heed))


def _log_warnings(messages: Iterable[str]) -> None:
    for message in messages:
        log.warning("%s", message)
