"""The command ``shunter envoyconf``: artefacts go to standard output, everything else to standard error.

Exit codes: 0 done; 1 refused, different, or found wanting; 2 usage, or an intent that cannot be used. ``run`` ends as its Envoy
ends.
"""

import click

from shunter.envoyconf.cli.asking import ensure_envoy, plain_errors
from shunter.envoyconf.cli.diff import diff
from shunter.envoyconf.cli.explain import explain, init, schema, targets
from shunter.envoyconf.cli.generate import generate
from shunter.envoyconf.cli.import_ import import_
from shunter.envoyconf.cli.lint import lint
from shunter.envoyconf.cli.migrate import migrate
from shunter.envoyconf.cli.migrate_values import migrate_values
from shunter.envoyconf.cli.run import run
from shunter.envoyconf.cli.serve import serve
from shunter.envoyconf.cli.validate import validate

# The rest is imported by the commands that need it: printing help takes no YAML.
__all__ = ["main"]


@click.group()
def main() -> None:
    """Turn what you want of a gateway into its configuration."""


@main.command()
@click.option("--version", help="Version of Envoy.  [default: the one Shunter is tested with]")
def fetch_envoy(version: str | None) -> None:
    """Make sure there is an Envoy binary, and print its path."""
    with plain_errors():
        click.echo(ensure_envoy(version))


for command in (diff, explain, generate, import_, init, lint, migrate, migrate_values, run, schema, serve, targets, validate):
    main.add_command(command)
