"""Quantities as Kubernetes writes them: ``5000``, ``"10k"``, ``1G``, ``4Gi``, ``1.5e3``."""

import re
from fractions import Fraction

__all__ = ["read_quantity"]

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([eE][+-]?\d{1,2}|[kMGTPE]i?|Ki|m|)")
_UNITS = {
    "": 1,
    "m": Fraction(1, 1000),
    **{name: 1000**power for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": 1024**power for power, name in enumerate("KMGTPE", 1)},
}


_MOST = 2**63 - 1


def read_quantity(value: float | str) -> int:
    """Return a number of things, rounded up and at most 2**63 - 1 as in Kubernetes; raise ValueError."""
    found = _FORM.fullmatch(str(value))
    if not found:
        raise ValueError(f"{value!r} is not a quantity such as 5000, 10k, 1G or 4Gi")
    number, unit = Fraction(found[1]), found[2]
    scaled = number * _UNITS[unit] if unit in _UNITS else number * Fraction(10) ** int(unit[1:])
    if scaled < 0:
        raise ValueError(f"{value!r} is below 0")
    return min(_MOST, -int(-scaled // 1))
