"""The command line of the exam: `run`, `picker` and `gateway` examine, the others read."""

import click

from shunter.conformance.cli.gateways import gateway
from shunter.conformance.cli.manifests import manifests
from shunter.conformance.cli.pickers import picker
from shunter.conformance.cli.reading import compare, explain, list_cases, report
from shunter.conformance.cli.servers import run
from shunter.conformance.errors import UsageError

__all__ = ["main"]


class _Group(click.Group):
    """A group whose commands may raise UsageError."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise click.UsageError(str(error)) from None


@click.group(name="conformance", cls=_Group)
def main() -> None:
    """Examine model servers, endpoint pickers and gateways. Does each keep the protocol of inference gateways?"""


for command in (run, picker, gateway, manifests, report, compare, list_cases, explain):
    main.add_command(command)
