"""The command line of a stack's collector of spans: ``python -m shunter.stack.traces``."""

import asyncio
import signal
import sys
from pathlib import Path

import click

__all__ = ["main"]


@click.command()
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Where to.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=4317, show_default=True, help="OTLP over gRPC.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=4318, show_default=True, help="OTLP over HTTP.")
@click.option("--forward", metavar="URL", help="Pass everything on to this OTLP receiver.")
def main(directory: Path, grpc_port: int, http_port: int, forward: str | None) -> None:
    """Keep the last spans until SIGTERM or SIGINT."""
    try:
        asyncio.run(_run(directory, grpc_port, http_port, forward))
    except OSError as error:
        click.echo(f"Error: {error.strerror or error}", err=True)
        sys.exit(2)


async def _run(directory: Path, grpc_port: int, http_port: int, forward: str | None) -> None:
    from shunter.stack.traces.collector import TraceCollector  # noqa: PLC0415  --help needs no gRPC

    over = asyncio.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(ending, over.set)
    collector = TraceCollector(directory, forward)
    ports = await collector.start(grpc_port, http_port)
    click.echo("spans by OTLP: gRPC on port {}, HTTP on port {}".format(*ports))
    await over.wait()
    await collector.stop()


if __name__ == "__main__":
    main(prog_name="python -m shunter.stack.traces")
