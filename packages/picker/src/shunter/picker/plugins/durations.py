"""Durations as Kubernetes and Go write them: ``200ms``, ``1m30s``, ``1.5h``."""

import re
from functools import lru_cache

__all__ = ["duration_ns"]

_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

LONGEST_NS = (1 << 63) - 1  # as in Go
LONGEST_TEXT = 40  # of a message


@lru_cache  # some are asked for with every request
def duration_ns(text: str) -> int:
    """Return nanoseconds; 0 for the empty text. Raises ValueError."""
    if _PART.sub("", text) and text != "0":
        raise ValueError(f"{text!r} is not a duration such as 200ms or 1m30s")
    whole = sum(float(number) * _UNITS_NS[unit] for number, unit in _PART.findall(text))
    if whole > LONGEST_NS:
        raise ValueError(f"{text[:LONGEST_TEXT]!r} is longer than 292 years")
    return round(whole)
