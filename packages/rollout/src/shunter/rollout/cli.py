"""The commands: ``shunter rollout sync`` for adapters, and those that move traffic."""

import click

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Keep adapters loaded, and move traffic from one version of a model to the next."""
