"""``${NAME}`` in a value becomes what the environment says; in keys and in structure nothing changes.

::

    ${NAME}            the variable; an error if it is not set or empty
    ${NAME:-default}   the variable, or else the default, which may be empty
    $$                 a dollar

Substituted are the scalars of the parsed document, so that no variable can add a field, whatever it holds. One that is written
without quotes is then read again: ``port: ${PORT}`` is a number. In quotes it stays text: ``key: "${KEY}"``, digits or not.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from shunter.envoyconf.errors import IntentError

__all__ = ["expand", "expanded"]

REFERENCE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-(?P<value>[^{}]*))?\}|(?P<broken>\{))")

# PyYAML's types say little of it.
RESOLVER: Any = yaml.resolver.Resolver()


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Return a text with its variables replaced; raise IntentError for one that is not set, or not written as above."""

    def value(reference: re.Match[str]) -> str:
        if reference["broken"]:
            raise IntentError("${ begins a variable: write ${NAME} or ${NAME:-default}, or $${ for the text itself")
        if (name := reference["name"]) is None:
            return "$"
        if known := environment.get(name):
            return known
        if reference["default"] is None:
            raise IntentError(f"${{{name}}} is not set; set it, or give a default: ${{{name}:-…}}")
        return reference["value"]

    return REFERENCE.sub(value, text)


def expanded(node: yaml.ScalarNode, environment: Mapping[str, str]) -> yaml.ScalarNode:
    """Return a scalar with its variables replaced; raise IntentError as ``expand``."""
    text = expand(node.value, environment)
    if text == node.value:
        return node
    tag = node.tag if node.style else RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    return yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, node.style)
