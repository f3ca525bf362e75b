"""``migrate-values``: values of other Helm charts for pickers become those of Shunter's."""

import click

from shunter.envoyconf.cli.asking import plain_errors, show, tell
from shunter.envoyconf.cli.lint import read_sources

__all__ = ["migrate_values"]


@click.command()
@click.option(
    "-f", "--file", "source", metavar="FILE|-", help="Values of GIE's chart or of llm-d's.  [default: what is piped in]"
)
def migrate_values(source: str | None) -> None:
    """Print values for Shunter's chart from GIE's or llm-d's.

    Theirs are those of `inferencepool` or of the router; ours is deploy/chart.

    Standard error tells of each where it went, or why it is left out. Exit codes: 0 done; 2 usage, or a file that is neither.
    """
    from shunter.envoyconf.core.kube.chart_values import convert
    from shunter.envoyconf.core.render import HEADER, render

    with plain_errors():
        for file, text in read_sources((source,) if source else (), "migrate-values").items():
            conversion = convert(text, file)
            show(render(conversion.values).removeprefix(HEADER))
            for note in conversion.notes:
                tell(note)
