"""Two exams side by side: what got worse, what got better, what is new."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec
import yaml

from shunter.conformance.core.case import Level
from shunter.conformance.core.events import CaseFinished, Event
from shunter.conformance.core.exchange import clip, printable
from shunter.conformance.core.narration import LABELS
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import UsageError

__all__ = ["Change", "Difference", "Finding", "compare", "describe", "read_events", "read_findings", "regressions"]


class Finding(msgspec.Struct, frozen=True):
    """What a report says of a case, in whatever form it is."""

    level: Level
    verdict: Verdict
    grounds: str = ""


class Change(StrEnum):
    """What became of a case."""

    WORSE = "worse"
    BETTER = "better"
    OTHER = "other"
    NEW = "new"
    GONE = "gone"


class Difference(msgspec.Struct, frozen=True):
    """One case whose verdicts differ."""

    id: str
    change: Change
    before: Finding | None
    after: Finding | None


# What a reader hopes for; between what could not be judged and what was, neither is better.
_RANK = {Verdict.PASSED: 2, Verdict.UNEXPECTED_PASS: 2, Verdict.KNOWN_FAILURE: 1, Verdict.FAILED: 0}


def compare(before: Mapping[str, Finding], after: Mapping[str, Finding]) -> tuple[Difference, ...]:
    """Return what differs, in the order of the later exam; what only the earlier one had comes last."""
    ids = [*after, *(case_id for case_id in before if case_id not in after)]
    pairs = [(case_id, before.get(case_id), after.get(case_id)) for case_id in ids]
    return tuple(
        Difference(case_id, _change(was, now), was, now)
        for case_id, was, now in pairs
        if was is None or now is None or was.verdict is not now.verdict
    )


def regressions(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return what should stop a release: what got worse, and MUSTs that fail and were not asked before."""
    return tuple(
        each
        for each in differences
        if each.change is Change.WORSE
        or (each.change is Change.NEW and each.after and (each.after.level, each.after.verdict) == (Level.MUST, Verdict.FAILED))
    )


def describe(differences: Sequence[Difference]) -> list[str]:
    """Return a line for each difference."""
    return [
        f"{each.change:<6} {LABELS[each.before.verdict] if each.before else '–':>5} → "
        f"{LABELS[each.after.verdict] if each.after else '–':<5}  "
        + printable("  ".join(filter(None, [each.id, " ".join(clip(each.after.grounds).split()) if each.after else ""])))
        for each in differences
    ]


def _change(was: Finding | None, now: Finding | None) -> Change:
    if was is None:
        return Change.NEW
    if now is None:
        return Change.GONE
    ranks = _RANK.get(was.verdict), _RANK.get(now.verdict)
    if ranks[0] is None or ranks[1] is None or ranks[0] == ranks[1]:
        return Change.OTHER
    return Change.WORSE if ranks[1] < ranks[0] else Change.BETTER


class _Entry(msgspec.Struct):
    id: str
    level: Level
    verdict: Verdict
    actual: str = ""
    reason: str = ""


class _Report(msgspec.Struct):
    cases: tuple[_Entry, ...]


def read_findings(text: str, file: str) -> dict[str, Finding]:
    """Read a report, .yaml or .ndjson, as it was written; raises UsageError, also for one in which no case has a verdict."""
    findings = _read_findings(text, file)
    if not findings:  # of a run that was killed, or never was: nothing got worse in it
        raise UsageError(f"{file}: there is no exam in it")
    return findings


def _read_findings(text: str, file: str) -> dict[str, Finding]:
    if file.endswith(".ndjson"):
        findings = [event for event in read_events(text, file) if isinstance(event, CaseFinished)]
        return {each.id: Finding(each.level, each.verdict, each.actual or each.reason) for each in findings}
    try:
        report = msgspec.convert(yaml.safe_load(text), _Report)
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    except (msgspec.ValidationError, RecursionError, ValueError) as error:
        raise UsageError(f"{file}: {error}; want a report of this exam, .yaml or .ndjson") from None
    return {each.id: Finding(each.level, each.verdict, each.actual or each.reason) for each in report.cases}


def read_events(text: str, file: str) -> tuple[Event, ...]:
    """Read an .ndjson report back; raises UsageError with the line."""
    decoder = msgspec.json.Decoder(Event)
    events: list[Event] = []
    for number, line in enumerate(text.split("\n"), 1):  # text of a server may have what Python also takes for line ends
        if not line.strip():
            continue
        try:
            events.append(decoder.decode(line))
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(f"{file}:{number}: {error}; want an .ndjson report of this exam") from None
    return tuple(events)
