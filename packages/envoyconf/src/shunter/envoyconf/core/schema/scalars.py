"""One value of protobuf's JSON mapping, read as strictly as Envoy reads it."""

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Any, cast

from shunter.envoyconf.core.schema.shapes import Field, Kind

__all__ = ["NOTHING", "read", "spelt"]

# What a value is that cannot be read.
NOTHING: Any = object()

WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")

# Longer digits are no number of 64 bits, and would only be read slowly.
LONGEST_NUMBER = 40


def read(value: object, field: Field) -> Any:
    """Return a scalar as Python has it (of an enum the number), or NOTHING if it does not fit the field."""
    return READERS[field.kind](value, field)


def spelt(field: Field) -> str:
    """Return in words what belongs into a field."""
    if field.kind is Kind.INTEGER:
        smallest, largest = _bounds(field)
        return f"{field.kind.value} from {smallest} to {largest}"
    return field.kind.value


def _bounds(field: Field) -> tuple[int, int]:
    bits = abs(field.bits)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if field.bits < 0 else (0, (1 << bits) - 1)


def _text(value: object, _: Field) -> Any:
    return value if isinstance(value, str) else NOTHING


def _bytes(value: object, _: Field) -> Any:
    if not isinstance(value, str):
        return NOTHING
    try:
        padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
        return base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return NOTHING


def _bool(value: object, _: Field) -> Any:
    return value if isinstance(value, bool) else NOTHING


def _integer(value: object, field: Field) -> Any:
    if isinstance(value, str):
        whole = len(value) < LONGEST_NUMBER and WHOLE.fullmatch(value)
    else:
        whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value == value // 1
    if not whole:
        return NOTHING
    number = int(cast("Any", value))
    smallest, largest = _bounds(field)
    return number if smallest <= number <= largest else NOTHING


def _number(value: object, _: Field) -> Any:
    if isinstance(value, str) and len(value) < LONGEST_NUMBER:
        if value in {"NaN", "Infinity", "-Infinity"}:
            return float(value)
        try:
            number = float(value)
        except ValueError:
            return NOTHING
        return number if math.isfinite(number) else NOTHING
    return value if isinstance(value, int | float) and not isinstance(value, bool) else NOTHING


def _choice(value: object, field: Field) -> Any:
    if isinstance(value, str):
        return field.choices[value].number if value in field.choices else NOTHING
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1 and abs(value) < 1 << 31:
        return int(value)
    return NOTHING


READERS: dict[Kind, Callable[[object, Field], Any]] = {
    Kind.STRING: _text,
    Kind.BYTES: _bytes,
    Kind.BOOL: _bool,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.ENUM: _choice,
}
