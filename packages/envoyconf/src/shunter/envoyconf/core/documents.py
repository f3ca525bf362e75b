"""Anybody's YAML or JSON as plain values that know on which line they stand."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec
import yaml

from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.substitution import expanded
from shunter.envoyconf.errors import IntentError

__all__ = ["MAX_CHARACTERS", "Document", "Path", "load_documents", "spell"]

# An Envoy Gateway CRD has 1.4 million; a configuration is smaller. More than this would only be read slowly.
MAX_CHARACTERS = 8 << 20

# Values in one file. Aliases can make a short text say more than any machine holds.
MAX_VALUES = 1 << 20

# Envoy's parser reads a hundred messages within each other; everything that walks along a document relies on an end.
MAX_DEPTH = 100

# Dates, and times of day such as 8:30, are PyYAML's idea: Envoy and Kubernetes take them for text.
TIMESTAMP = "tag:yaml.org,2002:timestamp"
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}

Path = tuple[str | int, ...]


class Document(msgspec.Struct, frozen=True):
    """One document of a file, with the lines of everything in it."""

    body: Resource
    file: str
    lines: dict[Path, int]  # of keys and items, from 1; the document's own under ()

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest part of it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    @property
    def kind(self) -> str:
        """What Kubernetes object it is; empty for an Envoy bootstrap and for anything else."""
        kind = self.body.get("kind")
        return kind if isinstance(kind, str) and "apiVersion" in self.body else ""


def spell(path: Path) -> str:
    """Return a path as errors name it, such as ``$.spec.rules[0].name``."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def load_documents(text: str, file: str, environment: Mapping[str, str] | None = None) -> tuple[Document, ...]:
    """Return the documents of a text; Kubernetes Lists are taken apart, empty documents left out.

    With an environment, variables in values are replaced (see ``substitution``). Raises IntentError with file and line if the
    text is not YAML, a key is there twice, a document is not a mapping, or a variable is not set.
    """
    if len(text) > MAX_CHARACTERS:
        raise IntentError(f"{file}: {len(text)} characters; at most {MAX_CHARACTERS} are read")
    try:
        loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
        nodes: list[yaml.Node | None] = [*yaml.compose_all(text, loader)]  # composed only: no tag is obeyed
        return tuple(
            document for node in nodes if node is not None for document in _documents(node, Reading(file, environment))
        )
    except IntentError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise IntentError(f"{file}{line}: not YAML: {what}{_likely(text, error.problem_mark)}") from None
    except yaml.YAMLError as error:
        raise IntentError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise IntentError(f"{file}: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:  # what is said to be a number, and is none
        raise IntentError(f"{file}: not YAML: {error}") from None


def _likely(text: str, mark: yaml.Mark | None) -> str:
    """Return what is most often behind a mistake that YAML's parser has no good word for, and what helps."""
    lines = text.splitlines()
    if mark and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return "; there is a tab, and YAML is indented by blanks"
    if mark and mark.line < len(lines) and "${" in lines[mark.line]:
        return "; a variable within { } must be in quotes, or on a line of its own"
    return "; if it is a chart's template, render it first (helm template)" if "{{" in text else ""


def _what(value: object) -> str:
    """Return what a value is, in words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a number"


def _documents(node: yaml.Node, reading: "Reading") -> Iterator[Document]:
    file = reading.file
    body = reading.plain(node, ())
    if body is None:  # between two separators there are only comments
        return
    if not isinstance(body, dict):
        raise IntentError(f"{file}:{reading.lines[()]}: {_what(body)} where a mapping is expected")
    resource = cast("Resource", body)
    items = resource.get("items")
    if not (str(resource.get("kind", "")).endswith("List") and isinstance(items, list)):
        yield Document(resource, file, reading.lines)
        return
    for index, item in enumerate(cast("list[Any]", items)):
        root: Path = ("items", index)
        if not isinstance(item, dict):
            raise IntentError(f"{file}:{reading.lines[root]}: {_what(item)} where an object is expected")
        lines = {path[2:]: line for path, line in reading.lines.items() if path[:2] == root}
        yield Document(cast("Resource", item), file, lines)


class Reading:
    """A tree of YAML nodes on its way to plain values, noting lines."""

    def __init__(self, file: str, environment: Mapping[str, str] | None) -> None:
        self.file = file
        self.environment = environment
        self.lines: dict[Path, int] = {}
        self.constructor: Any = yaml.constructor.SafeConstructor()  # PyYAML's types say little of it

    def plain(self, node: yaml.Node, path: Path) -> Any:
        """Return the value of a node, and of everything in it."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > MAX_DEPTH:
            raise IntentError(f"{self.file}:{node.start_mark.line + 1}: nested more than {MAX_DEPTH} deep, or refers to itself")
        if len(self.lines) > MAX_VALUES:
            raise IntentError(f"{self.file}: more than {MAX_VALUES} values, aliases followed")
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        scalar = self._scalar(node, path)
        if scalar.tag == TIMESTAMP or (scalar.tag in NUMBERS and ":" in scalar.value):
            return scalar.value
        return self.constructor.construct_object(scalar)

    def _scalar(self, node: yaml.Node, path: Path) -> yaml.Node:
        if self.environment is None or not isinstance(node, yaml.ScalarNode):
            return node
        try:
            return expanded(node, self.environment)
        except IntentError as error:
            raise IntentError(f"{self.file}:{node.start_mark.line + 1}: {spell(path)}: {error}") from None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            place = f"{self.file}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise IntentError(f"{place}: a key must be text")
            if key.value in seen:
                raise IntentError(f"{place}: key {key.value!r} is there twice")
            seen.add(key.value)
        values: dict[str, Any] = {}
        self.constructor.flatten_mapping(node)  # merge keys (<<): what is merged comes first, and may be overwritten
        for key, value in node.value:
            name = str(key.value)  # as it is written, be it `on` or 010
            self.lines[(*path, name)] = key.start_mark.line + 1
            values[name] = self.plain(value, (*path, name))
        return values
