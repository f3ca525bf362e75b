"""YAML text becomes an Intent, or an error that names place, value and remedy."""

import re
from collections.abc import Iterable, Mapping
from inspect import cleandoc
from typing import Any, cast

import msgspec
import yaml

from shunter.envoyconf.core.documents import Document, Path, load_documents, spell
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.intent.parts import IN_WORDS
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.spelling import suggest
from shunter.envoyconf.errors import IntentError

__all__ = ["MAX_INTENT_CHARACTERS", "intent_schema", "load_intent", "load_statement", "place_of", "read_intent"]

# A thousand endpoints take thirty thousand. More than this is some other file, and would only be read slowly.
MAX_INTENT_CHARACTERS = 1 << 20

STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
INVALID_CHOICE = re.compile(r"Invalid enum value '(.*)'", re.DOTALL)

# The place that a message begins with.
PLACE = re.compile(r"\$(?:\.\w+|\[\d+\])*")

# What `--set` is given: a path of at least one step, and a value in YAML.
CHANGE = re.compile(r"\$?\.?(\w+(?:\.\w+|\[\d+\])*)=(.*)", re.DOTALL)


def load_intent(text: str, file: str = "", environment: Mapping[str, str] | None = None, changes: Iterable[str] = ()) -> Intent:
    """Return the Intent that a YAML (or JSON) text states; raise IntentError if it states none or a bad one.

    With an environment, variables in values are replaced (see ``substitution``); changes such as ``limits.retries=3`` then
    take the place of what is there.
    """
    return read_intent(load_statement(text, file, environment), changes)


def load_statement(text: str, file: str = "", environment: Mapping[str, str] | None = None) -> Document:
    """Return the one document of a text that states an intent, rightly or wrongly; raise IntentError if there is not one."""
    name = file or "intent"
    if len(text) > MAX_INTENT_CHARACTERS:
        raise IntentError(f"{name}: {len(text)} characters; an intent has at most {MAX_INTENT_CHARACTERS}")
    documents = [*load_documents(text, name, environment)]
    if not documents:
        raise IntentError(f"{name}: nothing is there; an intent begins with pools")
    if len(documents) > 1:
        raise IntentError(f"{name}:{documents[1].line(())}: a second document; one intent is read at a time")
    return msgspec.structs.replace(documents[0], file=file)


def read_intent(document: Document, changes: Iterable[str] = ()) -> Intent:
    """Return the Intent that a document states, with changes; its errors begin with file and line if it has a file."""
    body = document.body
    try:
        for each in changes:
            body = _changed(body, each)
        return msgspec.convert(body, Intent)
    except msgspec.ValidationError as error:
        raise IntentError(_placed(_explain(error, body), document)) from None


def intent_schema() -> dict[str, Any]:
    """Return the JSON Schema of an intent, with descriptions as one reads them."""
    schema = msgspec.json.schema(Intent)
    for section in schema["$defs"].values():
        if "description" in section:
            section["description"] = cleandoc(section["description"])  # indented as in the source, up to Python 3.12
    return schema


def _changed(body: Resource, change: str) -> Resource:
    """Return a copy of a mapping with one value in another's place; a list may grow by one."""
    if not (parts := CHANGE.fullmatch(change)):
        raise IntentError(f"--set {change!r} must be like limits.retries=3 or pools[0].name=llama")
    path = _steps("." + parts[1])
    try:
        value: Any = yaml.safe_load(parts[2])
    except (yaml.YAMLError, ValueError, RecursionError):
        raise IntentError(f"--set {parts[1]}: {parts[2]!r} is not YAML; put text with signs in it in quotes") from None
    return cast("Resource", _with(body, path, value, ()))


def _with(old: Any, path: Path, value: Any, done: Path) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        if not isinstance(old, dict | None):
            raise IntentError(f"--set {spell((*done, step))}: {spell(done)} has no fields")
        fields: dict[str, Any] = {**(cast("dict[str, Any]", old or {}))}
        return fields | {step: _with(fields.get(step), rest, value, (*done, step))}
    items = [*cast("list[Any]", old or [])] if isinstance(old, list | None) else []
    if step > len(items):
        raise IntentError(f"--set {spell((*done, step))}: {spell(done)} has {len(items)} items, from [0] on")
    part = _with(items[step] if step < len(items) else None, rest, value, (*done, step))
    return [*items[:step], part, *items[step + 1 :]]


def place_of(message: str, document: Document) -> str:
    """Return what generators object to in an intent, with file and line before it if it begins with one of its fields."""
    field = re.match(r"\w+", message)
    if field and field[0] in {each.encode_name for each in msgspec.structs.fields(Intent)}:
        return _placed(f"$.{message}", document)
    return f"{document.file}: {message}" if document.file else message


def _placed(message: str, document: Document) -> str:
    """Return a message that begins with a path, with file and line before it: those of a field that is unknown, if one is."""
    place = PLACE.match(message)
    if not document.file or place is None:
        return message
    path = _steps(place[0])
    if unknown := re.match(r": unknown field '(.*?)'; ", message[place.end() :]):
        path = (*path, unknown[1])
    return f"{document.file}:{document.line(path)}: {message}"


def _steps(path: str) -> Path:
    """Return the steps of a path such as ``.pools[0].name``."""
    return tuple(name or int(index) for name, index in STEP.findall(path))


def _explain(error: msgspec.ValidationError, plain: object) -> str:
    """Turn msgspec's message into one with path, value, what is allowed and what the field is for."""
    # msgspec ends its messages with the place, unless that is the root.
    reason, _, place = str(error).rpartition(" - at `")
    reason, path = (reason, place.removesuffix("`")) if reason and place.startswith("$") else (str(error), "$")
    if isinstance(error.__cause__, IntentError):  # a struct refused itself: its message begins with the field
        return f"{path}.{reason}"
    value, node, purpose = _look_up(path, plain)
    if unknown := UNKNOWN_FIELD.fullmatch(reason):
        return f"{path}: unknown field {unknown[1]!r}; {suggest(unknown[1], node.get('properties', ()))}"
    if invalid := INVALID_CHOICE.fullmatch(reason):
        return f"{path}: {invalid[1]!r} is not a choice; {suggest(invalid[1], node.get('enum', ()))}"
    if "matching regex" in reason:
        words = next(each[IN_WORDS] for each in (node, *node.get("anyOf", ())) if IN_WORDS in each)
        return f"{path}: {value!r} {words}. {purpose}"
    got = "" if isinstance(value, dict | list) else f" (it is {value!r})"
    return f"{path}: {reason[:1].lower()}{reason[1:]}{got}{purpose and '. ' + purpose}"


def _look_up(path: str, plain: Any) -> tuple[Any, Any, str]:
    """Return what the file and the schema have at a path: the value, what it may be, and what it is for."""
    schema = intent_schema()
    node: Any = schema
    purpose = ""
    for step in _steps(path):
        node = _resolved(node, schema)
        node = node.get("properties", {}).get(step, {}) if isinstance(step, str) else node.get("items", {})
        plain = plain[step]
        purpose = node.get("description", purpose)
    node = _resolved(node, schema)
    return plain, node, purpose


def _resolved(node: Any, schema: Any) -> Any:
    """Follow a schema's reference, through the alternative to null."""
    for option in node.get("anyOf", [node]):
        if reference := option.get("$ref"):
            return schema["$defs"][reference.rpartition("/")[2]]
    return node
