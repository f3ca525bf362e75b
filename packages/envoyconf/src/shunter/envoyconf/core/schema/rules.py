"""The constraints that Envoy's API puts on values, in the language of protoc-gen-validate.

Envoy checks them when it reads a configuration, and refuses it with a dump of the whole. Of the language this is what Envoy
1.36 to 1.40 use, 1,213 rules of 60 kinds; one that is not known here constrains nothing, so that it never refuses what Envoy
takes.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

__all__ = ["FREE", "NANOSECONDS", "Check", "Rules", "compile_rules"]

NANOSECONDS = 1_000_000_000

# validate.proto, KnownRegex: what may stand in a header, strictly or so that no line can be broken out of.
HEADER_NAME, HEADER_VALUE = 1, 2
STRICT = {HEADER_NAME: r":?[0-9a-zA-Z!#$%&'*+\-.^_|~`]+", HEADER_VALUE: r"[^\x00-\x08\x0A-\x1F\x7F]*"}
LENIENT = r"[^\x00\x0A\x0D]*"
CALLED = {HEADER_NAME: "a header's name", HEADER_VALUE: "a header's value"}


class Check(msgspec.Struct, frozen=True):
    """One constraint: what a value must do, in words that follow it, and whether it does."""

    demand: str
    holds: Callable[[Any], bool]


class Rules(msgspec.Struct, frozen=True):
    """The constraints of a field: of its value as a whole, and of each item, key and value in it."""

    required: bool = False
    skip: bool = False  # what is in the message is not checked
    ignore_empty: bool = False
    defined_only: bool = False  # no number beside the enum's own
    checks: tuple[Check, ...] = ()
    items: "Rules | None" = None
    keys: "Rules | None" = None
    values: "Rules | None" = None


FREE = Rules()


def compile_rules(rules: Any) -> Rules:
    """Return what a ``validate.FieldRules`` says."""
    message = rules.message if rules.HasField("message") else None
    kind = rules.WhichOneof("type")
    if kind is None:
        return Rules(required=bool(message and message.required), skip=bool(message and message.skip))
    given = getattr(rules, kind)
    stated = {field.name: value for field, value in given.ListFields()}
    return Rules(
        required=bool((message and message.required) or stated.get("required")),
        skip=bool(message and message.skip),
        ignore_empty=bool(stated.get("ignore_empty")),
        defined_only=bool(stated.get("defined_only")),
        checks=tuple(_checks(kind, stated)),
        items=compile_rules(stated["items"]) if "items" in stated else None,
        keys=compile_rules(stated["keys"]) if "keys" in stated else None,
        values=compile_rules(stated["values"]) if "values" in stated else None,
    )


def _checks(kind: str, stated: dict[str, Any]) -> Iterator[Check]:
    if kind == "duration":
        for name in (each for each in stated if each in COMPARISONS):
            limit = stated[name].seconds * NANOSECONDS + stated[name].nanos
            words, compare = COMPARISONS[name]
            yield Check(f"must be {words} {limit / NANOSECONDS:.9g}s", _comparing(compare, limit))
        return
    for name, limit in stated.items():
        if name in COMPARISONS:
            words, compare = COMPARISONS[name]
            yield Check(
                f"must be {words} {limit:g}" if isinstance(limit, float) else f"must be {words} {limit}",
                _comparing(compare, limit),
            )
        elif maker := MAKERS.get(name):
            yield maker(limit)
    if regex := stated.get("well_known_regex"):
        strict = stated.get("strict", True)
        yield Check(f"must be fit for {CALLED[regex]}", _matching(STRICT[regex] if strict else LENIENT))


def _comparing(compare: Callable[[Any, Any], bool], limit: Any) -> Callable[[Any], bool]:
    return lambda value: compare(value, limit)


def _matching(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "lt": ("less than", lambda value, limit: value < limit),
    "lte": ("at most", lambda value, limit: value <= limit),
    "gt": ("greater than", lambda value, limit: value > limit),
    "gte": ("at least", lambda value, limit: value >= limit),
    "const": ("exactly", lambda value, limit: value == limit),
}

MAKERS: dict[str, Callable[[Any], Check]] = {
    "min_len": lambda n: Check(_at_least(n, "character"), lambda value: len(value) >= n),
    "max_len": lambda n: Check(f"must have at most {n} characters", lambda value: len(value) <= n),
    "min_bytes": lambda n: Check(_at_least(n, "byte"), lambda value: _bytes(value) >= n),
    "max_bytes": lambda n: Check(f"must have at most {n} bytes", lambda value: _bytes(value) <= n),
    "prefix": lambda text: Check(f"must begin with {text!r}", lambda value: value.startswith(text)),
    "suffix": lambda text: Check(f"must end with {text!r}", lambda value: value.endswith(text)),
    "pattern": lambda text: Check(f"must match {text}", _matching(text)),
    "in": lambda known: Check(f"must be one of {', '.join(map(str, known))}", lambda value: value in known),
    "not_in": lambda known: Check(f"must not be {' or '.join(map(str, known))}", lambda value: value not in known),
    "min_items": lambda n: Check(_at_least(n, "item"), lambda value: len(value) >= n),
    "max_items": lambda n: Check(f"must have at most {n} items", lambda value: len(value) <= n),
    "unique": lambda _: Check("must not have an item twice", lambda value: len(set(value)) == len(value)),
    "min_pairs": lambda n: Check(_at_least(n, "entry"), lambda value: len(value) >= n),
}


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))  # half a character, from an escape, is counted, too


def _at_least(count: int, thing: str) -> str:
    plural = {"entry": "entries"}.get(thing, thing + "s")
    return "must not be empty" if count == 1 else f"must have at least {count} {plural}"
