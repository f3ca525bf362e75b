"""``migrate``: objects of old API versions become those of today, comments and order as they are."""

import click

from shunter.envoyconf.cli.asking import plain_errors, show, tell
from shunter.envoyconf.cli.lint import read_sources, show_difference

__all__ = ["migrate"]


@click.command()
@click.option(
    "-f", "--file", "sources", multiple=True, metavar="FILE|DIR|-", help="Kubernetes manifests.  [default: what is piped in]"
)
@click.option("--write", is_flag=True, help="Rewrite the files; otherwise only the difference is shown.")
@click.option(
    "--objective-group",
    type=click.Choice(["llm-d.ai", "inference.networking.x-k8s.io"]),
    default="llm-d.ai",
    show_default=True,
    help="Group of InferenceObjective and InferenceModelRewrite; pickers of GIE 1.0 to 1.5 read the second only.",
)
def migrate(sources: tuple[str, ...], *, write: bool, objective_group: str) -> None:
    """Bring manifests of older API versions to those of today.

    It knows InferencePool v1alpha2, InferenceModel, ReferenceGrant and others.

    Shows the difference; of what is piped in, prints all of it. What has to be done by hand is told on standard error.
    Exit codes: 0 done; 2 usage, or a file that cannot be read.
    """
    from shunter.envoyconf.core.kube.migrate import migrate as migrated
    from shunter.envoyconf.shell.texts import STDIN, replace_text

    with plain_errors():
        for file, text in read_sources(sources, "migrate").items():
            result = migrated(text, file, objective_group)
            if file == STDIN:
                show(result.text)
            elif result.text != text and write:
                replace_text(file, result.text)
                tell(f"rewrote {file}")
            elif result.text != text:
                show_difference(file, text, result.text)
            for note in result.notes:
                tell(f"Note: {note}")
