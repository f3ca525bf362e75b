"""The exam of a real llama.cpp server: what it gets wrong is what its profile says, and nothing else."""

import msgspec
import pytest

from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.servers.profiles import find_profile

pytestmark = pytest.mark.llamacpp


@pytest.fixture
def llamacpp(tmp_path):
    testing = pytest.importorskip("shunter.stack.llamacpp.testing", reason="pip install shunter-stack[llamacpp]")
    with testing.llamacpp_server(tmp_path) as url:
        yield url


async def test_llamacpp_fails_only_as_its_profile_says(exam, llamacpp):
    findings = await exam(llamacpp)
    profile = find_profile("llama.cpp")
    assert findings.events[0].profile == profile.name
    assert findings.ids(Verdict.KNOWN_FAILURE) == {known.case for known in profile.known_failures}
    kv = {"ms.metrics.kv-present", "ms.metrics.kv-range", "ms.metrics.kv-idle", "ms.load.kv-follows"}
    unsupported = {*kv, "ms.metrics.model-label"}
    assert findings.ids(Verdict.NOT_SUPPORTED) == unsupported
    # It looks for clients that have left once a second, when so small a model may be done.
    assert findings.ids(Verdict.SKIPPED) <= {"ms.cancel.whole"}
    rest = set(findings) - findings.ids(Verdict.KNOWN_FAILURE, Verdict.SKIPPED) - unsupported
    assert findings.ids(Verdict.PASSED) == rest


async def test_without_its_profile_the_same_failures_are_plain(exam, llamacpp):
    strict = msgspec.structs.replace(find_profile("llama.cpp"), known_failures=())
    findings = await exam(llamacpp, profile=strict)
    assert findings.ids(Verdict.FAILED) == {known.case for known in find_profile("llama.cpp").known_failures}
