"""What a message may hold: a descriptor with its options, as values that are quick to walk along."""

from enum import Enum
from typing import Any

import msgspec
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from shunter.envoyconf.core.schema.rules import FREE, Rules, compile_rules

__all__ = ["Choice", "Field", "Kind", "Shape", "Surveyor"]


class Kind(Enum):
    """What one value is in protobuf's JSON form."""

    MESSAGE = "an object"
    STRING = "text"
    BYTES = "base64 text"
    BOOL = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    ENUM = "one of its choices"


class Choice(msgspec.Struct, frozen=True):
    """One value of an enum."""

    number: int
    full_name: str
    deprecated: bool
    disallowed: bool


class Field(msgspec.Struct, frozen=True):
    """One field of a message."""

    name: str
    full_name: str
    kind: Kind
    bits: int  # of an integer; negative if it has a sign
    repeated: bool
    presence: bool  # whether absent is something else than zero
    alternative: bool  # whether it is one of several, of which at most one is there
    rules: Rules
    message: Descriptor | None
    values: "Field | None"  # of a map: what it leads to
    keys: "Field | None"
    choices: dict[str, Choice]
    deprecated: bool
    disallowed: bool  # deprecated for so long that Envoy refuses it
    unfinished: bool


class Shape(msgspec.Struct, frozen=True):
    """One message: its fields by each name that JSON may call them, and the alternatives among them."""

    full_name: str
    fields: dict[str, Field]
    alternatives: dict[str, tuple[str, ...]]  # names of the fields of each oneof
    demanded: frozenset[str]  # the alternatives of which one must be there
    unfinished: bool

    @property
    def names(self) -> list[str]:
        """Names of the fields as Envoy's documentation has them, in its order."""
        return list(dict.fromkeys(field.name for field in self.fields.values()))


INTEGERS = {
    FieldDescriptor.TYPE_INT32: -32,
    FieldDescriptor.TYPE_SINT32: -32,
    FieldDescriptor.TYPE_SFIXED32: -32,
    FieldDescriptor.TYPE_INT64: -64,
    FieldDescriptor.TYPE_SINT64: -64,
    FieldDescriptor.TYPE_SFIXED64: -64,
    FieldDescriptor.TYPE_UINT32: 32,
    FieldDescriptor.TYPE_FIXED32: 32,
    FieldDescriptor.TYPE_UINT64: 64,
    FieldDescriptor.TYPE_FIXED64: 64,
}
KINDS = {
    FieldDescriptor.TYPE_MESSAGE: Kind.MESSAGE,
    FieldDescriptor.TYPE_STRING: Kind.STRING,
    FieldDescriptor.TYPE_BYTES: Kind.BYTES,
    FieldDescriptor.TYPE_BOOL: Kind.BOOL,
    FieldDescriptor.TYPE_ENUM: Kind.ENUM,
    FieldDescriptor.TYPE_DOUBLE: Kind.NUMBER,
    FieldDescriptor.TYPE_FLOAT: Kind.NUMBER,
}

# Options, and what extends them: the constraints, and the marks of what is old or not yet done.
FIELD, MESSAGE, ONEOF, ENUM_VALUE, FILE = (
    f"google.protobuf.{each}Options" for each in ("Field", "Message", "Oneof", "EnumValue", "File")
)
RULES = "validate.rules"
DEMANDED = "validate.required"
DISALLOWED = "envoy.annotations.disallowed_by_default"
DISALLOWED_VALUE = "envoy.annotations.disallowed_by_default_enum"
STATUSES = {
    FIELD: ("xds.annotations.v3.field_status",),
    MESSAGE: ("xds.annotations.v3.message_status",),
    FILE: ("udpa.annotations.file_status", "xds.annotations.v3.file_status"),
}


class Surveyor:
    """Draws the shape of each message once, when it is first asked for."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._shapes: dict[str, Shape] = {}

    def shape(self, descriptor: Descriptor) -> Shape:
        """Return a message's shape."""
        if (known := self._shapes.get(descriptor.full_name)) is None:
            known = self._shapes[descriptor.full_name] = self._draw(descriptor)
        return known

    def _draw(self, descriptor: Descriptor) -> Shape:
        fields: dict[str, Field] = {}
        for each in descriptor.fields:
            fields[each.name] = fields[each.json_name] = self._field(each)
        # protoc makes a oneof of each optional field, too.
        oneofs = [each for each in descriptor.oneofs if not each.name.startswith("_")]
        return Shape(
            full_name=descriptor.full_name,
            fields=fields,
            alternatives={each.name: tuple(field.name for field in each.fields) for each in oneofs},
            demanded=frozenset(each.name for each in oneofs if self._option(each, ONEOF, DEMANDED)),
            unfinished=self._unfinished(descriptor, MESSAGE) or self._unfinished(descriptor.file, FILE),
        )

    def _field(self, descriptor: FieldDescriptor) -> Field:
        rules = self._option(descriptor, FIELD, RULES)
        entry = descriptor.message_type
        pair = entry.fields_by_name if entry is not None and entry.GetOptions().map_entry else None
        return Field(
            name=descriptor.name,
            full_name=descriptor.full_name,
            kind=KINDS.get(descriptor.type, Kind.INTEGER),
            bits=INTEGERS.get(descriptor.type, 0),
            repeated=descriptor.is_repeated,
            presence=descriptor.has_presence,
            alternative=descriptor.containing_oneof is not None,
            rules=compile_rules(rules) if rules is not None else FREE,
            message=entry,
            keys=self._field(pair["key"]) if pair else None,
            values=self._field(pair["value"]) if pair else None,
            choices=self._choices(descriptor),
            deprecated=bool(descriptor.GetOptions().deprecated),
            disallowed=bool(self._option(descriptor, FIELD, DISALLOWED)),
            unfinished=self._unfinished(descriptor, FIELD),
        )

    def _choices(self, descriptor: FieldDescriptor) -> dict[str, Choice]:
        if descriptor.enum_type is None:
            return {}
        return {
            each.name: Choice(
                number=each.number,
                full_name=f"{descriptor.enum_type.full_name}.{each.name}",
                deprecated=bool(each.GetOptions().deprecated),
                disallowed=bool(self._option(each, ENUM_VALUE, DISALLOWED_VALUE)),
            )
            for each in descriptor.enum_type.values
        }

    def _unfinished(self, descriptor: Any, options: str) -> bool:
        statuses = (self._option(descriptor, options, each) for each in STATUSES[options])
        return any(status is not None and status.work_in_progress for status in statuses)

    def _option(self, descriptor: Any, options: str, name: str) -> Any:
        """Return an option of a descriptor, None if it is not set.

        A descriptor's options are messages of the default pool, which does not know these extensions: they are read anew.
        """
        try:
            extension = self._pool.FindExtensionByName(name)
        except KeyError:
            return None
        known = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(options))
        read: Any = known.FromString(descriptor.GetOptions().SerializeToString())
        return read.Extensions[extension] if read.HasExtension(extension) else None
