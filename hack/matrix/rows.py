"""What was checked of a gateway, one row a check, and the file that keeps all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

__all__ = ["Record", "Row", "Rows", "Suite"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One check of what is generated for one target, in one profile, on one Envoy."""

    target: str
    envoy_version: str
    profile: str
    check: str
    ok: bool
    detail: str = ""


class Record(Protocol):
    """Takes down one row."""

    def __call__(self, *, target: str, envoy_version: str, profile: str, check: str, ok: bool, detail: str = "") -> None:
        """Take it down."""


# Given the versions of Envoy that are asked for; what it needs and does not find is a reason to record nothing.
Suite = Callable[[Record, tuple[str, ...]], None]


class Rows:
    """All rows so far; each is shown as it comes."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._rows: list[Row] = []
        self._show = show

    def record(self, *, target: str, envoy_version: str, profile: str, check: str, ok: bool, detail: str = "") -> None:
        """Take one down."""
        row = Row(target=target, envoy_version=envoy_version, profile=profile, check=check, ok=ok, detail=detail)
        self._rows.append(row)
        mark = "ok" if ok else "FAILED"
        self._show(f"{mark:6} {target} {envoy_version} {profile}: {check}{f' ({detail})' if detail else ''}")

    @property
    def failed(self) -> list[Row]:
        """Those that did not hold."""
        return [row for row in self._rows if not row.ok]

    def __iter__(self):
        return iter(self._rows)

    def write(self, path: Path) -> None:
        """Keep them, one a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(msgspec.json.encode(row).decode() for row in self._rows)
        path.write_text(f"[\n{lines}\n]\n")
