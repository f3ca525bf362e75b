"""Text of a YAML or JSON file becomes typed documents, or an error that names the place, the value and the remedy.

Only YAML's plain shape is used: mappings, lists and text. Tags, dates, ``no`` meaning false and octal numbers do not
exist here, and a key that stands twice in a mapping is an error (PyYAML would silently keep the last one).
"""

import re
from collections.abc import Hashable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import yaml
from msgspec import inspect

from shunter.scraper.core.manifests import KINDS, EndpointsFile, Glimpse, Manifest
from shunter.scraper.core.pods import Pod
from shunter.scraper.errors import ConfigError

__all__ = ["MAX_FILE_BYTES", "Document", "near", "read_documents"]

# The reference's bound. A thousand endpoints with labels have a tenth of it.
MAX_FILE_BYTES = 1 << 20

Shape = TypeVar("Shape", EndpointsFile, Manifest, Pod)

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


class Document(NamedTuple):
    """A typed document and where it stands, for messages."""

    place: str
    content: EndpointsFile | Manifest | Pod


class _Loader(yaml.CBaseLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key is a list or a mapping", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_documents(name: str, text: bytes) -> list[Document]:
    """Return the documents of the file called ``name``; raises ConfigError."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{name}: the file is larger than {MAX_FILE_BYTES} bytes")
    numbered = ((number, raw) for number, raw in enumerate(_raw_documents(name, text), 1) if raw not in (None, ""))
    documents = [document for number, raw in numbered for document in _typed(f"{name}, document {number}", raw)]
    if not documents:
        # An editor that empties a file before it writes it must not be taken for a wish to serve nothing.
        raise ConfigError(f"{name}: the file is empty; to serve nothing write: endpoints: []")
    return documents


def near(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown ``word``: what was probably meant, or what there is."""
    known = sorted(known)
    matches = get_close_matches(word, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(matches)}?" if matches else f"known: {', '.join(known)}"


def _raw_documents(name: str, text: bytes) -> Iterator[object]:
    try:
        yield from yaml.load_all(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"{name}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None


def _typed(place: str, raw: object) -> list[Document]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{place}: a document is a mapping: endpoints: […], or a manifest with apiVersion and kind")
    document = cast("dict[str, object]", raw)
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind is None and version is None:
        return [Document(place, _convert(place, document, EndpointsFile))]
    if kind == "List" and isinstance(items := document.get("items"), list):
        listed = enumerate(cast("list[object]", items))
        return [one for number, item in listed for one in _typed(f"{place}, items[{number}]", item)]
    if (kind, version) == ("Pod", "v1"):
        return [Document(place, _convert(place, document, Pod))]
    shape = KINDS.get((str(kind), str(version)))
    if shape is None:
        kinds = [f"{kind} ({version})" for kind, version in (("Pod", "v1"), *KINDS)]
        raise ConfigError(f"{place}: {kind} ({version}) is not read here; {near(f'{kind} ({version})', kinds)}")
    return [Document(place, _convert(place, document, shape))]


def _convert(place: str, document: dict[str, object], shape: type[Shape]) -> Shape:
    for path, word, fields in _unknown(inspect.type_info(shape), document, "$"):
        raise ConfigError(f"{place}: {path}.{word}: unknown field; {near(word, fields)}")
    try:
        return msgspec.convert(document, shape, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        path = (path or "$").replace("`", "")
        raise ConfigError(f"{place}: {path}: {message}{_found(document, path)}") from None


def _unknown(info: inspect.Type, raw: object, path: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each field that no shape has: where, its name, and those that there are.

    The shapes themselves ignore such fields: an API server may be newer than we are, a file is written by hand.
    """
    while isinstance(info, inspect.Metadata | inspect.UnionType):
        info = info.type if isinstance(info, inspect.Metadata) else info.types[0]
    if isinstance(info, inspect.StructType) and isinstance(raw, dict):
        fields = {field.encode_name: field.type for field in info.fields}
        for name, value in cast("dict[str, object]", raw).items():
            if name in fields:
                yield from _unknown(fields[name], value, f"{path}.{name}")
            elif not issubclass(info.cls, Glimpse):
                yield path, str(name), list(fields)
    elif isinstance(info, inspect.ListType) and isinstance(raw, list):
        for number, item in enumerate(cast("list[object]", raw)):
            yield from _unknown(info.item_type, item, f"{path}[{number}]")


def _found(document: object, path: str) -> str:
    """Return what stands at ``path``, as the end of a message; nothing if it is not a single value."""
    for name, index in _STEP.findall(path):
        if isinstance(document, dict):
            document = cast("dict[str, object]", document).get(name)
        elif isinstance(document, list):
            document = cast("list[object]", document)[int(index)]
    return f", found {document!r}" if isinstance(document, str) and "[...]" not in path else ""
