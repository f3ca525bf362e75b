"""``diff``: what would change if what is generated took the place of what is there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shunter.envoyconf.cli.asking import Request, asks, show

if TYPE_CHECKING:
    from shunter.envoyconf.core.documents import Document

__all__ = ["diff"]

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@asks
@click.argument("against", metavar="FILE|DIR|URL")
def diff(request: Request, against: str) -> None:
    """Show how what is in force differs from what is generated.

    AGAINST is what was generated before, or what `kubectl get -o yaml` printed, or the address of a running Envoy's admin
    interface, such as http://127.0.0.1:9901. Order, comments and defaults are no differences.
    Exit codes: 0 nothing differs; 1 something does; 2 one of the two cannot be read.
    """
    from shunter.envoyconf.core.comparison import compare
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.core.forms import as_files

    output = request.output(directory=Path(against) if Path(against).is_dir() else None)
    new = [each for name, text in as_files(output).items() for each in load_documents(text, name)]
    lines = compare(_old(against), new, request.namespace)
    plain = "NO_COLOR" in os.environ
    for line in lines:
        show((line if plain else click.style(line, fg=COLOURS.get(line[0]))) + "\n")
    if lines:
        raise SystemExit(1)


def _old(against: str) -> "list[Document]":
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.shell.admin import fetch_bootstrap
    from shunter.envoyconf.shell.texts import read_texts

    if against.startswith(("http://", "https://")):
        return [*load_documents(fetch_bootstrap(against), against)]
    texts = read_texts([against])
    return [each for file, text in texts.items() for each in load_documents(text, file)]
