"""The exam of a real llama.cpp server: what it gets wrong is what its profile says, and nothing else."""

import msgspec
import pytest
from hack.conformance.mutants import related

from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profiles import find_profile

pytestmark = pytest.mark.llamacpp

# So small a model has answered before it is known whether its server noticed that nobody waits any more.
UNDECIDED = {"ms.cancel.whole"}


@pytest.fixture
def llamacpp(tmp_path):
    testing = pytest.importorskip("shunter.stack.llamacpp.testing", reason="pip install shunter-stack[llamacpp]")
    with testing.llamacpp_server(tmp_path) as url:
        yield url


async def test_llamacpp_fails_only_as_its_profile_says(exam, llamacpp):
    findings = await exam(llamacpp)
    profile = find_profile("llama.cpp")
    assert findings.events[0].profile == profile.name
    known = {known.case for known in profile.known_failures}
    assert findings.ids(Verdict.KNOWN_FAILURE) - UNDECIDED == known - findings.ids(Verdict.SKIPPED) - UNDECIDED
    assert findings.ids(Verdict.NOT_SUPPORTED) == {case.id for case in CASES if profile.lack(case.features)}
    # So small a model may be done before it is seen whether the server knows that a client has left, before many requests have
    # come, and before a page was asked for beside them; what little a scrape costs it may drown in the noise of a busy machine;
    # and it knows no characters of several bytes. What ends a server is not asked of one that is only known by its URL.
    reasons = {case_id: findings[case_id].reason for case_id in findings.ids(Verdict.SKIPPED)}
    skipped = {case_id for case_id, reason in reasons.items() if "--" not in reason and not reason.startswith("needs ms.")}
    undecided = {"ms.freshness.ramp", "ms.scrape.costs-little", "ms.scrape.crowded", "ms.streaming.characters"}
    assert skipped <= UNDECIDED | undecided
    assert not findings.ids(Verdict.FAILED, Verdict.ERROR, Verdict.UNEXPECTED_PASS) - UNDECIDED


async def test_without_its_profile_the_same_failures_are_plain(exam, llamacpp):
    strict = msgspec.structs.replace(find_profile("llama.cpp"), known_failures=())
    known = {each.case for each in find_profile("llama.cpp").known_failures}
    asked = {case.id for each in known for case in related(each)}
    findings = await exam(llamacpp, profile=strict, cases=[case for case in CASES if case.id in asked])
    assert findings.ids(Verdict.FAILED) - UNDECIDED == known - findings.ids(Verdict.SKIPPED) - UNDECIDED
