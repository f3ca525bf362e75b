"""The figures as rows, as a table, and as the page docs/chaos.md."""

from pathlib import Path
from string import Template

import msgspec
from hack.chaos.trial import Row

__all__ = ["HEAD", "Header", "describe", "holds", "line", "page"]

SERVING_AGAIN_MS = 1000

COLUMNS = (
    *("profile", "fault", "strikes", "requests", "failed", "without a pick", "back after, median (worst)"),
    *("nobody picked for", "p99", "still booked"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what the figures were made."""

    seed: int
    rate_per_s: int
    workers: int
    cores: int
    python: str
    envoy: str
    kernel: str


def describe(header: Header) -> str:
    """One line for whoever wants to do it again."""
    return (
        f"{header.rate_per_s} requests/s, {header.workers} workers, {header.cores} cores, Envoy {header.envoy},"
        f" Python {header.python}, Linux {header.kernel}, seed {header.seed}"
    )


def holds(row: Row) -> bool:
    """Whether the fault cost nothing but the quality of choices, and that not for long."""
    return (
        not row.failures
        and not row.booked
        and row.silence_ms <= SERVING_AGAIN_MS
        and (not row.kills or row.recovery_max_ms is not None)
    )


def line(row: Row) -> str:
    """One line of the table."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(row.kinds.items()))
    cells = (
        row.profile,
        row.fault,
        f"{row.kills:,}",
        f"{row.requests:,}",
        f"**{row.failures:,}**" + (f" ({kinds})" if kinds else ""),
        f"{row.fallbacks:,}",
        _back(row),
        f"{row.silence_ms:,.0f} ms",
        f"{row.p99_ms:,.0f} ms",
        f"{row.booked:,}",
    )
    return f"| {' | '.join(cells)} |"


def _back(row: Row) -> str:
    if row.recovery_ms is None:
        return "-" if not row.kills else "never"
    worst = "never" if row.recovery_max_ms is None else f"{row.recovery_max_ms:,.0f}"
    return f"{row.recovery_ms:,.0f} ({worst}) ms"


def page(header: Header, rows: list[Row]) -> str:
    """The documentation: page.md with the figures."""
    text = Template(Path(__file__).with_name("page.md").read_text())
    profiles = dict.fromkeys(row.profile for row in rows)
    if homeless := [name for name in profiles if name not in text.get_identifiers()]:
        raise ValueError(f"page.md has no place for {', '.join(homeless)}")
    return text.substitute({name: _figures(name, rows) for name in profiles}, where=describe(header))


def _figures(profile: str, rows: list[Row]) -> str:
    own = [row for row in rows if row.profile == profile]
    strikes, requests, failures = (sum(getattr(row, name) for row in own) for name in ("kills", "requests", "failures"))
    summary = f"**{failures:,} of {requests:,} requests failed, over {strikes:,} strikes.**"
    return "\n".join([summary, "", HEAD, *map(line, own)])
