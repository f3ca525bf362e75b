"""Signals: which series of a metrics page say what a picker wants to know."""

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from shunter.conformance.errors import UsageError

__all__ = ["Role", "Signal", "parse_signals"]


class Role(StrEnum):
    """What a picker wants to know from a gauge."""

    QUEUE = "queue"
    RUNNING = "running"
    KV = "kv"

    @property
    def feature(self) -> str:
        """The feature that a case names when it needs this gauge."""
        return f"{self}-metric"


class Signal(msgspec.Struct, frozen=True):
    """A metric family and the labels by which the wanted series are chosen."""

    family: str
    labels: dict[str, str] = {}

    def __str__(self) -> str:
        """Name and labels as in PromQL."""
        inner = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.family}{{{inner}}}" if inner else self.family


_SELECTOR = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^{}]*)\})?\s*")
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("?)([^",=]*?)\2\s*')


def parse_signals(texts: Iterable[str]) -> dict[Role, Signal]:
    """Read each `ROLE=FAMILY` or `ROLE=FAMILY{label=value,…}`, the notation of the reference picker's metric flags."""
    signals: dict[Role, Signal] = {}
    for text in texts:
        role, equals, selector = text.partition("=")
        if not equals or role not in set(Role):
            raise UsageError(f"--metric {text!r}: want ROLE=FAMILY with ROLE one of {', '.join(Role)}")
        if role in signals:
            raise UsageError(f"--metric {text!r}: {role} is {signals[Role(role)]} already")
        family = _SELECTOR.fullmatch(selector)
        parts = [part for part in (family[2] or "").split(",") if part.strip()] if family else []
        labels = [match for part in parts if (match := _MATCHER.fullmatch(part))]
        if family is None or len(labels) != len(parts):
            raise UsageError(f"--metric {text!r}: {selector!r} is not FAMILY or FAMILY{{label=value,…}}")
        signals[Role(role)] = Signal(family[1], {match[1]: match[3] for match in labels})
    return signals
