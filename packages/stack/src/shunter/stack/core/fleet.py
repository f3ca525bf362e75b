"""What the picker's debug pages say, as values: the fleet as it sees it, and its last decisions."""

import msgspec

__all__ = ["Decision", "Decisions", "Fleet", "Row", "Shadow", "explain", "mention", "table"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint in ``/debug/fleet``."""

    name: str
    authority: str
    ready: bool
    health: str
    age_s: float | None = None
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    in_flight: int = 0
    picks: int = 0
    prefix_hit_blocks: int = 0
    prefix_blocks: int = 0
    reason: str = ""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """``/debug/fleet``."""

    snapshot_age_s: float | None = None
    trouble: str | None = None
    picks: int = 0
    refusals: dict[str, int] = {}
    endpoints: tuple[Row, ...] = ()
    queued: dict[int, int] | None = None  # by priority; None without flow control
    saturation: float | None = None
    reports: dict[str, str] = {}  # what plugins have to say of themselves, by name


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why nobody got the request."""

    status: int
    message: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the request ended, as far as the profile lets the picker see it."""

    complete: bool
    status: int | None = None
    served: str | None = None
    first_token_s: float | None = None
    duration_s: float | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint that was considered; no total where a plugin's failure left nobody scored."""

    endpoint: str
    name: str
    total: float | None = None
    cached: float = 0.0  # the part of the prompt that is known to be cached there
    scores: dict[str, float] = {}  # by scorer, 0 to 1


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a further profile chose."""

    chosen: tuple[str, ...] = ()
    reason: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``/debug/decisions``; ``best`` are the chosen endpoints and those that came close."""

    ticket: int
    at_s: float  # on the picker's monotonic clock
    request_id: str
    model: str | None = None
    target_model: str | None = None
    rule: str | None = None  # that names the target
    pool: str | None = None  # None: all endpoints
    priority: int = 0
    prompt_tokens: int = 0
    chosen: tuple[str, ...] = ()
    candidates: int = 0
    profile: str = ""  # whose choice it is
    reason: str = ""
    narrowed: dict[str, int] = {}  # filters that dropped somebody, and of how many
    weights: dict[str, float] = {}
    best: tuple[Candidate, ...] = ()
    others: dict[str, "Choice"] = {}  # of further profiles, by name
    refusal: Refusal | None = None
    outcome: Outcome | None = None
    waited_s: float | None = None  # for room


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """``/debug/decisions``: newest first, and the clock they are dated by."""

    now_s: float
    decisions: tuple[Decision, ...]


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """``/debug/shadow``."""

    report: tuple[str, ...]


COLUMNS = ("endpoint", "health", "age", "queue", "run", "KV %", "in flight", "picks", "hits")


def table(fleet: Fleet) -> list[str]:
    """Lay the fleet out, one line an endpoint; what is not known is a dash, never a zero."""
    cells = [COLUMNS, *(_cells(row) for row in fleet.endpoints)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(_align(cell, width, n) for n, (cell, width) in enumerate(zip(line, widths, strict=True))) for line in cells
    ]
    lines += [f"  {row.name}: {row.reason}" for row in fleet.endpoints if row.reason]
    refused = sum(fleet.refusals.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(fleet.refusals.items()))
    lines.append(f"picks {fleet.picks}, refused {refused}" + (f" ({reasons})" if refused else ""))
    if fleet.queued is not None:
        waiting = ", ".join(f"{count} of priority {priority}" for priority, count in fleet.queued.items() if count)
        lines.append(f"waiting {waiting or 0}; the pool is {100 * (fleet.saturation or 0.0):.0f} % full")
    lines += [f"{name}: {words}" for name, words in fleet.reports.items()]
    if fleet.trouble:
        lines.append(f"snapshot: {fleet.trouble}")
    elif fleet.snapshot_age_s is None or fleet.snapshot_age_s > 3:
        lines.append(
            f"snapshot: nothing from the scraper for {_number(fleet.snapshot_age_s, 0)} s; picks go by in-flight counts"
        )
    return [line.rstrip() for line in lines]


def explain(decision: Decision, now_s: float) -> list[str]:
    """Tell one decision as a person would ask for it: what, where to, why, who else."""
    lines = [f"{_head(decision, now_s)}, about {decision.prompt_tokens} prompt tokens  x-request-id {decision.request_id}"]
    if decision.waited_s is not None:
        lines.append(f"  waited {decision.waited_s:.2f} s for room, at priority {decision.priority}")
    if decision.refusal:
        return [*lines, f"  refused with {decision.refusal.status}: {decision.refusal.message}"]
    lines.append(f"  to {decision.chosen[0]}" + (f", else {', '.join(decision.chosen[1:])}" if decision.chosen[1:] else ""))
    lines += [f"  {decision.reason}"] if decision.reason else []
    lines += [f"  {line}" for line in _scores(decision)]
    if decision.candidates > len(decision.best):
        lines.append(f"    and {decision.candidates - len(decision.best)} more")
    lines += [f"  profile {name}: {each.reason}" for name, each in decision.others.items()]
    if decision.outcome:
        lines.append(f"  {_ending(decision.outcome)}")
    return lines


def mention(decision: Decision, now_s: float) -> str:
    """Tell one decision on a line."""
    head = f"{_head(decision, now_s)}  {decision.request_id}"
    if decision.refusal:
        return f"{head}  refused with {decision.refusal.status}: {decision.refusal.message}"
    return f"{head}  {decision.reason or f'to {decision.chosen[0]}'}"


def _head(decision: Decision, now_s: float) -> str:
    model = decision.model or "no model"
    if decision.target_model and decision.target_model != decision.model:
        model += f" → {decision.target_model}" + (f" by {decision.rule}" if decision.rule else "")
    if decision.pool:
        model += f", pool {decision.pool}"
    life, number = divmod(decision.ticket, 1 << 32)  # of a worker process, and of its decisions
    return f"#{life}.{number}  {now_s - decision.at_s:.1f} s ago  {model}"


def _scores(decision: Decision) -> list[str]:
    """Lay the best candidates out, chosen ones first: the total, and each score with the weight it has in it."""
    weights = decision.weights
    cells = [("endpoint", "total", "cached", *[f"{name} ×{weight:g}" for name, weight in weights.items()])]
    for each in decision.best:
        scores = [f"{each.scores.get(name, 0.0):.2f}" for name in weights]
        cells.append((each.endpoint, _number(each.total, 2), f"{100 * each.cached:.0f} %", *scores))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def _ending(outcome: Outcome) -> str:
    parts = ["ended" if outcome.complete else "cut short"]
    if outcome.duration_s is not None:
        parts.append(f"after {outcome.duration_s:.2f} s")
    if outcome.first_token_s is not None:
        parts.append(f"first token after {outcome.first_token_s:.2f} s")
    if outcome.status is not None:
        parts.append(f"status {outcome.status}")
    if outcome.served:
        parts.append(f"served by {outcome.served}")
    if outcome.completion_tokens is not None:
        parts.append(f"{outcome.completion_tokens} tokens")
    if outcome.cached_tokens is not None:
        parts.append(f"{outcome.cached_tokens} of the prompt's were cached")
    return ", ".join(parts)


def _cells(row: Row) -> tuple[str, ...]:
    hits = f"{100 * row.prefix_hit_blocks / row.prefix_blocks:.0f} %" if row.prefix_blocks else "-"
    return (
        f"{row.name} {row.authority}",
        row.health if row.ready else f"{row.health}, not ready",
        "-" if row.age_s is None else f"{row.age_s:.1f} s",
        _number(row.waiting, 0),
        _number(row.running, 0),
        _number(None if row.kv_usage is None else 100 * row.kv_usage, 1),
        str(row.in_flight),
        str(row.picks),
        hits,
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
