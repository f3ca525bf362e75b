"""What Envoy's schema says of documents, one line for each place."""

from collections.abc import Iterable, Iterator
from typing import cast

import msgspec

from shunter.envoyconf.core.documents import Document, Path, spell
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import Problem, envoy_schema, notes, problems
from shunter.envoyconf.core.versions import Version

__all__ = ["BOOTSTRAP", "Verdict", "check_schema", "is_bootstrap", "message_of", "parts"]

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"

# An extension's configuration, in Kubernetes objects, too.
ANY = "google.protobuf.Any"
TYPE_URL = "type.googleapis.com/"
ENVOY = "envoy."

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
    """Return what keeps an Envoy of that version from reading what documents have for it."""
    errors: list[str] = []
    warnings: list[str] = []
    for document in documents:
        for path, resource, name in parts(document):
            errors += [_line(document, path, each) for each in problems(envoy_schema(), resource, name, version)]
            warnings += [_line(document, path, each) for each in notes(envoy_schema(), resource, name)]
    return Verdict(tuple(errors), tuple(warnings))


def parts(document: Document) -> Iterator[tuple[Path, object, str]]:
    """Yield what of a document Envoy's schema knows, with its place and message.

    Of a Kubernetes object that is each extension's configuration in it, and each resource that an EnvoyPatchPolicy adds.
    """
    if document.kind:
        yield from _embedded(document.body, ())
    else:
        yield (), document.body, message_of(document.body)


def _embedded(value: object, path: Path) -> Iterator[tuple[Path, object, str]]:
    if isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _embedded(item, (*path, index))
    elif isinstance(value, dict):
        fields = cast("Resource", value)
        name = str(fields.get("type", "")).removeprefix(TYPE_URL)
        operation = cast("Resource", fields["operation"]) if isinstance(fields.get("operation"), dict) else {}
        if str(fields.get("@type", "")).startswith(TYPE_URL + ENVOY):
            yield path, fields, ANY
        elif name in envoy_schema().names and operation.get("path") == "":
            yield (*path, "operation", "value"), operation.get("value"), name
        else:
            for key, part in fields.items():
                yield from _embedded(part, (*path, key))


def _line(document: Document, root: Path, problem: Problem) -> str:
    path = (*root, *problem.path)
    return f"{document.file}:{document.line(path)}: {spell(path)}: {problem}"
