"""Sizes and times as Kubernetes spells them."""

import re

from shunter.envoyconf.core.cursor import Cursor

__all__ = ["read_bytes", "read_seconds"]

QUANTITY = re.compile(r"(\d{1,15})(Ki|Mi|Gi|k|M|G|)")
UNITS = {"": 1, "k": 1000, "Ki": 1 << 10, "M": 10**6, "Mi": 1 << 20, "G": 10**9, "Gi": 1 << 30}

# Gateway API's durations (GEP-2257).
DURATION = re.compile(r"(\d{1,5}(h|m|s|ms)){1,4}")
PART = re.compile(r"(\d+)(h|ms|m|s)")
SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


def read_bytes(at: Cursor) -> int | None:
    """Return what a quantity such as 50Mi is; None if there is none."""
    match = QUANTITY.fullmatch(str(at.value))
    return int(match[1]) * UNITS[match[2]] if match and at else None


def read_seconds(at: Cursor) -> float | None:
    """Return what a duration such as 1m30s is; None if there is none."""
    if not DURATION.fullmatch(at.text):
        return None
    return sum(int(part[1]) * SECONDS[part[2]] for part in PART.finditer(at.text))
