"""Events as lines for people."""

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.events import CaseFinished, Event, Finished, Side, Started
from shunter.conformance.core.exchange import clip, printable
from shunter.conformance.core.profile import Profile
from shunter.conformance.core.suites import answers
from shunter.conformance.core.verdict import Verdict

__all__ = ["LABELS", "explain", "narrate", "summarise"]

LABELS = {
    Verdict.PASSED: "pass",
    Verdict.FAILED: "FAIL",
    Verdict.SKIPPED: "skip",
    Verdict.NOT_SUPPORTED: "n/a",
    Verdict.KNOWN_FAILURE: "known",
    Verdict.UNEXPECTED_PASS: "PASS?",
    Verdict.ERROR: "ERROR",
}
"""One word for each verdict, at most five letters."""

ID_COLUMNS = 32
WIDTH_COLUMNS = 110


def narrate(event: Event) -> list[str]:
    """The lines that a person reads when this happens; the first word of a verdict is its label."""
    return [printable(line) for line in _narrate(event)]


def _narrate(event: Event) -> list[str]:
    match event:
        case Started():
            return [*_target(event), ""]
        case CaseFinished():
            said = clip(event.observed or event.reason or event.actual)
            said += f" ({event.repeats})" if event.repeats else ""
            head = f"{LABELS[event.verdict]:<5}  {event.id:<{ID_COLUMNS}} {event.duration_s:6.2f} s"
            if event.verdict is not Verdict.FAILED:
                return [f"{head}  {said}"]
            lines = [head, f"       Expected   {event.expected}", f"       Actual     {event.actual}"]
            return lines + [f"       Reproduce  {each.curl}" for each in event.evidence[-1:]]
        case _:
            return []


def _target(started: Started) -> list[str]:
    if not started.url:
        return [f"Target   none: {started.profile_reason}"]
    parts = [started.url, *([f"version {started.version}"] if started.version else [])]
    parts += [f"model {started.model or 'unknown'}"] if started.side is Side.MODEL_SERVER else []
    parts += [f"metrics at {started.metrics_url}"] if started.metrics_url else []
    lines = [f"Target   {', '.join(parts)}", f"Profile  {started.profile}: {started.profile_reason}"]
    if started.side is Side.MODEL_SERVER:
        pace = "unknown" if started.step_s is None else f"{started.step_s * 1000:.1f} ms a token"
        lines.append(f"Pace     {pace} ({clip(started.calibration)}); time limits × {started.scale:g}")
    return lines


def summarise(events: Sequence[Event]) -> list[str]:
    """The last lines: how many of each verdict, how long it took, and what the suites ask."""
    counts = Counter(event.verdict for event in events if isinstance(event, CaseFinished))
    took = next((f" in {event.duration_s:.1f} s" for event in events if isinstance(event, Finished)), "")
    parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return ["", f"{counts.total()} case{'s' * (counts.total() != 1)}: {parts or 'none run'}{took}", *map(str, answers(events))]


def explain(case: AnyCase, profiles: Sequence[Profile]) -> list[str]:
    """All that is to be said about a case, and what each profile says of it."""
    rows = [("Level", str(case.level)), ("Requires", case.requirement), ("Because", case.why), ("Source", case.source)]
    rows += [("Features", ", ".join(case.features))] if case.features else []
    rows += [("Needs", ", ".join(case.needs))] if case.needs else []
    for bound in case.bounds:
        scales = "scaled by the pace of the target" if bound.scales else "not scaled"
        rows.append(("Limit", f"{bound.name}: {bound.seconds:g} s, {scales}; {bound.why}"))
    for profile in profiles:
        if lack := profile.lack(case.features):
            rows.append((profile.name, f"not supported: {lack}"))
        if known := profile.known_failure(case.id):
            rows.append((profile.name, f"known failure: {known.reason} ({known.reference})"))
    lines = [case.id]
    for name, text in rows:
        first, *rest = wrap(text, WIDTH_COLUMNS - 13, break_long_words=False)
        lines += [f"  {name:<10} {first}", *(f"  {'':<10} {line}" for line in rest)]
    return lines
