"""The schema that an Envoy was built with, read out of its binary.

protoc puts the serialised FileDescriptorProto of each file into the program, as one run of bytes, and with it everything that
Envoy's own parser knows: fields, types, the constraints of protoc-gen-validate, what is deprecated and what is unfinished.
"""

import re
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

__all__ = ["descriptors_in", "introductions", "parts_of"]

# How a FileDescriptorProto begins: field 1, its length, and a path such as envoy/config/core/v3/base.proto.
BEGINNING = re.compile(rb"\n([\x05-\x7f]|[\x80-\xff]\x01)((?:[\w.-]+/)*[\w.-]+\.proto)")

# Its fields (descriptor.proto): those that are messages or text, and those that may be a bare number.
FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15})
NUMBERS = frozenset({10, 11, 14})

VARINT, LENGTH = 0, 2
LONGEST_VARINT_BYTES = 10

# The files of Envoy's API; what they import comes along.
ROOT = "envoy/"


def descriptors_in(program: bytes) -> FileDescriptorSet:
    """Return the descriptors of Envoy's API in a program, in the order of their names; none if it has none."""
    found: dict[str, FileDescriptorProto] = {}
    for beginning in BEGINNING.finditer(program):
        start = beginning.start()
        try:
            file = FileDescriptorProto.FromString(program[start : _end(program, start)])
        except (DecodeError, IndexError):
            continue  # text that looks like the name of a file
        if file.ByteSize() > found[file.name].ByteSize() if file.name in found else file.package:
            found[file.name] = file
    wanted: set[str] = set()
    asked = [name for name in found if name.startswith(ROOT)]
    while asked:
        name = asked.pop()
        if name in found and name not in wanted:
            wanted.add(name)
            asked += found[name].dependency
    return FileDescriptorSet(file=[found[name] for name in sorted(wanted)])


def introductions(schemas: dict[str, FileDescriptorSet]) -> dict[str, list[str]]:
    """Return for each version, oldest first, what the one before lacks; of a new message or enum the name alone.

    The oldest version has nothing: what it brought is not known.
    """
    known: set[str] | None = None
    brought: dict[str, list[str]] = {}
    for version, schema in schemas.items():
        parts = set(parts_of(schema))
        if known is not None:
            new = parts - known
            brought[version] = sorted(part for part in new if part.rpartition(".")[0] not in new)
        known = parts | (known or set())
    return brought


def parts_of(schema: FileDescriptorSet) -> Iterator[str]:
    """Yield the full name of every message, field, enum and enum value."""
    for file in schema.file:
        for message in file.message_type:
            yield from _parts_of_message(message, file.package)
        for enum in file.enum_type:
            yield f"{file.package}.{enum.name}"
            yield from (f"{file.package}.{enum.name}.{value.name}" for value in enum.value)


def _parts_of_message(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    for enum in message.enum_type:
        yield f"{name}.{enum.name}"
        yield from (f"{name}.{enum.name}.{value.name}" for value in enum.value)
    for nested in message.nested_type:
        yield from _parts_of_message(nested, name)


def _end(program: bytes, start: int) -> int:
    """Return where the message that starts there ends: before what cannot be a field of it, or before the next name."""
    position, named = start, False
    while position < len(program):
        tag = program[position]
        number, kind = tag >> 3, tag & 7
        if number not in FIELDS or not (kind == LENGTH or (kind == VARINT and number in NUMBERS)):
            break
        if number == 1:
            if named:
                break
            named = True
        value, position_after = _varint(program, position + 1)
        end = position_after + value if kind == LENGTH else position_after
        if end > len(program):
            break
        position = end
    return position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a varint and where it ends; raise IndexError if it does not."""
    value = 0
    for place in range(LONGEST_VARINT_BYTES):
        byte = data[position + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + place + 1
    raise IndexError("a varint of more than ten bytes")
