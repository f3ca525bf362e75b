"""Configurations inside of ConfigMaps, where charts put the bootstrap of an Envoy beside a picker, and Envoy Gateway's own."""

import re
from collections.abc import Iterable, Iterator

import msgspec

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.documents import Document, load_documents
from shunter.envoyconf.core.lint.envoy.view import view
from shunter.envoyconf.errors import IntentError

__all__ = ["embedded"]

# A word of each text that is looked for: others, such as dashboards, are long and need not be parsed.
WORTH_READING = re.compile(r"static_?[rR]esources|type\.googleapis\.com|kind: *EnvoyGateway\b")


def embedded(documents: Iterable[Document]) -> Iterator[tuple[Document, ...]]:
    """Yield the configurations of each ConfigMap that has any, with the lines that they have in the file."""
    for document in documents:
        if document.kind == "ConfigMap":
            texts = Cursor.root(document)["data"].fields()
            if inner := tuple(each for _, text in texts for each in _read(document, text)):
                yield inner


def _read(document: Document, at: Cursor) -> Iterator[Document]:
    if not WORTH_READING.search(at.text):
        return
    try:
        inner = load_documents(at.text, document.file)
    except IntentError:  # anybody's text, which need not be YAML
        return
    first = document.line(at.path)
    # A block of text begins below its key; what is written in one line with its key has no lines of its own.
    after = min((line for line in document.lines.values() if line > first), default=None)
    is_block = "\n" in at.text.strip() and (after is None or after > first + at.text.rstrip().count("\n") + 1)
    for each in inner:
        if each.kind == "EnvoyGateway" or view([each]):
            lines = {path: first + line if is_block else first for path, line in each.lines.items()}
            yield msgspec.structs.replace(each, lines=lines)
