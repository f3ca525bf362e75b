"""A suite's answer: yes if all its MUSTs are met, no if one is not, undecided if one could not be judged."""

import msgspec
import pytest
import yaml

from shunter.conformance.core.case import Level
from shunter.conformance.core.events import CaseFinished, Planned, Started
from shunter.conformance.core.profile import GIE, GIE_LORA
from shunter.conformance.core.report import conformance_report
from shunter.conformance.core.suites import answers
from shunter.conformance.core.verdict import Verdict


def exam(suite, *verdicts, level=Level.MUST):
    planned = tuple(Planned(f"ms.a.{at}", level, "", (suite,)) for at in range(len(verdicts)))
    started = Started(date="", url="u", profile="p", profile_reason="", cases=planned)
    return [started, *(CaseFinished(id=each.id, level=level, verdict=it) for each, it in zip(planned, verdicts, strict=True))]


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        ([Verdict.PASSED, Verdict.UNEXPECTED_PASS], "yes"),
        ([Verdict.PASSED, Verdict.FAILED], "no"),
        ([Verdict.PASSED, Verdict.KNOWN_FAILURE], "no"),
        ([Verdict.PASSED, Verdict.NOT_SUPPORTED], "no"),
        ([Verdict.FAILED, Verdict.SKIPPED], "no"),
        ([Verdict.PASSED, Verdict.SKIPPED], "undecided"),
        ([Verdict.ERROR], "undecided"),
        ([], None),
    ],
)
def test_an_answer_is_the_worst_of_its_cases(verdicts, word):
    assert [answer.word for answer in answers(exam(GIE, *verdicts))] == ([word] if word else [])


def test_a_part_of_a_suite_is_no_yes():
    started, *rest = exam(GIE, Verdict.PASSED)
    part = [msgspec.structs.replace(started, left_out={GIE: 17}), *rest]
    (answer,) = answers(part)
    assert str(answer).endswith("InferencePool? Undecided (gie: 1 of 18 MUSTs met; not asked: 17)")
    assert yaml.safe_load(conformance_report(part, {}))["profiles"][0]["core"]["result"] == "partial"


def test_what_a_server_does_not_have_at_all_is_not_asked():
    assert answers(exam(GIE_LORA, Verdict.NOT_SUPPORTED, Verdict.NOT_SUPPORTED)) == ()


def test_a_should_answers_nothing():
    assert answers(exam(GIE, Verdict.FAILED, level=Level.SHOULD)) == ()


def test_the_line_names_what_is_not_met():
    (answer,) = answers(exam(GIE, Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED))
    assert str(answer) == (
        "May this server stand in an InferencePool? No (gie: 1 of 3 MUSTs met; not met: ms.a.1; not judged: ms.a.2)"
    )


def test_the_line_lists_nothing_when_nothing_could_be_judged():
    (answer,) = answers(exam(GIE, Verdict.ERROR, Verdict.ERROR))
    assert str(answer).endswith("Undecided (gie: 0 of 2 MUSTs met; not judged: all 2)")
