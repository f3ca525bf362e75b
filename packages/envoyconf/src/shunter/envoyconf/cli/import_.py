"""``import``: an existing Envoy bootstrap, or manifests, become an intent as far as there are words for it."""

from typing import TYPE_CHECKING, Any

import click

from shunter.envoyconf.cli.asking import plain_errors, show, tell
from shunter.envoyconf.cli.lint import read_sources

if TYPE_CHECKING:
    from shunter.envoyconf.core.documents import Document

__all__ = ["import_"]


@click.command("import")
@click.option(
    "-f",
    "--file",
    "sources",
    multiple=True,
    metavar="FILE|DIR|-",
    help="An Envoy's bootstrap, config dump or resources; or Kubernetes manifests.  [default: what is piped in]",
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of objects that name none.")
def import_(sources: tuple[str, ...], namespace: str) -> None:
    """Print the intent of an existing configuration. What of it is lost is said, and what is wrong with it.

    Exit codes: 0 an intent that can be used; 1 one that lacks what the configuration does not tell; 2 usage, or nothing that
    could be an intent.
    """
    from shunter.envoyconf.core.documents import Document, load_documents
    from shunter.envoyconf.core.lint.examine import examine
    from shunter.envoyconf.core.lint.report import Report, summary
    from shunter.envoyconf.core.reading import read_intent
    from shunter.envoyconf.core.render import HEADER, render
    from shunter.envoyconf.errors import IntentError

    with plain_errors():
        texts = read_sources(sources, "import")
        documents = [each for file, text in texts.items() for each in load_documents(text, file)]
        plain, notes = _read(documents, namespace)
    show(render(plain).removeprefix(HEADER))
    for note in notes:
        tell(f"Note: {note}")
    if found := examine(documents, namespace=namespace):
        tell(f"Wrong with it: {summary(Report(found))}; `shunter envoyconf lint` tells each")
    try:
        read_intent(Document(plain, "", {(): 1}))
    except IntentError as error:
        tell(f"Incomplete: {error}")
        raise SystemExit(1) from None


def _read(documents: "list[Document]", namespace: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    from shunter.envoyconf.core.importing import import_envoy
    from shunter.envoyconf.core.kube.reading import intent_from

    if any(document.kind for document in documents):
        reading = intent_from(documents, namespace)
        return reading.plain, reading.notes
    imported = import_envoy(documents)
    return imported.plain, imported.notes
