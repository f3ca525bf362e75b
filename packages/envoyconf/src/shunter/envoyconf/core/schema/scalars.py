"""One value of protobuf's JSON mapping, read as leniently as Envoy reads it.

Envoy keeps the older habits of protobuf's parser, tried on 1.40: ``yes`` is a bool, ``1e3`` in quotes a whole number, and the
choice STATIC may be ``static``. What its YAML parser takes for a number with a point, or for one beyond 32 bits, it hands on as
text.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Any

from shunter.envoyconf.core.schema.shapes import Field, Kind

__all__ = ["DURATION", "NOTHING", "read", "spelt"]

# What a value is that cannot be read.
NOTHING: Any = object()

DURATION = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?s")
DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
BOOLS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}

# Longer digits are no number of 64 bits, and would only be read slowly.
LONGEST_NUMBER = 40

# Whole numbers that Envoy's YAML parser keeps as such.
NUMBERS = range(-(1 << 31), 1 << 31)


def read(value: object, field: Field) -> Any:
    """Return a scalar as Python has it (of an enum the number), or NOTHING if it does not fit the field."""
    if isinstance(value, float) or (isinstance(value, int) and value not in NUMBERS):
        value = repr(value)
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
    return value if isinstance(value, bool) else BOOLS.get(value.lower(), NOTHING) if isinstance(value, str) else NOTHING


def _integer(value: object, field: Field) -> Any:
    number = value
    if isinstance(value, str) and len(value) < LONGEST_NUMBER and (decimal := DECIMAL.fullmatch(value)):
        number = int(value) if decimal.group(1, 2) == (None, None) else _whole(float(value))
    smallest, largest = _bounds(field)
    fits = isinstance(number, int) and not isinstance(number, bool) and smallest <= number <= largest
    return number if fits else NOTHING


def _whole(number: float) -> object:
    return int(number) if math.isfinite(number) and number.is_integer() else NOTHING


def _number(value: object, _: Field) -> Any:
    if isinstance(value, str):
        special = value in {"NaN", "Infinity", "-Infinity"}
        decimal = len(value) < LONGEST_NUMBER and DECIMAL.fullmatch(value)
        return float(value) if special or (decimal and math.isfinite(float(value))) else NOTHING
    return value if isinstance(value, int) and not isinstance(value, bool) else NOTHING


def _choice(value: object, field: Field) -> Any:
    if isinstance(value, str):
        choice = field.choices.get(value) or field.choices.get(value.upper())
        return choice.number if choice else NOTHING
    return value if isinstance(value, int) and not isinstance(value, bool) else NOTHING


READERS: dict[Kind, Callable[[object, Field], Any]] = {
    Kind.STRING: _text,
    Kind.BYTES: _bytes,
    Kind.BOOL: _bool,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.ENUM: _choice,
}
