"""The command ``shunter envoyconf``: artefacts go to standard output, everything else to standard error.

Exit codes: 0 done; 1 Envoy refused or could not be had; 2 usage, or an intent that cannot be used.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import click

from shunter.envoyconf.cli.lint import lint
from shunter.envoyconf.cli.migrate import migrate
from shunter.envoyconf.cli.serve import serve

# The rest is imported by the commands that need it: printing help takes no YAML.
__all__ = ["main"]

intent_file = click.option(
    "-f",
    "--file",
    "source",
    type=click.File(encoding="utf-8"),
    default="-",
    help="The intent, YAML or JSON.  [default: what is piped in]",
)


@click.group()
def main() -> None:
    """Turn what you want of a gateway into the configuration of an Envoy."""


main.add_command(lint)
main.add_command(migrate)
main.add_command(serve)


@main.command()
@intent_file
@click.option(
    "-o", "form", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="Form of the bootstrap."
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of standard output."
)
def generate(source: IO[str], form: Literal["yaml", "json"], output: Path | None) -> None:
    """Print the Envoy bootstrap for an intent."""
    text = _generate(source, form)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise click.UsageError(f"cannot write {output}: {error.strerror}") from None


@main.command()
@intent_file
def validate(source: IO[str]) -> None:
    """Ask the real Envoy whether it accepts the bootstrap for an intent."""
    from shunter.envoyconf.shell import envoy

    text = _generate(source, "yaml")
    with _plain_errors():
        binary = _ensure_envoy(None)
        envoy.validate(text, binary)
    click.echo(f"accepted by {binary}", err=True)


@main.command()
def schema() -> None:
    """Print the JSON Schema of an intent, with the meaning and default of every field."""
    from shunter.envoyconf.core.reading import intent_schema
    from shunter.envoyconf.core.render import render

    click.echo(render(intent_schema(), "json"), nl=False)


@main.command()
@click.option("--version", help="Version of Envoy.  [default: the one Shunter is tested with]")
def fetch_envoy(version: str | None) -> None:
    """Make sure that there is an Envoy binary, and print its path."""
    with _plain_errors():
        click.echo(_ensure_envoy(version))


def _generate(source: IO[str], form: Literal["yaml", "json"]) -> str:
    from shunter.envoyconf import bootstrap, load_intent, render

    if source.isatty():
        raise click.UsageError("no intent: give -f FILE, or pipe one in")
    try:
        text = source.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the intent is not UTF-8: {error}") from None
    with _plain_errors():
        return render(bootstrap(load_intent(text)), form)


def _ensure_envoy(version: str | None) -> Path:
    """Return an Envoy binary, saying so if it has to be fetched."""
    from shunter.envoyconf.shell import envoy

    if binary := envoy.find(version):
        return binary
    click.echo(f"fetching Envoy {version or envoy.VERSION} (37 MB, once) …", err=True)
    return envoy.fetch(version or envoy.VERSION)


@contextmanager
def _plain_errors() -> Generator[None]:
    """Turn our errors into one message and an exit code."""
    from shunter.envoyconf.errors import EnvoyconfError, IntentError

    try:
        yield
    except EnvoyconfError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2 if isinstance(error, IntentError) else 1) from None
