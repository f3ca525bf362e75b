"""The JSON Schema that an editor can check a configuration with."""

from inspect import cleandoc
from typing import Any, cast

import msgspec

from shunter.picker.config.document import EndpointPickerConfig
from shunter.picker.config.parameters import FORMER
from shunter.picker.plugins import CATALOGUE

__all__ = ["schema"]

# What has another place now, by section. The places of former parameters are those of the plugins that had them.
FORMER_FIELDS = {
    "EndpointPickerConfig": ("data", "parser", "saturationDetector"),
    "DetectorSpec": ("kvCacheUtilThreshold", "metricsStalenessThreshold", "queueDepthThreshold"),
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration, the parameters of every plugin in the catalogue included.

    Former names are allowed and marked as deprecated; what may stand there is for the picker to say.
    """
    registrations = list(CATALOGUE.values())
    types = [EndpointPickerConfig, *(each.plugin for each in registrations)]
    (root, *parameters), definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    definitions["PluginSpec"]["allOf"] = [
        {
            "if": {"properties": {"type": {"const": registration.type_name}}},
            "then": {"properties": {"parameters": {"anyOf": [reference, {"type": "null"}]}}},
        }
        for registration, reference in zip(registrations, parameters, strict=True)
    ]
    for registration, reference in zip(registrations, parameters, strict=True):
        _deprecate(definitions[reference["$ref"].rpartition("/")[2]], FORMER.get(registration.type_name, ()))
    for section, names in FORMER_FIELDS.items():
        _deprecate(definitions[section], names)
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = cleandoc(definition["description"])  # indented as in the source, up to Python 3.12
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _deprecate(definition: dict[str, Any], names: tuple[str, ...]) -> None:
    fields = cast("dict[str, Any]", definition["properties"])
    for name in names:
        fields.setdefault(name, {})["deprecated"] = True
