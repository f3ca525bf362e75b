"""Names of parameters as Go reads them: in any case, since the reference's decoder of parameters does not mind it.

Only parameters are read so; the rest of a file is decoded by another library, to which ``Plugins`` is an unknown field.
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import inspect

from shunter.picker.config.document import PluginSpec
from shunter.picker.config.parameters import FORMER
from shunter.picker.plugins import CATALOGUE

__all__ = ["respell_names"]


def respell_names(spec: PluginSpec) -> tuple[PluginSpec, list[str]]:
    """Return a plugin whose parameters have the names that they have here, and a note for each that was spelt otherwise.

    A name of which the right spelling stands beside it is left as it is: nobody can know which value is meant.
    """
    entry = CATALOGUE.get(spec.type)
    if entry is None or not spec.parameters:
        return spec, []
    notes: list[str] = []
    kind = inspect.type_info(entry.plugin)
    fields = {field.encode_name: field.type for field in kind.fields} if isinstance(kind, inspect.StructType) else {}
    former = dict.fromkeys(FORMER.get(spec.type, ()), inspect.AnyType())
    parameters = _named(spec.parameters, {**former, **fields}, "", notes)
    return (msgspec.structs.replace(spec, parameters=parameters), notes) if notes else (spec, notes)


def _respelt(value: Any, kind: inspect.Type, place: str, notes: list[str]) -> Any:
    """Return a value of this type with the names in it as they are here."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        for each in kinds:
            if isinstance(each, inspect.StructType):
                return _named(found, {field.encode_name: field.type for field in each.fields}, place, notes)
            if isinstance(each, inspect.DictType):
                return {key: _respelt(inner, each.value_type, f"{place}.{key}", notes) for key, inner in found.items()}
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        for each in kinds:
            if isinstance(each, inspect.CollectionType):
                return [_respelt(inner, each.item_type, f"{place}[{at}]", notes) for at, inner in enumerate(items)]
    return cast("object", value)


def _named(found: Mapping[str, Any], fields: Mapping[str, inspect.Type], place: str, notes: list[str]) -> dict[str, Any]:
    by_case = {name.casefold(): name for name in fields}
    named: dict[str, Any] = {}
    for key, value in found.items():
        name = key if key in fields else by_case.get(str(key).casefold(), key)  # YAML has other keys than text
        if name != key and name not in found and name not in named:
            notes.append(f"{place}.{key}: it is spelt {name}; write that".removeprefix("."))
        else:
            name = key
        named[name] = _respelt(value, fields[name], f"{place}.{name}", notes) if name in fields else value
    return named
