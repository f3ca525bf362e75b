"""Is all well with a picker, and if not, what is wrong, where does it show, and what can be done: each in a sentence.

A finding is *critical* if requests suffer now, else a *warning*. It names the section of docs/runbook.md that is about it: the
alert that somebody gets if it lasts (`shunter.picker.core.alerts`). The page sees it at once, as long as it is so; alerts
wait, so that nobody is woken by what the picker mends by itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from shunter.picker.core.overview import Overview, Row
from shunter.picker.core.pulse import Recent
from shunter.picker.core.thresholds import (
    BYPASSED_SHARE,
    EXPIRES_S,
    FAILED_SHARE,
    HITS_LOST,
    LOUD,
    REFUSED_SHARE,
    SATURATED,
    SHED,
    SNAPSHOT_LOST_S,
    STRANGE_SHARE,
    WORTH_CACHING,
)

__all__ = ["SILENT_S", "Finding", "Post", "Verdict", "judge"]

# A scraper that is started again is silent for two seconds or three.
SILENT_S = 5.0
# Of fewer requests a share says nothing: how many of their prompts were cached, or whether who served them is known.
FEWEST = 20

# Names in a sentence; the others are counted.
NAMED = 3


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be."""

    severity: Literal["critical", "warning"]
    sentence: str
    alert: str | None = None  # whose section of the runbook is about it


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's place, or the collector's, as far as it matters here."""

    worker: str
    ready: bool
    hindrances: Sequence[str] = ()
    certificate_expires_s: float | None = None  # since 1970


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it; ``sentence`` is the gravest finding's."""

    state: Literal["well", "warning", "critical"]
    sentence: str
    findings: tuple[Finding, ...] = ()


def judge(
    overview: Overview,
    recent: Recent,
    outliers: Sequence[str] = (),
    *,
    hindrances: Sequence[str] = (),
    posts: Sequence[Post] = (),
    last_reload: str = "done",
    now_s: float = 0.0,
) -> Verdict:
    """Judge.

    ``outliers`` are addresses; ``last_reload`` is what became of it; ``now_s`` is since 1970.
    """
    found = [
        *_senses(overview, hindrances),
        *_picker(hindrances, posts, recent, now_s),
        *_requests(overview, recent),
        *_endpoints(overview, recent, outliers),
        *_settings(overview, last_reload),
    ]
    found.sort(key=lambda finding: finding.severity != "critical")  # stable: of a kind the first is the cause of the next ones
    if not found:
        return Verdict(state="well", sentence=_well(overview, recent))
    return Verdict(state=found[0].severity, sentence=found[0].sentence, findings=tuple(found))


def _picker(hindrances: Sequence[str], posts: Sequence[Post], recent: Recent, now_s: float) -> Iterator[Finding]:
    if hindrances:
        yield _critical(f"No request can be picked for: {hindrances[0]}.", "PickerDown")
    else:
        for post in posts:
            if not post.ready and post.worker == "sharer":
                yield _warning(
                    f"Replicas do not know what the others send where: {', '.join(post.hindrances)}.", "ReplicasApart"
                )
            elif not post.ready:
                yield _warning(f"{_worker(post.worker)} is not ready: {', '.join(post.hindrances)}.", "WorkerCrashLoop")
    for which, count in recent.restarts.items():
        worker, _, reason = which.partition(" ")
        yield _warning(
            f"{_worker(worker)} was started again {_times(count)} in the last minute ({reason}).",
            "WorkerHung" if reason == "hung" else "WorkerCrashLoop",
        )
    for post in posts:
        expires_s = post.certificate_expires_s
        if expires_s is not None and expires_s - now_s < EXPIRES_S:
            left = "has expired" if expires_s <= now_s else f"expires in {(expires_s - now_s) / 3600:.0f} hours"
            yield _warning(f"The certificate of {_worker(post.worker).lower()} {left}.", "CertificateExpires")


def _senses(overview: Overview, hindrances: Sequence[str]) -> Iterator[Finding]:
    age_s = overview.snapshot_age_s
    if overview.trouble:
        yield _critical(f"The snapshot cannot be read: {overview.trouble}.", "SnapshotOld")
    elif age_s is None:
        if hindrances:  # a body router is ready without
            yield _critical("There is no snapshot yet: is the scraper running?", "SnapshotOld")
    elif age_s > SILENT_S:
        make = _critical if age_s > SNAPSHOT_LOST_S else _warning
        yield make(f"The scraper has been silent for {age_s:.0f} s: picks go by requests in flight alone.", "SnapshotOld")


def _requests(overview: Overview, recent: Recent) -> Iterator[Finding]:
    if recent.bypassed:
        share = recent.bypassed / max(recent.bypassed, recent.records)
        make = _critical if share > BYPASSED_SHARE else _warning
        yield make(
            f"{_count(recent.bypassed, 'request')} of the last minute, {_percent(share)}, went to the pool without a pick:"
            " the gateway does not reach the picker.",
            "PickerBypassed",
        )
    if recent.records >= FEWEST and recent.strangers / recent.records > STRANGE_SHARE:
        yield _critical(
            f"{_count(recent.strangers, 'request')} of the last minute, {_percent(recent.strangers / recent.records)}, went to"
            " endpoints that are not in the snapshot: the gateway does not follow the picks, or asks for another pool.",
            "PicksNotFollowed",
        )
    refused = sum(recent.refusals.values())
    if refused:
        share = refused / (refused + recent.picks)
        reasons = ", ".join(f"{count} {name}" for name, count in sorted(recent.refusals.items(), key=lambda each: -each[1]))
        shed = sum(recent.refusals.get(reason, 0) for reason in SHED)
        make = _critical if shed / (refused + recent.picks) > REFUSED_SHARE else _warning
        yield make(f"{_count(refused, 'request')} of the last minute, {_percent(share)}, refused: {reasons}.", "RequestsShed")
    if recent.failed:
        share = recent.failed / max(recent.failed, recent.records)
        make = _critical if share > FAILED_SHARE else _warning
        which = f"{_count(recent.failed, 'request')} of the last minute, {_percent(share)},"
        yield make(f"{which} failed behind the picker.", "ResponsesFail")
    hits, usual = recent.hit_share, recent.usual_hit_share
    if (
        hits is not None
        and usual is not None
        and usual >= WORTH_CACHING
        and hits < HITS_LOST * usual
        and recent.picks >= FEWEST
    ):
        yield _warning(
            f"Prompts of the last minute are cached where they go to {_percent(hits)}, those of the minutes before to"
            f" {_percent(usual)}: they begin otherwise, or caches were lost.",
            "PrefixHitsLost",
        )
    if overview.saturation is not None and overview.saturation >= SATURATED:
        waiting = sum((overview.queued or {}).values())
        loud = _loudest(recent.tenants)
        yield _warning(f"The pool is full: {_count(waiting, 'request')} waiting in the picker{loud}.", "PoolSaturated")


def _endpoints(overview: Overview, recent: Recent, outliers: Sequence[str]) -> Iterator[Finding]:
    rows = overview.endpoints
    if overview.snapshot_age_s is None:
        return
    if not any(row.ready for row in rows):
        yield _critical("No endpoint is ready: there is nobody to send requests to.", "NoReadyEndpoints")
    for health, one, several in (
        ("unreachable", "does not answer", "do not answer"),
        ("failed", "gives no metrics", "give no metrics"),
    ):
        away = [row for row in rows if row.health == health]
        if away:
            reason = away[0].reason or "no reason given"
            count = sum(row.in_flight for row in away)
            there = f"; {_count(count, 'request')} in flight there" if count else ""
            yield _warning(
                f"{_named(away, len(rows))} {one if len(away) == 1 else several}: {reason}{there}.", "EndpointUnscraped"
            )
    slow = [row for row in rows if row.authority in set(outliers)]
    if slow:
        are = "is much slower than the others, or fails" if len(slow) == 1 else "are much slower than the others, or fail"
        yield _warning(f"{_named(slow, len(rows))} {are}.", "EndpointOutlier")

    for row in rows:
        if row.authority in recent.hidden:
            there = _count(recent.hidden[row.authority], "request")
            yield _warning(
                f"{row.name} says that it runs nothing, and has {there}: its gauges lie, or it hangs.", "EndpointHidesLoad"
            )


def _loudest(tenants: Mapping[str, int]) -> str:
    """Name the tenant that nearly all of the last minute's requests are of, if others are there too."""
    name, count = max(tenants.items(), key=lambda each: each[1], default=("", 0))
    share = count / (sum(tenants.values()) or 1)
    return f"; {_percent(share)} of the last minute's are the tenant {name}'s" if LOUD < share < 1 else ""


def _settings(overview: Overview, last_reload: str) -> Iterator[Finding]:
    if last_reload != "done":
        came = "has failed" if last_reload == "failed" else f"was {last_reload}"
        yield _warning(f"The last reload {came}: the former configuration is in force.", "ConfigRefused")
    for plugin, words in overview.complaints.items():
        yield _warning(f"Plugin {plugin}: {words}", "PluginComplains")


def _well(overview: Overview, recent: Recent) -> str:
    if overview.snapshot_age_s is None:
        return "All is well: models are read out of requests."
    ready = sum(row.ready for row in overview.endpoints)
    busy = f"{recent.picks_per_s:.1f} picks a second" if recent.picks_per_s else "no requests just now"
    return f"All is well: {_count(ready, 'endpoint')} ready, {busy}, nothing refused."


def _critical(sentence: str, alert: str) -> Finding:
    return Finding(severity="critical", sentence=sentence, alert=alert)


def _warning(sentence: str, alert: str) -> Finding:
    return Finding(severity="warning", sentence=sentence, alert=alert)


def _named(rows: Iterable[Row], of: int) -> str:
    names = [row.name for row in rows]
    if len(names) == 1:
        return names[0]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} of {of} endpoints ({', '.join(names[:NAMED])}{more})"


def _worker(name: str) -> str:
    return f"Worker {name}" if name.isdecimal() else f"The {name}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
