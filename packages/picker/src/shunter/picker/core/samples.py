"""What a family shows at one moment: a value for each combination of its labels."""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from shunter.picker.core.buckets import Histogram
from shunter.picker.core.families import Family, Twin

__all__ = ["Labels", "Samples", "Sum", "Value", "by_label", "fold", "single"]

Labels: TypeAlias = tuple[str, ...]


class Sum(msgspec.Struct, frozen=True):
    """A summary's: of how many, and how much together."""

    count: int
    total: float


Value: TypeAlias = float | Histogram | Sum


class Samples(msgspec.Struct, frozen=True):
    """A family with its values, by the values of its labels."""

    family: Family
    values: Mapping[Labels, Value]


def single(family: Family, value: Value) -> Samples:
    """Return the only value of a family without labels."""
    return Samples(family, {(): value})


def by_label(family: Family, values: Mapping[str, Value]) -> Samples:
    """Return the values of a family with one label."""
    return Samples(family, {(label,): value for label, value in values.items()})


def fold(samples: Samples, twin: Twin) -> dict[Labels, Value]:
    """Return what an older name shows: for its labels the sum over those that it lacks."""
    places = [samples.family.labels.index(label) for label in twin.sources]
    found: dict[Labels, Value] = {}
    for labels, value in samples.values.items():
        kept = tuple([labels[at] for at in places])
        found[kept] = _add(found[kept], value) if kept in found else value
    return found


def _add(one: Value, other: Value) -> Value:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        return one.plus(other)
    if isinstance(one, Sum) and isinstance(other, Sum):
        return Sum(one.count + other.count, one.total + other.total)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    raise TypeError(f"{type(one).__name__} and {type(other).__name__} under one name")
