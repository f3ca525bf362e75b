"""One scrape becomes one load row: what the page says, or the old values with the reason why there are no new ones.

Nothing is invented. A family that is missing is None even if it was there before (a value carried over would look as
fresh as the rest); a scrape that failed keeps the values and their time, so that their age tells what they are worth.
Gauges have no memory: an engine that restarted simply says what it says.

Most pages say in all that is wanted what the one before said, as those of idle engines, or differ in a few numbers only. A
Reader finds that out by a few comparisons, and dates the row it has anew.
"""

from collections.abc import Mapping
from math import isfinite

from msgspec.structs import replace

from shunter.scraper.core.dialect import DIALECTS, Dialect, Fold, Gauge, Label, Reading, Spec, as_number
from shunter.scraper.core.exposition import Page, Scanner
from shunter.scraper.errors import ExpositionError
from shunter.snapshot import Health, LoadRow

__all__ = ["Reader", "fail", "fold", "guess_engine"]

# A failure's reason travels in every snapshot and is read in one line of a terminal.
MAX_REASON_CHARACTERS = 200
# Blocks and tokens per block are far below; whatever is not has no meaning, and must fit the snapshot's integers.
MAX_COUNT = 1 << 40

_NOBODY = LoadRow(slot=0, incarnation=0)


class Reader:
    """Folds page after page of one endpoint."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._scanner = Scanner()
        self._roles = _roles(dialect)

    def read(self, content: bytes | bytearray, start: int, stop: int, before: LoadRow, now_ns: int) -> LoadRow:
        """Return the row that the page ``content[start:stop]`` makes of the one returned last, or of what `fail` made of that.

        Raises ExpositionError as `fold` does.
        """
        scanner, roles = self._scanner, self._roles
        changes = scanner.changes(content, start, stop)
        if changes is None:
            page = scanner.page(content, start, stop)
            row = fold(page, self._dialect, before, now_ns)
            scanner.remember(page, roles)
            return row
        values = {role: number for name, number in changes.items() if (role := roles[name])}
        if "kv_usage" in values:
            values["kv_usage"] = min(1.0, values["kv_usage"])
        return replace(before, health=Health.FRESH, sampled_ns=now_ns, failures=0, reason="", **values)


def _roles(dialect: Dialect) -> dict[str, str]:
    """Return the names whose number is one value of the row, with that, or of which only labels count, with none."""
    roles: dict[str, set[str]] = {}
    for field, readings in (("waiting", dialect.waiting), ("running", dialect.running), ("kv_usage", dialect.kv_usage)):
        for reading in readings:
            plain = isinstance(reading, Gauge) and not reading.spec.labels
            for name in reading.names:
                roles.setdefault(name, set()).add(field if plain else "?")
    for reading in (*dialect.block_size, *dialect.num_blocks):
        for name in reading.names:
            roles.setdefault(name, set()).add("" if isinstance(reading, Label) else "?")
    if dialect.adapters:
        roles.setdefault(dialect.adapters.name, set()).add("")
    return {name: next(iter(its)) for name, its in roles.items() if len(its) == 1 and "?" not in its}


def fold(page: Page, dialect: Dialect, before: LoadRow, now_ns: int) -> LoadRow:
    """Return the row after a scrape answered with ``page``; raises ExpositionError if the page is not this engine's."""
    row = _read(page, dialect, before, now_ns)
    if not dialect.lazy and _is_silent(row):
        engine = guess_engine(page)
        hint = f": it looks like {engine}" if engine else ""
        raise ExpositionError(f"no metric of engine {dialect.name} on the page{hint}")
    return row


def fail(before: LoadRow, reason: str, health: Health = Health.FAILED) -> LoadRow:
    """Return the row after a scrape that failed; ``health`` may also be UNREACHABLE."""
    return replace(before, health=health, failures=before.failures + 1, reason=reason[:MAX_REASON_CHARACTERS])


def guess_engine(page: Page) -> str | None:
    """Return the engine whose metrics are on the page, None if it is none of those known. Raises ExpositionError."""
    readings = ((name, _read(page, dialect, _NOBODY, 0)) for name, dialect in DIALECTS.items())
    return next((name for name, row in readings if not _is_silent(row)), None)


def _read(page: Page, dialect: Dialect, before: LoadRow, now_ns: int) -> LoadRow:
    shards = dialect.shards
    kv_usage = _signal(page, dialect.kv_usage, shards, "mean")
    adapters = _newest(page, dialect.adapters)
    return LoadRow(
        slot=before.slot,
        incarnation=before.incarnation,
        health=Health.FRESH,
        sampled_ns=now_ns,
        waiting=_signal(page, dialect.waiting, shards, "sum"),
        running=_signal(page, dialect.running, shards, "sum"),
        kv_usage=None if kv_usage is None else min(1.0, kv_usage),  # a rounding error above one is a full cache
        block_size=_count(_signal(page, dialect.block_size, shards, "max")),
        num_blocks=_count(_signal(page, dialect.num_blocks, shards, "sum")),
        max_adapters=_count(as_number(adapters.get("max_lora", ""))),
        running_adapters=_names(adapters.get("running_lora_adapters", "")),
        waiting_adapters=_names(adapters.get("waiting_lora_adapters", "")),
    )


def _signal(page: Page, readings: tuple[Reading, ...], shards: frozenset[str], fold: Fold) -> float | None:
    """Return what the first reading that the page answers says; a negative number is no answer."""
    for reading in readings:
        answer = reading.read(page, shards, fold)
        if answer is not None and answer >= 0:
            return answer
    return None


def _newest(page: Page, spec: Spec | None) -> Mapping[str, str]:
    """Return the labels of the newest series: its value is the time it was last true, and old ones are never removed."""
    samples = spec.matching(page) if spec else []
    dated = [sample for sample in samples if isfinite(sample.value)]
    return max(dated, key=lambda sample: sample.value).labels if dated else {}


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _count(value: float | None) -> int | None:
    return int(value) if value is not None and 0 < value <= MAX_COUNT and value == int(value) else None


def _is_silent(row: LoadRow) -> bool:
    return all(
        value is None for value in (row.waiting, row.running, row.kv_usage, row.block_size, row.num_blocks, row.max_adapters)
    )
