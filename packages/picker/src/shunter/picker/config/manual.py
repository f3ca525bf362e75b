"""What is to be said of a plugin, for the command line and the reference: its parameters, references, needs and standing."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from shunter.picker.config.loading import import_plugin
from shunter.picker.config.reading import did_you_mean
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, Kind, Plugin, Registration, Stability, upstream

__all__ = ["Parameter", "describe", "facts", "look_up", "parameters_of", "plural", "prose", "registrations_by_kind"]


class Parameter(msgspec.Struct, frozen=True):
    """One parameter, by its path below ``parameters``, such as ``deciders.prefill`` or ``sources[].header``."""

    path: str
    type: str
    default: str  # as one writes it; "required" if there is none


def registrations_by_kind() -> Iterator[tuple[Kind, list[Registration]]]:
    """Yield all plugins by what they count as, kinds and types in alphabetical order."""
    for kind in sorted({entry.kinds[0] for entry in CATALOGUE.values()}):
        yield kind, sorted((each for each in CATALOGUE.values() if each.kinds[0] is kind), key=lambda each: each.type_name)


def plural(kind: Kind) -> str:
    """Return the heading of a kind."""
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def look_up(type_name: str) -> Registration:
    """Return a plugin by its type, an installed package's too; raise ConfigError."""
    if type_name not in CATALOGUE:
        import_plugin(type_name)
    if type_name in CATALOGUE:
        return CATALOGUE[type_name]
    if type_name in upstream.TYPES:
        raise ConfigError(f"{type_name!r} is known to GIE or llm-d, and not here: {upstream.TYPES[type_name]}")
    hint = did_you_mean(type_name, CATALOGUE) or "; `shunter picker plugins` lists them"
    raise ConfigError(f"no plugin has the type {type_name!r}{hint}")


def parameters_of(registration: Registration) -> list[Parameter]:
    """Return the parameters in order, those inside others after them."""
    schema = msgspec.json.schema(registration.plugin)
    return list(_walk(schema, cast("dict[str, Any]", schema.get("$defs", {})), ""))


def prose(thing: object) -> str:
    """Return a docstring."""
    return inspect.getdoc(thing) or ""


def facts(registration: Registration) -> list[str]:
    """Return what else there is to know, each in a sentence."""
    plugin, found = registration.plugin, list[str]()
    if registration.replacement:
        found.append(f"Deprecated: use {registration.replacement}.")
    if registration.stability is not Stability.STABLE:
        found.append(f"Stability: {registration.stability}.")
    if len(registration.kinds) > 1:
        found.append(f"Also a {' and a '.join(registration.kinds[1:])}.")
    for reference in plugin.all_references():
        implied = f"; empty: {reference.implied}" if reference.implied else ""
        implied += f", if {' is '.join(reference.implied_by)}" if reference.implied_by else ""
        implied += f"; empty: whom {reference.told_by} says, beside it" if reference.told_by else ""
        found.append(f"`{reference.parameter}` names a {reference.kind}{implied}.")
    needs: object = plugin.needs
    if isinstance(needs, tuple):
        found.append(f"Needs to see the {' and the '.join(cast('tuple[str, ...]', needs))} of responses: profile full.")
    elif needs is not Plugin.needs:
        found.append("Needs to see responses with some of its parameters; in which profiles, `shunter picker check` says.")
    return found


def describe(registration: Registration) -> str:
    """Return a page of text about one plugin."""
    heading = f"{registration.type_name}, a {registration.kinds[0]}"
    parts = [f"{heading}\n{'=' * len(heading)}", prose(registration.plugin)]
    rows = parameters_of(registration)
    if rows:
        wide = max(len(row.path) for row in rows)
        types = max(len(row.type) for row in rows)
        parts.append("\n".join(["Parameters:", *(f"  {row.path:<{wide}}  {row.type:<{types}}  {row.default}" for row in rows)]))
    parts += ["\n".join(facts(registration))] if facts(registration) else []
    return "\n\n".join(parts) + "\n"


def _walk(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Iterator[Parameter]:
    struct = _resolve(schema, definitions)
    for name, field in cast("dict[str, Any]", struct.get("properties", {})).items():
        default = "required" if name in struct.get("required", ()) else _literal(field.get("default", {}))
        inner = _resolve(field, definitions)
        items = _resolve(cast("dict[str, Any]", inner.get("items", {})), definitions)
        if "properties" in inner:
            yield from _walk(inner, definitions, f"{path}{name}.")
        else:
            yield Parameter(path + name, _type_of(field, definitions), default)
        if "properties" in items:
            yield from _walk(items, definitions, f"{path}{name}[].")


def _resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, and through an optional struct to the struct."""
    if "$ref" in schema:
        return definitions[schema["$ref"].rpartition("/")[2]]
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice:
            return _resolve(choice, definitions)
    return schema


def _type_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_of(each, definitions) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(_literal, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}), definitions)}"
    if "$ref" in schema:
        return "object"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema)
    return f"{schema.get('type', 'any')} {bounds}".rstrip()


def _literal(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
