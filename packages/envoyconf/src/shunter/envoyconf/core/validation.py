"""What Envoy's schema says of documents, one line for each place."""

from collections.abc import Iterable

import msgspec

from shunter.envoyconf.core.documents import Document, spell
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import Problem, envoy_schema, notes, problems
from shunter.envoyconf.core.versions import Version

__all__ = ["BOOTSTRAP", "Verdict", "check_schema", "is_bootstrap", "message_of"]

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"

# What Envoy reads from a file that it watches: the body of a discovery response.
WATCHED = "envoy.service.discovery.v3.DiscoveryResponse"


class Verdict(msgspec.Struct, frozen=True):
    """What is wrong, and what should be known, in lines with file and place."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def is_bootstrap(document: Document) -> bool:
    """Whether a document is meant for `envoy -c`."""
    return not document.kind and message_of(document.body) == BOOTSTRAP


def message_of(resource: Resource) -> str:
    """Return which message a document of an Envoy states: what it is started with, or what it watches."""
    return WATCHED if "resources" in resource else BOOTSTRAP


def check_schema(documents: Iterable[Document], version: Version) -> Verdict:
    """Return what keeps an Envoy of that version from reading documents, of which none is a Kubernetes object."""
    errors: list[str] = []
    warnings: list[str] = []
    for document in documents:
        name = message_of(document.body)
        errors += [_line(document, each) for each in problems(envoy_schema(), document.body, name, version)]
        warnings += [_line(document, each) for each in notes(envoy_schema(), document.body, name)]
    return Verdict(tuple(errors), tuple(warnings))


def _line(document: Document, problem: Problem) -> str:
    return f"{document.file}:{document.line(problem.path)}: {spell(problem.path)}: {problem}"
