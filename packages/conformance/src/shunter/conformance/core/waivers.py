"""Waivers: failures that the examiner knows of and lives with until a day, with a reason.

A waiver is a known failure that is the examiner's instead of the profile's: it keeps the exit code at 0 and stays a failure in
the report, and a case that passes in spite of it is reported. After its last day it counts no longer.
"""

import re
from collections.abc import Collection
from datetime import date

import msgspec
import yaml

from shunter.conformance.core.case import near
from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.errors import UsageError

__all__ = ["Waiver", "expired", "load_waivers", "waived"]


class Waiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case, why its failure is put up with, and the last day on which it is."""

    id: str
    reason: str
    until: date


class _Waivers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    waivers: tuple[Waiver, ...] | None


def load_waivers(text: str, file: str, known_ids: Collection[str]) -> tuple[Waiver, ...]:
    """Read a file of waivers; raises UsageError with place and remedy, also for cases that do not exist."""
    try:
        waivers = msgspec.convert(yaml.safe_load(text), _Waivers).waivers or ()
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    except (msgspec.ValidationError, RecursionError, ValueError) as error:
        raise UsageError(f"{file}: {error}; want waivers: [{{id: …, reason: …, until: 2027-01-31}}, …]") from None
    seen: set[str] = set()
    for at, waiver in enumerate(waivers):
        place = f"{file}: waivers[{at}]"
        if waiver.id not in known_ids:
            raise UsageError(f"{place}: no case {waiver.id!r}{near(waiver.id, known_ids)}; `list` shows all")
        if waiver.id in seen:
            raise UsageError(f"{place}: {waiver.id} is waived already")
        if not re.search(r"\w{3}", waiver.reason):
            raise UsageError(f"{place}.reason: {waiver.reason!r} is no reason; say why the failure is put up with")
        seen.add(waiver.id)
    return waivers


def expired(waivers: Collection[Waiver], today: date) -> tuple[Waiver, ...]:
    """Return those whose last day is over."""
    return tuple(waiver for waiver in waivers if waiver.until < today)


def waived(case_id: str, waivers: Collection[Waiver], today: date) -> KnownFailure | None:
    """Return a case's failure as one that is known, if it is waived today."""
    for waiver in waivers:
        if waiver.id == case_id and waiver.until >= today:
            return KnownFailure(waiver.id, waiver.reason, f"waived until {waiver.until}")
    return None
