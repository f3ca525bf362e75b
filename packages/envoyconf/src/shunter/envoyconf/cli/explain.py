"""``explain``, ``targets``, ``schema`` and ``init``: what there is to know before anything is generated."""

import click

from shunter.envoyconf.cli.asking import plain_errors, show

__all__ = ["explain", "init", "schema", "targets"]

# What editors with a YAML language server look for in the first lines.
STARTER = """\
# yaml-language-server: $schema=./intent.schema.json
# Made by: shunter envoyconf init. The schema beside it: shunter envoyconf schema > intent.schema.json
pools:
- name: llama
  endpoints: ["127.0.0.1:8001", "127.0.0.1:8002"]  # the model servers
  picker:
    addresses: ["127.0.0.1:9002"]  # shunter picker run
observability:
  servedHeader: true  # which model server answered; shows internal addresses to clients
admin:
  port: 9901  # on loopback only
"""


@click.command()
@click.argument("word", metavar="FIELD|PROFILE|TARGET|CODE")
def explain(word: str) -> None:
    """Explain a field of the intent, a profile, target or rule. Rules are the linter's.

    A field by its path, such as limits.retries, or by its name; what is spelt wrong is met with what is spelt alike.
    """
    from shunter.envoyconf.core import manual

    with plain_errors():
        show(manual.explain(word))


@click.command()
def targets() -> None:
    """Print which gateway can do which profile. By its own means, by a patch, or not at all."""
    from shunter.envoyconf.core.manual import support_table

    rows = support_table()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


@click.command()
def schema() -> None:
    """Print the JSON Schema of an intent. It has the meaning and the default of every field."""
    from shunter.envoyconf.core.reading import intent_schema
    from shunter.envoyconf.core.render import render

    show(render(intent_schema(), "json"))


@click.command()
def init() -> None:
    """Print an intent to begin with. Editors complete it with the help of the schema that its first line names."""
    show(STARTER)
