"""Everything that has a name, explained: fields of the intent, profiles, targets, and the linter's rules."""

import json
import re
from collections.abc import Iterator
from typing import Any

from shunter.envoyconf.core.generate import MAKERS
from shunter.envoyconf.core.intent import Profile
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.report import describe
from shunter.envoyconf.core.reading import intent_schema
from shunter.envoyconf.core.spelling import suggest
from shunter.envoyconf.core.targets import Means, Support, Target
from shunter.envoyconf.errors import IntentError

__all__ = ["explain", "fields", "support_table"]

# Defaults that leave something out.
NOTHING = {"null", "[]"}

SIGNS = {Means.NATIVE: "yes", Means.PATCH: "by patch", Means.IMPOSSIBLE: "no"}


def explain(word: str) -> str:
    """Return what is to be known of a word: a field or its path, a profile, a target, or a rule's code.

    Raises IntentError with what is spelt alike if nothing has that name.
    """
    if found := [text for explainer in (_rule, _profile, _target, _field) for text in explainer(word)]:
        return "\n".join(found)
    names = {each.rpartition(".")[2] for each in fields()} | {*fields()}
    known = [*(each.value for each in (*Profile, *Target)), *sorted(names), *(rule.code for rule in RULES)]
    raise IntentError(f"nothing is called {word!r}; {suggest(word, known)}")


def fields() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every field of an intent by its path, such as ``pools[].picker.tls``."""
    schema = intent_schema()
    return dict(_walk(schema["$defs"]["Intent"], "", schema["$defs"]))


def support_table() -> list[tuple[str, ...]]:
    """Return the table of what each target can do: a head, and a row for each target."""
    rows = [("target", *(profile.value for profile in Profile))]
    rows += [(target.value, *(SIGNS[maker.support[profile].means] for profile in Profile)) for target, maker in MAKERS.items()]
    return rows


def _walk(struct: dict[str, Any], prefix: str, definitions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, kind in struct.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, kind
        inner, ending = _inner(kind)
        if inner is not None:
            yield from _walk(definitions[inner], f"{path}{ending}.", definitions)


def _inner(kind: dict[str, Any]) -> tuple[str | None, str]:
    """Return the name of the struct that a field holds, and how paths go on into it."""
    for option in kind.get("anyOf", [kind]):
        items = option.get("items", {}) if option.get("type") == "array" else option
        if reference := items.get("$ref"):
            return reference.rpartition("/")[2], "[]" if option.get("type") == "array" else ""
    return None, ""


def _rule(word: str) -> Iterator[str]:
    yield from (describe(rule) for rule in RULES if rule.code == word.upper())


def _profile(word: str) -> Iterator[str]:
    for profile in Profile:
        if profile.value == word:
            lines = [f"profile {word}: {profile.about}", ""]
            lines += [_possible(target.value, maker.support[profile]) for target, maker in MAKERS.items()]
            yield "\n".join(lines) + "\n"


def _target(word: str) -> Iterator[str]:
    for target, maker in MAKERS.items():
        if target.value == word:
            lines = [f"target {word}: {target.about}", ""]
            lines += [_possible(profile.value, maker.support[profile]) for profile in Profile]
            yield "\n".join(lines) + "\n"


def _possible(name: str, support: Support) -> str:
    nearest = f"; nearest is {support.nearest.value}" if support.nearest else ""
    why = f": {support.why}" if support.why else ""
    return f"  {name:<20} {SIGNS[support.means]}{why}{nearest}"


def _field(word: str) -> Iterator[str]:
    """Explain the field of that path, or each of that name."""
    path = re.sub(r"\[\d*\]", "", word.removeprefix("$").removeprefix("."))
    for known, kind in fields().items():
        plain = known.replace("[]", "")
        if path == plain or plain.endswith(f".{path}"):
            yield _told(known, kind)


def _told(path: str, kind: dict[str, Any]) -> str:
    schema = intent_schema()["$defs"]
    inner, _ = _inner(kind)
    lines = [f"{path} ({_type(kind)}{_default(kind)})", f"    {kind.get('description', '')}"]
    if inner is not None and "properties" in schema[inner]:
        lines += [f"    {name}: {part.get('description', '')}" for name, part in schema[inner]["properties"].items()]
    else:
        lines += ["", *(f"    {line}" for line in _example(path, kind))]
    return "\n".join(lines) + "\n"


def _example(path: str, kind: dict[str, Any]) -> list[str]:
    """Return the YAML that states a field, with its default if it has one."""
    lines: list[str] = []
    indent, item = 0, ""
    for step in path.split("."):
        lines.append(f"{' ' * indent}{item}{step.removesuffix('[]')}:")
        indent += len(item) + (0 if step.endswith("[]") else 2)
        item = "- " if step.endswith("[]") else ""
    default = json.dumps(kind.get("default"))
    return [*lines[:-1], f"{lines[-1]} {'…' if default in NOTHING else default}"]


def _default(kind: dict[str, Any]) -> str:
    if "default" not in kind:
        return ""
    default = json.dumps(kind["default"])
    # What fields of fields are by default is told with each of them.
    return "" if "{" in default else f", {'none' if default in NOTHING else default} if left out"


def _type(kind: dict[str, Any]) -> str:
    if "anyOf" in kind:
        return " or ".join(_type(each) for each in kind["anyOf"] if each.get("type") != "null")
    if reference := kind.get("$ref"):
        definition = intent_schema()["$defs"][reference.rpartition("/")[2]]
        return " or ".join(map(str, definition["enum"])) if "enum" in definition else "fields"
    if kind.get("type") == "array":
        return f"list of {_type(kind.get('items', {}))}"
    bounds = " to ".join(str(kind[name]) for name in ("minimum", "maximum") if name in kind)
    return str(kind.get("type", "any")) + (f" {bounds}" if bounds else "")
