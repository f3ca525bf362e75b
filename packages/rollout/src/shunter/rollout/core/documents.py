"""Text of a YAML file becomes one typed document, or an error that names the place, the value and the remedy."""

import re
from collections.abc import Hashable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, TypeVar, cast

import msgspec
import yaml
from msgspec import inspect

from shunter.rollout.errors import ConfigError

__all__ = ["MAX_FILE_BYTES", "near", "read_document", "read_mapping"]

# A ConfigMap is a mebibyte at most.
MAX_FILE_BYTES = 1 << 20

Shape = TypeVar("Shape")

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


class _Loader(yaml.CBaseLoader):
    """YAML's plain shape: mappings, lists and text; what a text means is the shape's affair."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key is a list or a mapping", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_document(name: str, text: bytes, shape: type[Shape]) -> Shape:
    """Return the one document of the file called ``name``; raises ConfigError."""
    document = read_mapping(name, text)
    for path, word, fields in _unknown(inspect.type_info(shape), document, "$"):
        raise ConfigError(f"{name}: {path}.{word}: unknown field; {near(word, fields)}")
    try:
        return msgspec.convert(document, shape, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        path = (path or "$").replace("`", "")
        raise ConfigError(f"{name}: {path}: {message}{_found(document, path)}") from None


def read_mapping(name: str, text: bytes) -> dict[str, object]:
    """Return the one document as it stands, its scalars as text; raises ConfigError."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{name}: the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        document: object = yaml.load(text, Loader=_Loader)  # noqa: S506, TID251  a base loader makes nothing but text
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"{name}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: the file is {'empty' if document in (None, '') else 'no mapping'}")
    return cast("dict[str, object]", document)


def near(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown ``word``: what was probably meant, or what there is."""
    known = sorted(known)
    matches = get_close_matches(word, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(matches)}?" if matches else f"known: {', '.join(known)}"


def _unknown(info: inspect.Type, raw: object, path: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each field that no shape has: where, its name, and those that there are."""
    if isinstance(info, inspect.UnionType):
        info = next((each for each in info.types if isinstance(each, inspect.StructType)), info)
    if isinstance(info, inspect.StructType) and isinstance(raw, dict):
        fields = {field.encode_name: field.type for field in info.fields}
        for name, value in cast("dict[str, object]", raw).items():
            if name in fields:
                yield from _unknown(fields[name], value, f"{path}.{name}")
            elif name != info.tag_field:
                yield path, str(name), list(fields)
    elif isinstance(info, inspect.VarTupleType) and isinstance(raw, list):
        for number, item in enumerate(cast("list[object]", raw)):
            yield from _unknown(info.item_type, item, f"{path}[{number}]")


def _found(document: object, path: str) -> str:
    """Return what stands at ``path``, as the end of a message; nothing if it is not a single value."""
    for field, index in _STEP.findall(path):
        if isinstance(document, dict):
            document = cast("dict[str, object]", document).get(field)
        elif isinstance(document, list) and index:
            document = cast("list[object]", document)[int(index)]
    return f", found {document!r}" if isinstance(document, str) else ""
