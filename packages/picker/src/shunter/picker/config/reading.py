"""From foreign text to plain data, and what is said when the data does not fit.

A message names the place as a path from the root (``$.plugins[1].type``), the value that stands there and what to do.
"""

import difflib
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec
import yaml
from msgspec import inspect

from shunter.picker.errors import ConfigError
from shunter.picker.plugins import upstream

__all__ = ["did_you_mean", "drop_nulls", "explained", "read_scalar", "read_yaml", "write_yaml"]

T = TypeVar("T")

FEW = 12  # names that a message can list without hiding its point
MOST = (1 << 63) - 1  # a number may be: what Go reads into an int64
LONGEST_VALUE = 80  # characters of a value that a message shows

TEXT, INT, FLOAT, DATE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "timestamp"))
EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")

# Of msgspec's messages: how it calls the place of a map's key and of a map's value, and what comes of YAML.
KEY, ANY = "key` in `$", "..."
NAMES: Mapping[type, str] = {bool: "bool", int: "int", float: "float", str: "str", list: "array", dict: "object"}


def read_yaml(text: str | bytes) -> Any:
    """Return what a YAML (or JSON) document holds; raise ConfigError."""
    try:
        return StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(filter(None, (mark and f"line {mark.line + 1}", error.context, error.problem)))
        raise ConfigError(f"not a YAML document: {words}") from error
    except Exception as error:  # PyYAML also lets through what int(), datetime and look-ups raise at odd values
        raise ConfigError(f"not a YAML document: {error}") from error


def drop_nulls(data: Any) -> None:
    """Forget every key that has no value: to the reference, which is written in Go, it is as if the key were not there."""
    seen: set[int] = set()  # a document may refer to parts of itself
    waiting = [data]
    while waiting:
        each: Any = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            found = cast("dict[Any, Any]", each)
            for key in [key for key, value in found.items() if value is None]:
                del found[key]
            waiting += found.values()
        elif isinstance(each, list):
            waiting += cast("list[Any]", each)


def write_yaml(data: Any) -> str:
    """Return plain data as a YAML document; what would be something else than text to whoever reads it is quoted."""
    return yaml.dump(data, Dumper=QuotingDumper, sort_keys=False, allow_unicode=True)


class StrictLoader(yaml.SafeLoader):
    """YAML as the reference's library reads it, in which three things are mistakes that PyYAML lets through.

    A key that stands twice (it takes the last one), half a surrogate pair, and a number that is infinite, none at all (.nan) or
    beyond 64 bits. Dates are text, and so is 1:30, which PyYAML takes for ninety; 1e3 is a number, as it is 1.0e+3.
    """

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Tell what kind of value a text without quotes is."""
        tag: Any = cast("Any", super()).resolve(kind, value, implicit)
        if tag == DATE or (tag in (INT, FLOAT) and ":" in value):
            return TEXT
        return FLOAT if tag == TEXT and implicit[0] and EXPONENT.fullmatch(value) else tag

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuse such a number."""
        value: Any = cast("Any", super()).construct_object(node, deep=deep)
        if isinstance(value, int | float) and not -MOST <= value <= MOST:
            text = str(cast("object", node.value))[:LONGEST_VALUE]
            raise yaml.constructor.ConstructorError(None, None, f"{text} is not a number below 2**63", node.start_mark)
        return value

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Refuse text that is not Unicode: nothing could write it out again."""
        text: Any = super().construct_scalar(node)
        cast("str", text).encode()
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Compare the keys as they are written."""
        keys = [key for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value)]
        texts = [cast("object", key.value) for key in keys]
        for at, key in enumerate(keys):
            if texts[at] in texts[:at]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {texts[at]!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep=deep)


class QuotingDumper(yaml.SafeDumper):
    """Quotes what is a number to StrictLoader, too."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Tell what kind of value a text would be without quotes."""
        tag: Any = cast("Any", super()).resolve(kind, value, implicit)
        return FLOAT if tag == TEXT and implicit[0] and EXPONENT.fullmatch(value) else tag


def explained(
    error: msgspec.ValidationError,
    data: Any,
    root: str,
    section: type[msgspec.Struct],
    choices: Mapping[str, tuple[str, ...]] | None = None,
    former: Iterable[str] = (),
) -> ConfigError:
    """Turn msgspec's message about ``data``, which stands at ``root`` and should be a ``section``, into ours.

    ``choices`` says what fields with fixed values may be, by their place, where the order of these matters;
    ``former``, what other fields a section had that load, too.
    """
    what, _, path = str(error).partition(" - at `")
    path = path.rstrip("`")
    if path.startswith(KEY):
        path, name = path.removeprefix(KEY), _odd_key(data, path.removeprefix(KEY))
        return ConfigError(f"{root}{path}: the key {name} is no text; put it in quotes")
    path = path.removeprefix("$")
    unknown = re.match("Object contains unknown field `(.*)`", what)
    if not unknown:
        got = re.search("got `(.*)`", what)
        kinds = _kinds(section, path)
        path, value = _follow(data, path, got[1] if got else "")
        allowed = (choices or {}).get(root + path, ())
        if allowed:
            remedy = f"; use {' or '.join(allowed)}"
        elif fixed := [each for kind in kinds if isinstance(kind, inspect.LiteralType) for each in kind.values]:
            remedy = did_you_mean(str(value), map(str, fixed))
        else:
            remedy = f"; write {value}s" if path.endswith("TTL") and isinstance(value, int) else ""
        return ConfigError(f"{root}{path}: {what[0].lower()}{what[1:]}, found {_shown(value)}{remedy}")
    name = unknown[1]
    place = f"{root}{path}.{name}"
    if name in upstream.FIELDS:
        return ConfigError(f"{place}: llm-d knows this field, but Shunter cannot honour it: {upstream.FIELDS[name]}")
    return ConfigError(f"{place}: unknown field{did_you_mean(name, (*_fields(section, path), *(() if path else former)))}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint to begin with "; ": near matches if there are any, else all names if they are few."""
    names = sorted({*names} - {""})
    near = difflib.get_close_matches(name, names, n=3) or [each for each in names if name and name in each][:3]
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are {', '.join(names) or 'none'}" if len(names) <= FEW else ""


def read_scalar(read: Callable[[Any], T], value: object, place: str) -> T:
    """Return what ``read`` makes of a value; its ValueError becomes a ConfigError about ``place``."""
    try:
        return read(value)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _fields(section: type[msgspec.Struct], path: str) -> list[str]:
    """Return the fields that there are at a path below a section."""
    return [
        field.encode_name for each in _kinds(section, path) if isinstance(each, inspect.StructType) for field in each.fields
    ]


def _kinds(section: type[msgspec.Struct], path: str) -> list[inspect.Type]:
    """Return of what types a value at a path below a section may be."""
    found: list[inspect.Type] = [inspect.type_info(section)]
    for key in re.findall(r"[^.\[\]]+|\.\.\.", path):
        if key == ANY:
            found = [each.value_type for each in found if isinstance(each, inspect.DictType)]
        elif key.isdecimal():
            found = [each.item_type for each in found if isinstance(each, inspect.CollectionType)]
        else:
            fields = (field for each in found if isinstance(each, inspect.StructType) for field in each.fields)
            found = [field.type for field in fields if field.encode_name == key]
        found = [one for each in found for one in (each.types if isinstance(each, inspect.UnionType) else (each,))]
    return found


def _follow(data: Any, path: str, got: str) -> tuple[str, Any]:
    """Return a path such as ``.plugins[0].type``, and what stands there.

    To msgspec all values of a map have the path ``[...]``; meant is the first of the type that it ``got``.
    """
    place = ""
    for step, key, index in re.findall(r"(\.([^.\[]+)|\[(\d+|\.\.\.)\])", path):
        if index == ANY:
            values = cast("dict[str, object]", data).items()
            meant = next((name for name, value in values if NAMES.get(type(value)) == got), None)
            if meant is None:
                return path, data
            data = data[meant]
            place += f".{meant}"
        else:
            data = data[key or int(index)]
            place += step
    return place, data


def _odd_key(data: Any, path: str) -> str:
    """Return the key that is no text, as it is written; of several the first."""
    _, found = _follow(data, path.removeprefix("$"), "object")
    return _shown(next((key for key in cast("dict[object, object]", found) if not isinstance(key, str)), "in it"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
