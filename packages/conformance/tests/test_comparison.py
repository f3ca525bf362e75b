"""Two reports beside each other."""

import pytest
from click.testing import CliRunner

from shunter.conformance.cli import main
from shunter.conformance.core.case import Level
from shunter.conformance.core.comparison import Change, Finding, compare, describe, read_events, read_findings, regressions
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import UsageError

PASSED, FAILED, KNOWN = (Finding(Level.MUST, v) for v in (Verdict.PASSED, Verdict.FAILED, Verdict.KNOWN_FAILURE))
SKIPPED = Finding(Level.MUST, Verdict.SKIPPED)


@pytest.mark.parametrize(
    ("was", "now", "change", "stops"),
    [
        (PASSED, FAILED, Change.WORSE, True),
        (PASSED, KNOWN, Change.WORSE, True),
        (KNOWN, FAILED, Change.WORSE, True),
        (FAILED, PASSED, Change.BETTER, False),
        (SKIPPED, FAILED, Change.OTHER, False),
        (PASSED, SKIPPED, Change.OTHER, False),
        (None, FAILED, Change.NEW, True),
        (None, PASSED, Change.NEW, False),
        (None, Finding(Level.SHOULD, Verdict.FAILED), Change.NEW, False),
        (PASSED, None, Change.GONE, False),
    ],
)
def test_each_change_has_a_name_and_stops_a_release_or_not(was, now, change, stops):
    before, after = ({"a": each} if each else {} for each in (was, now))
    (difference,) = compare(before, after)
    assert difference.change is change
    assert bool(regressions([difference])) == stops


def test_what_is_the_same_is_not_told():
    assert compare({"a": PASSED, "b": KNOWN}, {"a": PASSED, "b": KNOWN}) == ()


def test_a_difference_is_one_line_whatever_a_server_said():
    wild = Finding(Level.MUST, Verdict.FAILED, "a\nb\x1b[2J" + "x" * 1000)
    (line,) = describe(compare({"ms.a": PASSED}, {"ms.a": wild}))
    assert line.startswith("worse   pass → FAIL   ms.a  a b\ufffd[2Jxxx")
    assert len(line) < 250


def test_both_forms_of_a_report_say_the_same(pytestconfig):
    golden = pytestconfig.rootpath / "packages/conformance/tests/golden"
    yaml, ndjson = (read_findings((golden / f"report{end}").read_text(), f"report{end}") for end in (".yaml", ".ndjson"))
    assert {name: each.verdict for name, each in yaml.items()} == {name: each.verdict for name, each in ndjson.items()}
    assert len(yaml) == 7


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("r.yaml", "[", "r.yaml: not YAML"),
        ("r.yaml", "cases: 7", "r.yaml: Expected `array`, got `int` - at `$.cases`"),
        ("r.yaml", "cases: []", "r.yaml: there is no exam in it"),
        ("r.ndjson", "", "r.ndjson: there is no exam in it"),
        ("r.ndjson", '{"event":"finished","duration_s":1}\n{', "r.ndjson:2: Input data was truncated"),
    ],
)
def test_what_is_no_report_is_refused(file, text, words):
    with pytest.raises(UsageError) as refused:
        read_findings(text, file)
    assert words in str(refused.value)


def test_reports_are_made_of_a_run_that_is_over(tmp_path, pytestconfig):
    golden = pytestconfig.rootpath / "packages/conformance/tests/golden"
    words = ["report", str(golden / "report.ndjson"), "--implementation", "project=m-server"]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "r.html"), "-o", str(tmp_path / "r.md")])
    assert done.exit_code == 0, done.output
    assert "m-server" in (tmp_path / "r.html").read_text()
    assert len(read_events((golden / "report.ndjson").read_text(), "r")) == 16


def test_a_regression_ends_with_1(tmp_path, pytestconfig):
    golden = (pytestconfig.rootpath / "packages/conformance/tests/golden/report.yaml").read_text()
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(golden.replace("verdict: failed", "verdict: passed"))
    new.write_text(golden)
    done = CliRunner().invoke(main, ["compare", str(old), str(new)])
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, "1 of 7 cases differ, 1 for the worse")
    assert CliRunner().invoke(main, ["compare", str(new), str(old)]).exit_code == 0
    missing = CliRunner().invoke(main, ["compare", str(new), str(tmp_path / "gone.yaml")])
    assert missing.exit_code == 2
    assert "No such file" in missing.output
