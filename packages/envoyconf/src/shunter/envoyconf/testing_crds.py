"""Kubernetes objects checked offline against CustomResourceDefinitions: their schemas, and their rules in CEL.

An API server does the same and more (`shunter.envoyconf.testing_kube`); this needs nothing but the definitions. Unlike a
server, which drops them, it reports unknown fields. Rules that compare with an object's former state are left out, and those
that the CEL library here does not know are named, not skipped silently: `Verdict.unknown_rules`.
"""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import celpy
import jsonschema
import msgspec
import yaml
from celpy.adapter import json_to_cel
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError, CELUnsupportedError

__all__ = ["Definitions", "Verdict", "load_definitions"]

Schema = dict[str, Any]


class Verdict(msgspec.Struct, frozen=True):
    """What is wrong with an object, and which rules could not be asked."""

    problems: tuple[str, ...]
    unknown_rules: tuple[str, ...] = ()


class Definitions:
    """The schemas of many kinds."""

    def __init__(self, schemas: dict[tuple[str, str], Schema]) -> None:
        self._schemas = schemas
        self._environment: Any = celpy.Environment()  # its types are those of an untyped parser
        self._programs: dict[str, celpy.Runner] = {}
        self._validators: dict[tuple[str, str], jsonschema.Draft4Validator] = {}

    def __contains__(self, kind: tuple[str, str]) -> bool:
        """Tell whether a (apiVersion, kind) is defined."""
        return kind in self._schemas

    def examine(self, document: dict[str, Any]) -> Verdict:
        """Return what is wrong with an object; a KeyError if its kind is not defined."""
        kind = document["apiVersion"], document["kind"]
        schema = self._schemas[kind]
        if kind not in self._validators:
            self._validators[kind] = jsonschema.Draft4Validator(_closed(schema))
        errors = cast("Iterable[jsonschema.ValidationError]", self._validators[kind].iter_errors(document))  # pyright: ignore[reportUnknownMemberType] # untyped there
        problems = [f"{error.json_path}: {error.message[:200]}" for error in errors]
        filled = copy.deepcopy(document)
        _fill(schema, filled)
        unknown: list[str] = []
        for place, rule, value in _rules(schema, filled, "$"):
            try:
                if not self._holds(rule["rule"], value):
                    problems.append(f"{place}: {rule.get('message') or rule['rule']}")
            except (CELParseError, CELEvalError, CELUnsupportedError) as error:
                unknown.append(f"{place}: {rule['rule']}: {error}")
        return Verdict(tuple(problems), tuple(unknown))

    def _holds(self, rule: str, value: Any) -> bool:
        if rule not in self._programs:
            self._programs[rule] = self._environment.program(self._environment.compile(rule))
        return bool(self._programs[rule].evaluate({"self": json_to_cel(value)}))


def load_definitions(files: Iterable[Path]) -> Definitions:
    """Return the definitions of YAML files."""
    schemas: dict[tuple[str, str], Schema] = {}
    loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader  # ten times as fast, where it is
    for file in files:
        for document in yaml.load_all(file.read_text(), Loader=loader):
            if document and document.get("kind") == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    schemas[kind] = version["schema"]["openAPIV3Schema"]
    return Definitions(schemas)


def _closed(schema: Schema, *, root: bool = True) -> Schema:
    """Return a JSON Schema that also refuses unknown fields, and knows what Kubernetes adds to the language."""
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    if schema.get("nullable") and "type" in closed:
        closed["type"] = [closed["type"], "null"]
    if "properties" in schema:
        closed["properties"] = {name: _closed(each, root=False) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    for key in ("additionalProperties", "items"):
        if isinstance(schema.get(key), dict):
            closed[key] = _closed(schema[key], root=False)
    if root:  # every object's, which some definitions leave out
        closed["properties"] = closed.get("properties", {}) | {"apiVersion": {}, "kind": {}, "metadata": {}}
    return closed


def _fill(schema: Schema, value: Any) -> None:
    """Write defaults into a value, in place: rules are asked about what the server would see."""
    if isinstance(value, dict):
        for name, each in schema.get("properties", {}).items():
            if name not in value and "default" in each:
                value[name] = copy.deepcopy(each["default"])
            if name in value:
                _fill(each, value[name])
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _fill(schema.get("items", {}), item)


def _rules(schema: Schema, value: Any, place: str) -> Iterator[tuple[str, dict[str, str], Any]]:
    """Yield (place, rule, value it is about) of a value and all in it."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"]:
            yield place, rule, value
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        for name, each in cast("dict[str, Any]", value).items():
            inner = fields.get(name, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from _rules(cast("Schema", inner), each, f"{place}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _rules(schema.get("items", {}), item, f"{place}[{index}]")
