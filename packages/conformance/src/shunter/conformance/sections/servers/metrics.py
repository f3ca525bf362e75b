"""Section D, metrics: a page that can be parsed, whose gauges are there from the start and mean what they say."""

import asyncio
import math
from collections import Counter
from itertools import pairwise

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange, clip
from shunter.conformance.core.profile import GIE
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.errors import FormatError, Mismatch
from shunter.conformance.exposition import Page, Series, read_page
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.profile import IGNORE_EOS
from shunter.conformance.sections.servers.reachability import METRICS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# More than a small server runs at once, so that its queue is seen too; few enough for any machine.
LOAD_REQUESTS = 8

# Each request should run this long, by the pace of the target, so that it can be seen running; within these bounds, of
# which the lower lets a slow server that runs one request at a time answer all of them within the client's patience.
LOAD_S = 0.5
LOAD_TOKENS = (4, 256)

# A server may limit its queue: it says so with one of these, and its gauges are right or wrong all the same.
SHED = (429, 503)

# So many pages are wanted under load; a fast server is loaded several times for them.
LOAD_PAGES = 5

# The reference endpoint picker scrapes every 50 ms; a look a little closer sees what it might see.
SAMPLE_PERIOD_S = 0.02

# The longer a load lasts, the less is new on each page: with pauses that grow so, a minute of it is some sixty pages.
PAUSE_GROWTH = 1.1

IDLE_ZERO = Bound(
    "idle-zero",
    1.0,
    "as long as a gauge lags behind the last answer, traffic avoids an idle server",
)

LOAD_ROLES = (Role.QUEUE, Role.RUNNING)
LOAD_FEATURES = (Role.QUEUE.feature, Role.RUNNING.feature)
KV_FEATURES = (Role.KV.feature,)


def read_metrics(exchange: Exchange) -> Page:
    """Read a scraped page; raises Mismatch when it cannot be."""
    exchange.expect_status(200)
    try:
        return read_page(exchange.body)
    except FormatError as error:
        raise Mismatch("a page in the Prometheus text format 0.0.4", str(error)) from None


async def scrape(target: Target) -> Page:
    """Scrape and read a page."""
    return read_metrics(await target.metrics())


def find(target: Target, page: Page, role: Role) -> list[Series]:
    """The series of a role, of which there must be at least one."""
    signal = target.profile.signals[role]
    series = page.find(signal)
    if not series:
        raise Mismatch(f"a series {signal}", target.profile.absent(role, {each.name for each in page.series}))
    return series


def _all_mapped(target: Target, page: Page) -> list[Series]:
    """Every series that the profile maps and the page has; whether one is missing is the business of other cases."""
    return [series for signal in target.profile.signals.values() for series in page.find(signal)]


async def exposition(target: Target) -> str:
    page = await scrape(target)
    return f"{len(page.types)} families, {len(page.series)} series"


def _present_before(target: Target, *roles: Role) -> str:
    page = read_metrics(target.first_metrics())
    return ", ".join(str(series) for role in roles for series in find(target, page, role))


async def load_present(target: Target) -> str:
    return _present_before(target, *LOAD_ROLES)


async def kv_present(target: Target) -> str:
    return _present_before(target, Role.KV)


async def gauge_types(target: Target) -> str:
    page = await scrape(target)
    families = {series.name for series in _all_mapped(target, page)}
    for family in sorted(families):
        if (kind := page.types.get(family, "untyped")) != "gauge":
            raise Mismatch(f"# TYPE {family} gauge", kind)
    return f"{len(families)} gauges"


async def counters_rise(target: Target) -> str:
    before = (await scrape(target)).counters()
    (await ask_completion(target)).expect_status(200)
    after = (await scrape(target)).counters()
    pairs = [(before[key], after[key]) for key in before.keys() & after.keys()]
    if fallen := [f"{old} → {new.value:g}" for old, new in pairs if not new.value >= old.value]:
        raise Mismatch("no counter falls over one completion", clip("; ".join(sorted(fallen))))
    return f"{len(pairs)} counters, none fell"


async def sample_load(target: Target) -> list[Page]:
    """Let requests run at once, again if need be, and scrape all the while; the last page is from after their end.

    The pages are parsed afterwards: parsing takes milliseconds during which nothing else would be seen.
    """
    fewest, most = LOAD_TOKENS
    tokens = max(fewest, min(most, round(LOAD_S / target.step_s))) if target.step_s else fewest
    fields = {"max_tokens": tokens} if target.profile.lack((IGNORE_EOS,)) else {"max_tokens": tokens, "ignore_eos": True}
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    exchanges: list[Exchange] = []
    times_s: list[float] = []
    while len(exchanges) < LOAD_PAGES:
        load = asyncio.gather(*(ask_completion(target, **fields) for _ in range(LOAD_REQUESTS)))
        pause_s = SAMPLE_PERIOD_S
        try:
            while not load.done():
                times_s.append(clock() - begin_s)
                exchanges.append(await target.metrics())
                await asyncio.wait({load}, timeout=pause_s)
                pause_s *= PAUSE_GROWTH
            answers = await load
            served = any(answer.status == 200 for answer in answers)
            for answer in answers:
                answer.expect_status(200, *SHED * served)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
    times_s.append(clock() - begin_s)
    exchanges.append(await target.metrics())
    pages = [read_metrics(exchange) for exchange in exchanges]
    for role, signal in target.profile.signals.items():
        told = [(at_s, sum(series.value for series in page.find(signal))) for at_s, page in zip(times_s, pages, strict=True)]
        target.plot(f"{role} ({signal})", [(at_s, value) for at_s, value in told if math.isfinite(value)])
    return pages


async def load_values(target: Target) -> str:
    pages = await sample_load(target)
    peak: dict[Role, float] = {}
    for role in LOAD_ROLES:
        for series in (series for page in pages for series in find(target, page, role)):
            if not (series.value >= 0 and series.value.is_integer()):
                raise Mismatch(f"{target.profile.signals[role]} a whole number, never negative", str(series))
            peak[role] = max(peak.get(role, 0.0), series.value)
    return f"{len(pages)} pages under {LOAD_REQUESTS} requests: " + ", ".join(
        f"{role} up to {value:g}" for role, value in peak.items()
    )


async def kv_range(target: Target) -> str:
    pages = await sample_load(target)
    series = [series for page in pages for series in find(target, page, Role.KV)]
    for each in series:
        if not (math.isfinite(each.value) and 0 <= each.value <= 1):
            raise Mismatch(f"{target.profile.signals[Role.KV]} between 0 and 1", str(each))
    return f"{len(pages)} pages under {LOAD_REQUESTS} requests: up to {max(each.value for each in series):g}"


async def _falls_to_zero(target: Target, *roles: Role) -> str:
    (await ask_completion(target)).expect_status(200)
    clock = asyncio.get_running_loop().time
    end_s = clock()
    limit_s = target.seconds(IDLE_ZERO)
    while True:
        waited_s = clock() - end_s  # a page is as of some time after it was asked for
        page = await scrape(target)
        busy = [str(series) for role in roles for series in find(target, page, role) if series.value != 0]
        if not busy:
            return f"zero {clock() - end_s:.2f} s after the last answer"
        if waited_s > limit_s:
            raise Mismatch(f"zero within {limit_s:g} s after the last answer, with nothing running", clip("; ".join(busy)))
        await asyncio.sleep(SAMPLE_PERIOD_S)


async def load_idle(target: Target) -> str:
    return await _falls_to_zero(target, *LOAD_ROLES)


async def kv_idle(target: Target) -> str:
    return await _falls_to_zero(target, Role.KV)


async def model_label(target: Target) -> str:
    page = await scrape(target)
    label = target.profile.model_label
    names = target.served or (target.model,)
    for series in _all_mapped(target, page):
        if series.labels.get(label) not in names:
            raise Mismatch(f"label {label} is a served name ({', '.join(names)})", str(series))
    return f"{label} is {', '.join(names)}"


async def one_series(target: Target) -> str:
    page = await scrape(target)
    label = target.profile.engine_label
    signals = target.profile.signals.values()
    seen = Counter((str(signal), series.labels.get(label, "")) for signal in signals for series in page.find(signal))
    for (signal, engine), count in seen.items():
        if count > 1:
            raise Mismatch(f"one series of {signal} for each engine", f"{count}" + f" for {label} {engine}" * bool(label))
    engines = {engine for _, engine in seen}
    return f"{len(engines)} engine{'s' * (len(engines) != 1)}"


async def same_engines(target: Target) -> str:
    page = await scrape(target)
    label = target.profile.engine_label
    engines = {
        str(signal): {series.labels.get(label, "") for series in page.find(signal)}
        for signal in target.profile.signals.values()
    }
    everybody = set[str]().union(*engines.values())
    for signal, those in engines.items():
        if those and those != everybody:
            wanted = f"{signal} for {label} {', '.join(sorted(everybody)) or 'none'}, as for the other gauges"
            raise Mismatch(wanted, f"for {', '.join(sorted(those)) or 'none'}")
    return f"{len(everybody)} engine{'s' * (len(everybody) != 1)} in {len(engines)} gauges"


async def histograms(target: Target) -> str:
    page = await scrape(target)
    families = sorted(name for name, kind in page.types.items() if kind == "histogram")
    for family in families:
        counts = {_apart(series): series.value for series in page.find(Signal(f"{family}_count"))}
        buckets: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for series in page.find(Signal(f"{family}_bucket")):
            buckets.setdefault(_apart(series), []).append((_bound(series), series.value))
        for labels, rising in buckets.items():
            rising.sort()
            told = f"buckets {', '.join(f'{bound:g}: {value:g}' for bound, value in rising)}"
            if any(more < fewer for (_, fewer), (_, more) in pairwise(rising)):
                raise Mismatch(f"buckets of {family} that each hold what the ones below hold", clip(told))
            if rising[-1][0] != math.inf or rising[-1][1] != counts.get(labels):
                raise Mismatch(f"a bucket +Inf of {family} that is its count, {counts.get(labels, math.nan):g}", clip(told))
    return f"{len(families)} histograms"


def _apart(series: Series) -> frozenset[tuple[str, str]]:
    """What tells series of a histogram apart, beside their bucket."""
    return frozenset((name, value) for name, value in series.labels.items() if name != "le")


def _bound(series: Series) -> float:
    try:
        return float(series.labels.get("le", ""))
    except ValueError:
        raise Mismatch("a number in the label le of a bucket", str(series)) from None


REPORTING = "GIE Model Server Protocol (proposal 003), Metrics Reporting"
# The proposal asks for the queue and the KV cache; the running requests came with the reference picker's core metrics.
LOAD_REPORTING = f"{REPORTING} (queued); core metrics of the reference picker (running)"
TEXT_FORMAT = "Prometheus, Exposition formats: text format 0.0.4"

EXPOSITION = Case(
    id="ms.metrics.exposition",
    level=Level.MUST,
    requirement="The metrics page MUST keep the text format: every line parses, each family is one group with HELP and "
    "TYPE first, no series appears twice.",
    why="Scrapers differ in what they make of a broken page: one rejects it whole, another takes a wrong value from it.",
    source=TEXT_FORMAT,
    needs=(METRICS.id,),
    suites=(GIE,),
    run=exposition,
)

LOAD_PRESENT = Case(
    id="ms.metrics.load-present",
    level=Level.MUST,
    requirement="The gauges of queued and of running requests MUST be there before the first request.",
    why="A fresh replica without gauges is an unknown to the picker at the very moment when it should take load.",
    source=LOAD_REPORTING,
    features=LOAD_FEATURES,
    needs=(EXPOSITION.id,),
    suites=(GIE,),
    run=load_present,
)

KV_PRESENT = Case(
    id="ms.metrics.kv-present",
    level=Level.MUST,
    requirement="The gauge of KV-cache utilization MUST be there before the first request.",
    why="As for the gauges of load: a missing value is not a zero.",
    source=REPORTING,
    features=KV_FEATURES,
    needs=(LOAD_PRESENT.id,),
    suites=(GIE,),
    run=kv_present,
)

GAUGE_TYPES = Case(
    id="ms.metrics.gauge-types",
    level=Level.MUST,
    requirement="Every metric that stands for a present state MUST be declared a gauge.",
    why="The protocol says so; and whatever stores the metrics takes the fall of a counter for a restart.",
    source=REPORTING,
    features=LOAD_FEATURES,
    needs=(LOAD_PRESENT.id,),
    suites=(GIE,),
    run=gauge_types,
)

COUNTERS_RISE = Case(
    id="ms.metrics.counters-rise",
    level=Level.MUST,
    requirement="Counters, and the buckets and counts of histograms, MUST NOT fall while the server runs.",
    why="Every fall is read as a restart: rates computed from the counter jump.",
    source="Prometheus, Metric types: counter",
    needs=(EXPOSITION.id,),
    run=counters_rise,
)

LOAD_VALUES = Case(
    id="ms.metrics.load-values",
    level=Level.MUST,
    requirement="Queued and running requests MUST be whole numbers, never negative, idle and under load.",
    why="Pickers subtract, divide and compare these values; a negative queue draws all traffic.",
    source=LOAD_REPORTING,
    features=LOAD_FEATURES,
    needs=(LOAD_PRESENT.id,),
    suites=(GIE,),
    run=load_values,
)

KV_RANGE = Case(
    id="ms.metrics.kv-range",
    level=Level.MUST,
    requirement="KV-cache utilization MUST be a share between 0 and 1, idle and under load.",
    why="Pickers score with 1 - utilization and compare it with thresholds such as 0.8; a percentage makes a server "
    "look full for ever.",
    source=f"{REPORTING}; every metric that the reference picker reads for it is a share of 1",
    features=KV_FEATURES,
    needs=(KV_PRESENT.id,),
    suites=(GIE,),
    run=kv_range,
)

LOAD_IDLE = Case(
    id="ms.metrics.load-idle",
    level=Level.MUST,
    requirement="Queued and running requests MUST be zero when nothing is queued or running.",
    why="A replica that still looks busy is avoided for no reason, and one that is never idle is never drained.",
    source=LOAD_REPORTING,
    features=LOAD_FEATURES,
    needs=(LOAD_VALUES.id,),
    bounds=(IDLE_ZERO,),
    suites=(GIE,),
    run=load_idle,
)

KV_IDLE = Case(
    id="ms.metrics.kv-idle",
    level=Level.SHOULD,
    requirement="KV-cache utilization SHOULD be zero when nothing runs; blocks that are only kept for reuse count as free.",
    why="Counted as used, the prefix cache makes a warm idle replica look full, and traffic goes to cold ones. The protocol "
    "leaves open how cached blocks count.",
    source="Meaning of the gauge in vLLM, the reference server of the GIE Model Server Protocol (proposal 003)",
    features=KV_FEATURES,
    needs=(KV_RANGE.id,),
    bounds=(IDLE_ZERO,),
    run=kv_idle,
)

MODEL_LABEL = Case(
    id="ms.metrics.model-label",
    level=Level.MUST,
    requirement="The label that names the model MUST carry a name that the server lists.",
    why="Dashboards and alerts join metrics and requests by that name.",
    source=f"{REPORTING}: semantics of the reference server's metrics",
    features=(*LOAD_FEATURES, "model-label"),
    needs=(LOAD_PRESENT.id,),
    run=model_label,
)

ONE_SERIES = Case(
    id="ms.metrics.one-series",
    level=Level.MUST,
    requirement="Each engine behind the page MUST have exactly one series of each gauge.",
    why="The reference picker takes the first series that matches; with two it reports a part of the load.",
    source=f"{REPORTING}; series selection of the reference picker",
    features=LOAD_FEATURES,
    needs=(LOAD_PRESENT.id,),
    run=one_series,
)

SAME_ENGINES = Case(
    id="ms.metrics.same-engines",
    level=Level.MUST,
    requirement="Every gauge MUST have a series for each engine that another gauge has one for.",
    why="Whoever joins the gauges of an engine by its label finds a half: the load of one server and the cache of none.",
    source=f"{REPORTING}: semantics of the reference server's metrics",
    features=LOAD_FEATURES,
    needs=(ONE_SERIES.id,),
    run=same_engines,
)

HISTOGRAMS = Case(
    id="ms.metrics.histograms",
    level=Level.MUST,
    requirement="The buckets of a histogram MUST each hold what the smaller ones hold, and +Inf all that was counted.",
    why="Quantiles are computed from the differences; a negative one makes nonsense of every dashboard.",
    source=TEXT_FORMAT,
    needs=(COUNTERS_RISE.id,),
    run=histograms,
)

CASES = (
    EXPOSITION,
    LOAD_PRESENT,
    KV_PRESENT,
    GAUGE_TYPES,
    COUNTERS_RISE,
    LOAD_VALUES,
    KV_RANGE,
    LOAD_IDLE,
    KV_IDLE,
    MODEL_LABEL,
    ONE_SERIES,
    SAME_ENGINES,
    HISTOGRAMS,
)
