"""Waivers: what the examiner puts up with, until when, and what is no waiver."""

from datetime import date

import pytest
from aiohttp import web

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.core.waivers import Waiver, expired, load_waivers, waived
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers.profiles import find_profile

IDS = {"ms.a.one", "ms.a.two"}
DAY = date(2026, 11, 26)
ONE = Waiver("ms.a.one", "fixed in 1.3", DAY)


def text(body):
    return f"waivers:\n{body}"


def test_a_file_is_read():
    assert load_waivers(text("- {id: ms.a.one, reason: fixed in 1.3, until: 2026-11-26}"), "w", IDS) == (ONE,)


def test_a_file_whose_last_waiver_was_taken_out_waives_nothing():
    assert load_waivers(text(""), "w", IDS) == ()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("- {id: ms.a.on, reason: because, until: 2026-11-26}", "w: waivers[0]: no case 'ms.a.on' (did you mean ms.a.one"),
        ("- {id: ms.a.one, reason: '-', until: 2026-11-26}", "w: waivers[0].reason: '-' is no reason"),
        ("- {id: ms.a.one, reason: because}", "w: Object missing required field `until` - at `$.waivers[0]`"),
        ("- {id: ms.a.one, reason: because, until: soon}", "at `$.waivers[0].until`"),
        ("- {id: ms.a.one, reason: because, until: 2026-02-31}", "w: day is out of range"),
        ("- {id: ms.a.one, reason: because, until: 2026-11-26, owner: me}", "unknown field `owner`"),
        ("- {id: ms.a.one, reason: because, until: 2026-11-26}\n" * 2, "w: waivers[1]: ms.a.one is waived already"),
        ("[", "w: not YAML"),
    ],
)
def test_what_is_no_waiver_is_refused_with_its_place(body, words):
    with pytest.raises(UsageError) as refused:
        load_waivers(text(body), "w", IDS)
    assert words in str(refused.value)


def test_a_waiver_counts_on_its_last_day_and_not_after_it():
    assert waived("ms.a.one", [ONE], DAY) == KnownFailure("ms.a.one", "fixed in 1.3", "waived until 2026-11-26")
    assert waived("ms.a.one", [ONE], date(2026, 11, 27)) is None
    assert waived("ms.a.two", [ONE], DAY) is None
    assert expired([ONE], DAY) == ()
    assert expired([ONE], date(2026, 11, 27)) == (ONE,)


async def test_what_a_profile_knows_stays_as_it_says_it(exam, serving):
    profile = find_profile("llama.cpp")
    known = profile.known_failure("ms.errors.unknown-model")

    async def fail(_request):
        return web.Response(status=404)

    async with serving(fail) as url:
        found = await exam(url, profile=profile, model="a", waivers=[Waiver(known.case, "my own", date(9999, 1, 1))])
    assert known.reason in found[known.case].reason


async def test_a_waived_failure_is_known_and_a_waived_pass_is_told(exam, serving):
    async def fail(_request):
        return web.Response(status=404)

    far = date(9999, 1, 1)
    waivers = [Waiver("ms.errors.malformed-json", "soon", far), Waiver("ms.reachability.models", "soon", far)]
    async with serving(fail) as url:
        found = await exam(url, waivers=waivers)
    assert found["ms.errors.malformed-json"].verdict is Verdict.KNOWN_FAILURE
    assert found["ms.reachability.health"].verdict is Verdict.FAILED
