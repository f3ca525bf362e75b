"""The matrix has a promise for everything, and tells of whatever is not kept."""

import json

import pytest
from click.testing import CliRunner
from hack.matrix import __main__ as matrix
from hack.matrix import page
from hack.matrix.__main__ import suites
from hack.matrix.live import kept
from hack.matrix.promises import SIZES, WAYS, Cell, Form, Outcome, State, cells, promise
from hack.matrix.rows import Row, Rows

from shunter.envoyconf import FailureMode, Profile
from shunter.envoyconf.shell import envoy

ROW = {"target": "envoy-static", "envoy_version": "1.40.0", "profile": "lean", "check": "c", "ok": True}


def test_every_profile_has_its_promises_in_each_failure_mode_it_can_have():
    able = {(profile, failure) for profile in Profile for failure in FailureMode}
    able -= {(Profile.STRICT, FailureMode.OPEN), (Profile.NATIVE, FailureMode.CLOSE)}  # refused; there is no picker
    assert {*WAYS} == able


@pytest.mark.parametrize(("profile", "failure"), WAYS)
def test_every_request_is_promised_something_on_every_envoy(profile, failure):
    for cell in cells(profile):
        for version in ("1.36.2", "1.37.0", "1.38.3", "1.40.0"):
            assert promise(profile, failure, version, cell)


def test_failing_open_never_refuses_without_a_picker():
    for profile, failure in WAYS:
        for size in SIZES:
            promised = promise(profile, failure, "1.40.0", Cell(State.DEAD, Form.UNARY, size))
            assert (Outcome.REFUSED in promised) is (failure is FailureMode.CLOSE)


def test_who_may_be_served_by_anybody_may_be_served_as_picked_and_not_the_other_way_round():
    assert kept((Outcome.SERVED,), Outcome.PICKED)
    assert not kept((Outcome.PICKED,), Outcome.SERVED)
    assert not kept((Outcome.SERVED,), "ServerDisconnectedError: …")


def test_rows_are_kept_as_they_were_taken_down(tmp_path):
    shown = []
    rows = Rows(shown.append)
    rows.record(**ROW)
    rows.record(**ROW | {"ok": False, "detail": "why"})
    rows.write(tmp_path / "build" / "rows.json")
    assert json.loads((tmp_path / "build" / "rows.json").read_text()) == [
        ROW | {"detail": ""},
        ROW | {"ok": False, "detail": "why"},
    ]
    assert [row.detail for row in rows.failed] == ["why"]
    assert shown[1] == "FAILED envoy-static 1.40.0 lean: c (why)"


def test_the_page_shows_what_failed_and_what_cannot_be_had(tmp_path):
    refused = {"check": "FailOpen: refused", "detail": "x needs y; this is for 1.36. Do z.", "envoy_version": "1.36.2"}
    rows = [Row(**ROW), Row(**ROW | {"ok": False}), Row(**ROW | refused)]
    page.write(rows, tmp_path / "matrix.md")
    text = (tmp_path / "matrix.md").read_text()
    assert "| `envoy-static` | `lean` | not to be had | **1 of 2 failed** |" in text
    assert "* 1.36.2: x needs y. Do z." in text


def test_suites_are_found_by_their_modules():
    assert {"accepted", "live"} <= {*suites()}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command with two suites, the second of which breaks down, and all Envoys but those that are ``missing``."""

    def run(*arguments, missing=(), **environment):
        monkeypatch.delenv("ENVOY_PATH", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        written = []
        monkeypatch.setattr(envoy, "find", lambda version: version in envoy.WHEELS and version not in missing)
        monkeypatch.setattr(page, "write", written.extend)
        monkeypatch.setattr(matrix, "suites", lambda: {"a": lambda record, versions: record(**ROW), "b": lambda *_: 1 / 0})
        result = CliRunner().invoke(matrix.main, [*arguments, "-o", str(tmp_path / "rows.json")])
        return result.exit_code, result.output, len(written)

    return run


def test_a_suite_that_breaks_down_takes_nobodys_rows_with_it(run):
    code, output, written = run()
    assert (code, written) == (1, 2)
    assert "ZeroDivisionError" in output


@pytest.mark.parametrize(
    ("arguments", "missing"), [(["--only", "a"], ()), (["--version", "1.40.0"], ()), ([], ["1.36.2"])], ids=str
)
def test_the_page_is_not_written_of_a_part(arguments, missing, run):
    _, output, written = run(*arguments, missing=missing)
    assert written == 0
    assert ("fetch-envoy --version 1.36.2" in output) is bool(missing)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--only", "c"], {}, "'c' is not one of a, b"),
        (["--version", "1.2.3"], {}, "no Envoy 1.2.3; here may be 1.40.0"),
        ([], {"ENVOY_PATH": "/bin/envoy"}, "ENVOY_PATH is set: its Envoy would be taken for every version"),
    ],
)
def test_what_cannot_be_run_is_said(arguments, environment, words, run):
    code, output, _ = run(*arguments, **environment)
    assert code == 2
    assert words in output
