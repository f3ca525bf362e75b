"""The budgets, and whether the rows keep them."""

from collections.abc import Iterator

import msgspec
from hack.bench.cases import CASES, DIRECT_BESIDE, DIRECT_MANY, IDLE, STEADY, STREAMED, Case
from hack.bench.rows import Result, Row

__all__ = ["Verdict", "judge", "judge_peers"]

# CPU of the picker in profile full, as a multiple of the floor.
MOST, MOST_STREAMED, GOAL, GOAL_STREAMED = 2.0, 1.3, 1.5, 1.0
MOST_OF_REFERENCE = 0.5
MOST_OF_ROUTER = 1.2  # lean with its Envoy, of the cheapest router that knows about prefixes
LEAN_STREAMED = 0.1  # of full
SCRAPE = 2.0  # of the floor's
SCRAPE_OF_REFERENCE = 0.05
TAIL = 2.0  # of the p99 without a picker
WORKER_MB = 120.0  # at 1,000 endpoints

# What a body of 10 MB may hold up the others, on a machine that runs the floor's 1 KB exchange in so many µs.
STALL_MS, STALL_CALIBRATION_US = 10.0, 26.0


class Verdict(msgspec.Struct, frozen=True):
    """One budget: what was allowed, what was found; ``kept`` is None if something to compare with is missing."""

    budget: str
    limit: str
    found: str
    kept: bool | None


def judge(result: Result) -> list[Verdict]:
    """Hold the rows against every budget that they have something to say about."""
    rows = {(row.case, row.subject): row for row in result.rows}
    judges = (_against_the_floor, _lean, _scraping, _reference, _tail, _memory)
    return [*(verdict for each in judges for verdict in each(rows)), _stall(rows, max(result.head.calibration_us))]


def judge_peers(result: Result) -> list[Verdict]:
    """The same for whole data paths."""
    totals = {(row.case, row.subject): row.total_us for row in result.rows}
    return [
        _compare(f"all CPU, {case}, lean", totals.get((case, "shunter, lean")), theirs, MOST_OF_ROUTER, "sglang-router")
        for (case, subject), theirs in totals.items()
        if subject == "sglang-router"
    ]


Rows = dict[tuple[str, str], Row]


def _value(rows: Rows, case: str, subject: str, field: str = "picker_us_per_request") -> float | None:
    row = rows.get((case, subject))
    return getattr(row, field) if row else None


def _compare(budget: str, found: float | None, base: float | None, most: float, of: str, goal: float | None = None) -> Verdict:
    limit = f"≤ {most:g} × {of}" + (f", goal {goal:g} ×" if goal else "")
    if found is None or not base:
        return Verdict(budget, limit, "not measured", None)
    return Verdict(budget, limit, f"{found / base:.2f} ×", found / base <= most)


def _single(profile: str) -> Iterator[Case]:
    return (
        case
        for case in CASES
        if case.profile == profile and case.workers == 1 and not (case.tls or case.sockets) and case.load is not IDLE
    )


def _against_the_floor(rows: Rows) -> Iterator[Verdict]:
    for case in _single("full"):
        if "floor" in case.subjects and not case.load.beside_bytes:
            most, goal = (MOST_STREAMED, GOAL_STREAMED) if case.load.chunks else (MOST, GOAL)
            ours, floor = (_value(rows, case.name, subject) for subject in ("shunter-native", "floor"))
            yield _compare(f"CPU, {case.name}", ours, floor, most, "floor", goal)


def _lean(rows: Rows) -> Iterator[Verdict]:
    lean, full = (
        _value(rows, Case(load=STREAMED, subjects=(), profile=profile).name, "shunter-native") for profile in ("lean", "full")
    )
    yield _compare(f"CPU, {STREAMED.name}, lean", lean, full, LEAN_STREAMED, "full")


def _scraping(rows: Rows) -> Iterator[Verdict]:
    name = Case(load=IDLE, subjects=()).name
    ours = _value(rows, name, "shunter-native")
    yield _compare("CPU of a scrape, picker and scraper", ours, _value(rows, name, "floor"), SCRAPE, "floor")
    yield _compare("the same", ours, _value(rows, name, "go-epp"), SCRAPE_OF_REFERENCE, "the Go picker")


def _reference(rows: Rows) -> Iterator[Verdict]:
    if not any(subject == "go-epp" and row.rounds for (_case, subject), row in rows.items()):
        yield Verdict(
            "CPU, p50 and p99 in every case", f"≤ {MOST_OF_REFERENCE:g} × and 1 × the Go picker", "not measured", None
        )
        return
    for case in _single("full"):
        if "go-epp" not in case.subjects:
            continue
        budgets = [("CPU", "picker_us_per_request", MOST_OF_REFERENCE)]
        if not case.load.direct:
            budgets += [("p50", "p50_ms", 1.0), ("p99", "p99_ms", 1.0)]
        for what, field, most in budgets:
            ours, theirs = (_value(rows, case.name, subject, field) for subject in ("shunter-native", "go-epp"))
            yield _compare(f"{what}, {case.name}", ours, theirs, most, "the Go picker")


def _tail(rows: Rows) -> Iterator[Verdict]:
    name = Case(load=STEADY, subjects=()).name
    ours, none = (_value(rows, name, subject, "p99_ms") for subject in ("shunter-native", "none"))
    yield _compare(f"p99, {STEADY.name}", ours, none, TAIL, "no picker")


def _memory(rows: Rows) -> Iterator[Verdict]:
    found = _value(rows, Case(load=DIRECT_MANY, subjects=()).name, "shunter-native", "largest_mb")
    budget = "memory of a worker at 1,000 endpoints"
    if found is None:
        yield Verdict(budget, f"≤ {WORKER_MB:g} MB", "not measured", None)
    else:
        yield Verdict(budget, f"≤ {WORKER_MB:g} MB", f"{found:.0f} MB", found <= WORKER_MB)


def _stall(rows: Rows, calibration_us: float) -> Verdict:
    most_ms = STALL_MS * calibration_us / STALL_CALIBRATION_US
    budget, limit = "longest wait of 1 KB beside 10 MB bodies", f"≤ {STALL_MS:g} ms × calibration = {most_ms:.0f} ms"
    found = _value(rows, Case(load=DIRECT_BESIDE, subjects=()).name, "shunter-native", "longest_ms")
    if found is None:
        return Verdict(budget, limit, "not measured", None)
    return Verdict(budget, limit, f"{found:.1f} ms", found <= most_ms)
