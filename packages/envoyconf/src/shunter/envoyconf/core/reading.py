"""YAML text becomes an Intent, or an error that names place, value and remedy."""

import re
from collections import Counter
from collections.abc import Hashable
from difflib import get_close_matches
from typing import Any

import msgspec
import yaml

from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.errors import IntentError

__all__ = ["MAX_INTENT_CHARACTERS", "intent_schema", "load_intent"]

# A thousand endpoints take thirty thousand. More than this is some other file, and would only be read slowly.
MAX_INTENT_CHARACTERS = 1 << 20

STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
INVALID_CHOICE = re.compile(r"Invalid enum value '(.*)'", re.DOTALL)


class Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and forgets the other; a forgotten ``pools`` is worth an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.MarkedYAMLError(problem=f"key {twice[0]!r} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


def load_intent(text: str) -> Intent:
    """Return the Intent that a YAML (or JSON) text states; raise IntentError if it states none or a bad one."""
    if len(text) > MAX_INTENT_CHARACTERS:
        raise IntentError(f"$: {len(text)} characters; an intent has at most {MAX_INTENT_CHARACTERS}")
    plain: Any = None
    try:
        plain = Loader(text).get_single_data()
        return msgspec.convert(plain, Intent)
    except yaml.YAMLError as error:
        raise IntentError(f"not YAML: {error}") from None
    except msgspec.ValidationError as error:
        raise IntentError(_explain(error, plain)) from None
    except RecursionError:
        raise IntentError("$: nested too deeply") from None
    except ValueError as error:  # PyYAML on the 31st of February and the like
        raise IntentError(f"not YAML: {error}") from None


def intent_schema() -> dict[str, Any]:
    """Return the JSON Schema of an intent."""
    return msgspec.json.schema(Intent)


def _explain(error: msgspec.ValidationError, plain: object) -> str:
    """Turn msgspec's message into one with path, value, what is allowed and what the field is for."""
    # msgspec ends its messages with the place, unless that is the root.
    reason, _, place = str(error).rpartition(" - at `")
    reason, path = (reason, place.removesuffix("`")) if reason and place.startswith("$") else (str(error), "$")
    if isinstance(error.__cause__, IntentError):  # a struct refused itself: its message begins with the field
        return f"{path}.{reason}"
    value, fields, choices, purpose = _look_up(path, plain)
    if unknown := UNKNOWN_FIELD.fullmatch(reason):
        return f"{path}: unknown field {unknown[1]!r}; {_suggest(unknown[1], fields)}"
    if invalid := INVALID_CHOICE.fullmatch(reason):
        return f"{path}: {invalid[1]!r} is not a choice; {_suggest(invalid[1], choices)}"
    got = "" if isinstance(value, dict | list) else f" (it is {value!r})"
    return f"{path}: {reason[:1].lower()}{reason[1:]}{got}{purpose and '. ' + purpose}"


def _look_up(path: str, plain: Any) -> tuple[Any, list[str], list[str], str]:
    """Return what the schema and the file have at a path: the value, its possible fields, its choices, its description."""
    schema = intent_schema()
    node: Any = schema
    purpose = ""
    for name, index in STEP.findall(path):
        node = _resolved(node, schema)
        node = node.get("properties", {}).get(name, {}) if name else node.get("items", {})
        plain = plain[name] if name else plain[int(index)]
        purpose = node.get("description", purpose)
    node = _resolved(node, schema)
    return plain, list(node.get("properties", ())), list(node.get("enum", ())), purpose


def _resolved(node: Any, schema: Any) -> Any:
    """Follow a schema's reference, through the alternative to null."""
    for option in node.get("anyOf", [node]):
        if reference := option.get("$ref"):
            return schema["$defs"][reference.rpartition("/")[2]]
    return node


def _suggest(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
