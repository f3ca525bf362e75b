"""What is wrong with a resource in protobuf's JSON form: every place, by its path, with what to write instead.

Found is what makes Envoy refuse a resource when it reads it: fields, choices and types that are not known, values of another
kind, values outside the limits of Envoy's API, and all of that inside each extension's configuration (Any). Limits that Envoy
states and does not check are notes. Not found is what only the extension itself objects to, such as a cluster that is not
there; Envoy's own validation mode tells that.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from shunter.envoyconf.core.documents import Path
from shunter.envoyconf.core.schema import scalars
from shunter.envoyconf.core.schema.catalogue import Schema
from shunter.envoyconf.core.schema.rules import FREE, NANOSECONDS, Rules
from shunter.envoyconf.core.schema.scalars import NOTHING, read, spelt
from shunter.envoyconf.core.schema.shapes import Field, Kind, Shape
from shunter.envoyconf.core.spelling import suggest
from shunter.envoyconf.core.versions import Version

__all__ = ["Problem", "notes", "problems"]


class Problem(msgspec.Struct, frozen=True):
    """One place where a resource is not what Envoy's API says, and what helps."""

    path: Path
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def problems(schema: Schema, resource: object, name: str, version: Version | None = None) -> tuple[Problem, ...]:
    """Return why Envoy refuses a resource as a message of that name; with a version, also what that Envoy does not have yet."""
    examination = Examination(schema, version)
    examination.embedded(resource, name, FREE, ())
    return tuple(examination.problems)


def notes(schema: Schema, resource: object, name: str) -> tuple[Problem, ...]:
    """Return what Envoy takes but is deprecated, by Envoy's own word not finished, or outside limits that it does not check."""
    examination = Examination(schema, None)
    examination.embedded(resource, name, FREE, ())
    return tuple(examination.notes)


ANY = "google.protobuf.Any"
DURATION = "google.protobuf.Duration"
VALUE = "google.protobuf.Value"

# Messages that JSON writes as text (protobuf's JSON mapping): how that is called, and what it looks like.
TEXTS = {
    DURATION: ("a duration in seconds, such as 0.25s", scalars.DURATION),
    "google.protobuf.Timestamp": (
        "a time, such as 2026-01-31T12:00:00Z",
        re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
    ),
    "google.protobuf.FieldMask": ("names of fields, with commas", re.compile(r"[\w.,]*")),
}

# Messages that JSON writes as the one value in them.
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)

# Messages that JSON writes as any value of a kind.
FREE_FORMS: dict[str, tuple[str, type]] = {
    "google.protobuf.Struct": ("an object", dict),
    "google.protobuf.ListValue": ("a list", list),
    VALUE: ("", object),
}

IN_A_FORM_OF_THEIR_OWN = TEXTS.keys() | WRAPPERS

# Another message written as an object, by those who do not have its descriptors.
TYPED_STRUCTS = frozenset({"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"})

# Load balancing policies whose limits Envoy does not check: 1.36 and 1.40 take choice_count 1 and hash_balance_factor 50, and
# end in a panic at a hash_policy without anything in it. Of override_host they check them.
UNCHECKED = "envoy.extensions.load_balancing_policies."
CHECKED = "envoy.extensions.load_balancing_policies.override_host."

# protobuf's limit; a duration in years means a mistake anyhow.
LONGEST_DURATION_S = 315_576_000_000

# A value is shown to be recognised. It may be a certificate.
LONGEST_SHOWN = 60

ZEROES = {Kind.MESSAGE: dict[str, object](), Kind.STRING: "", Kind.BYTES: "", Kind.BOOL: False}
KINDS_SHOWN: dict[type, str] = {dict: "an object", list: "a list", type(None): "null"}


class Examination:
    """A walk along a resource and the shapes of its messages. Whatever it meets, it goes on."""

    def __init__(self, schema: Schema, version: Version | None) -> None:
        self._schema = schema
        self._version = version
        self._unchecked = False  # whether Envoy lets limits be, where the walk is
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def message(self, value: object, shape: Shape, path: Path, *, skip: bool = False, envelope: bool = False) -> None:
        """Examine one message; ``skip`` leaves the limits of its values out, ``envelope`` lets it say its own @type."""
        if not isinstance(value, dict):
            self._mistaken(value, "an object", path)
            return
        written: dict[str, str] = {}
        for key, part in cast("dict[Any, Any]", value).items():
            if envelope and key == "@type":
                continue
            field = shape.fields.get(key)
            if field is None:
                self._problem(
                    (*path, str(key)), f"unknown field {_shown(key)} in {shape.full_name}", suggest(str(key), shape.names)
                )
            elif field.name in written:
                self.notes.append(Problem((*path, key), f"the same field as {written[field.name]!r}", "keep one"))
            elif part is not None or (field.message and field.message.full_name == VALUE):
                written[field.name] = key
                self._mark(field, (*path, key))
        for name, members in shape.alternatives.items():
            self._alternatives(name, [written[each] for each in members if each in written], members, shape, path, skip=skip)
        for name, field in {field.name: field for field in shape.fields.values()}.items():
            if name in written:
                rules = FREE if skip else field.rules
                key = written[name]
                self._field(cast("dict[Any, Any]", value)[key], field, rules, (*path, key))
            elif not skip:
                self._absent(field, path)

    def _alternatives(
        self, name: str, given: list[str], members: tuple[str, ...], shape: Shape, path: Path, *, skip: bool
    ) -> None:
        if len(given) > 1:
            self._problem((*path, given[1]), f"{' and '.join(given)} are alternatives", "keep one")
        elif not given and name in shape.demanded and not skip:
            self._limit(path, f"{name} is missing in {shape.full_name}", f"give one of {', '.join(members)}")

    def _absent(self, field: Field, path: Path) -> None:
        """Hold the zero that an absent field stands for against its constraints."""
        rules = field.rules
        if field.alternative:
            return
        if rules.required:
            self._limit(path, f"{field.name} is missing", "it is required")
        elif field.values or field.repeated:
            self._check([], rules, path, f"{field.name} is missing: it ")
        elif not field.presence:
            self._check(_zero(field), rules, path, f"{field.name} is missing: it ")

    def _mark(self, field: Field, path: Path) -> None:
        """Note what a field is not yet, or no longer."""
        self._new(field.full_name, path)
        if field.disallowed:
            self._problem(
                path, f"{field.name} is deprecated, and Envoy refuses it", "see its documentation for what replaced it"
            )
        elif field.deprecated:
            self.notes.append(Problem(path, f"{field.name} is deprecated"))
        if field.unfinished:
            self.notes.append(Problem(path, f"{field.name} is work in progress, and may change without notice"))

    def _new(self, full_name: str, path: Path) -> None:
        since = self._schema.since.get(full_name)
        if self._version and since and since > self._version:
            name = full_name.rpartition(".")[2] if path and path[-1] != "@type" else full_name
            self._problem(
                path, f"{name} is there since Envoy {since}; this is for {self._version}", "leave it out, or use a newer Envoy"
            )

    def _field(self, value: object, field: Field, rules: Rules, path: Path) -> None:
        if field.values and field.keys:
            self._map(value, field.keys, field.values, rules, path)
        elif field.repeated:
            items = [self._value(item, field, rules.items or FREE, place) for place, item in _items(value, field, path)]
            self._check(items, rules, path)
        else:
            self._value(value, field, rules, path)

    def _map(self, value: object, keys: Field, values: Field, rules: Rules, path: Path) -> None:
        if not isinstance(value, dict):
            self._mistaken(value, "an object", path)
            return
        entries = cast("dict[str, Any]", value)
        for key, part in entries.items():
            self._value(key, keys, rules.keys or FREE, (*path, key))
            self._value(_zero(values) if part is None else part, values, rules.values or FREE, (*path, key))
        self._check(entries, rules, path)

    def _value(self, value: object, field: Field, rules: Rules, path: Path) -> Any:
        """Examine one value and hold it against its constraints; return it as Python has it, or NOTHING."""
        if field.kind is Kind.MESSAGE:
            return self.embedded(value, cast("Any", field.message).full_name, rules, path)
        known = self._scalar(value, field, path)
        if known is not NOTHING:
            self._check(known, rules, path, f"{_shown(value)} ")
            if rules.defined_only and known not in {choice.number for choice in field.choices.values()}:
                self._limit(path, f"{known} is not a choice", suggest(str(value), field.choices))
        return known

    def embedded(self, value: object, name: str, rules: Rules, path: Path) -> Any:
        """Examine a message in whatever form JSON has for it; return it if that is one value, or NOTHING."""
        if name == ANY:
            self._any(value, path)
        elif name in IN_A_FORM_OF_THEIR_OWN and _is_object(value):  # Envoy reads their plain form, too
            self._plain(cast("dict[str, Any]", value), self._schema.shape(name), rules, path)
        elif name in TEXTS:
            self._text(value, name, rules, path)
        elif name in WRAPPERS:
            return self._value(value, self._schema.shape(name).fields["value"], rules, path)
        elif name in FREE_FORMS:
            form, kind = FREE_FORMS[name]
            if not isinstance(value, kind):
                self._mistaken(value, form, path)
        else:
            self.message(value, self._schema.shape(name), path, skip=rules.skip)
        return NOTHING

    def _plain(self, fields: dict[str, Any], shape: Shape, rules: Rules, path: Path) -> None:
        self.message(fields, shape, path)
        parts = {field.name: read(fields.get(field.name, _zero(field)), field) for field in shape.fields.values()}
        if NOTHING in parts.values():
            return
        if shape.full_name == DURATION:
            self._check(parts["seconds"] * NANOSECONDS + parts["nanos"], rules, path, f"{_shown(fields)} ")
        elif shape.full_name in WRAPPERS:
            self._check(parts["value"], rules, path, f"{_shown(fields)} ")

    def _text(self, value: Any, name: str, rules: Rules, path: Path) -> None:
        if not isinstance(value, str) or not TEXTS[name][1].fullmatch(value):
            self._mistaken(value, TEXTS[name][0], path)
        elif name == DURATION:
            self._duration(value, rules, path)

    def _duration(self, value: str, rules: Rules, path: Path) -> None:
        sign, seconds, fraction = cast("re.Match[str]", scalars.DURATION.fullmatch(value)).groups()
        if int(seconds) > LONGEST_DURATION_S:
            self._problem(path, f"{_shown(value)} is more than 10,000 years")
            return
        nanoseconds = int(seconds) * NANOSECONDS + int((fraction or "").ljust(9, "0"))
        self._check(-nanoseconds if sign else nanoseconds, rules, path, f"{_shown(value)} ")

    def _any(self, value: object, path: Path) -> None:
        """Examine the configuration of an extension as the message that it says it is."""
        if not isinstance(value, dict):
            self._mistaken(value, "an object", path)
            return
        content = cast("dict[str, Any]", value)
        url = content.get("@type")
        if not content:
            return
        if not isinstance(url, str):
            self._problem(path, "@type is missing", "say which message this is: type.googleapis.com/envoy.…")
            return
        host, _, name = url.rpartition("/")
        place = (*path, "@type")
        if not host:
            self._problem(place, f"{_shown(url)} is no type URL", f"write type.googleapis.com/{url}")
            return
        try:
            shape = self._schema.shape(name)
        except KeyError:
            self._problem(place, f"no message is called {_shown(name)}", suggest(name, self._schema.names))
            return
        self._new(name, place)
        if shape.unfinished:
            self.notes.append(Problem(path, f"{name} is work in progress, and may change without notice"))
        if name == ANY or name in IN_A_FORM_OF_THEIR_OWN or name in FREE_FORMS:
            self.embedded(content.get("value"), name, FREE, (*path, "value"))
        else:
            before, self._unchecked = self._unchecked, name.startswith(UNCHECKED) and not name.startswith(CHECKED)
            self.message(content, shape, path, envelope=True)
            self._unchecked = before
        if name in TYPED_STRUCTS and isinstance(content.get("type_url"), str) and isinstance(content.get("value"), dict):
            self._any({**content["value"], "@type": content["type_url"]}, (*path, "value"))

    def _scalar(self, value: object, field: Field, path: Path) -> Any:
        known = read(value, field)
        if known is NOTHING and field.kind is Kind.ENUM and isinstance(value, str):
            self._problem(path, f"{_shown(value)} is not a choice", suggest(value, field.choices))
        elif known is NOTHING:
            self._mistaken(value, spelt(field), path)
        elif field.kind is Kind.ENUM:
            self._mark_choice(field, known, path)
        return known

    def _mark_choice(self, field: Field, number: int, path: Path) -> None:
        for name, choice in field.choices.items():
            if choice.number == number:
                self._new(choice.full_name, path)
                if choice.disallowed:
                    self._problem(path, f"{name} is deprecated, and Envoy refuses it", "choose another")
                elif choice.deprecated:
                    self.notes.append(Problem(path, f"{name} is deprecated"))

    def _check(self, value: Any, rules: Rules, path: Path, subject: str = "") -> None:
        if rules.ignore_empty and not value:
            return
        for check in rules.checks:
            if not check.holds(value):
                self._limit(path, subject + check.demand)

    def _mistaken(self, value: object, wanted: str, path: Path) -> None:
        self._problem(path, f"{KINDS_SHOWN.get(type(value)) or _shown(value)} where {wanted} belongs")

    def _limit(self, path: Path, text: str, remedy: str = "") -> None:
        """Note that a value is outside the limits that Envoy's API states for it."""
        if self._unchecked:
            self.notes.append(Problem(path, f"{text}; Envoy does not check that, and does with it what it will", remedy))
        else:
            self._problem(path, text, remedy)

    def _problem(self, path: Path, text: str, remedy: str = "") -> None:
        self.problems.append(Problem(path, text, remedy))


def _items(value: object, field: Field, path: Path) -> Iterator[tuple[Path, object]]:
    """Yield what a list holds; Envoy takes one thing for a list of it, looks into lists in lists, and null for zero."""
    if isinstance(value, list):
        for place, item in enumerate(cast("list[object]", value)):
            yield from _items(_zero(field) if item is None else item, field, (*path, place))
    else:
        yield path, value


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _zero(field: Field) -> object:
    """Return what a field is that says nothing."""
    return ZEROES.get(field.kind, 0)
