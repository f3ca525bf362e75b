"""`make conformance-mutants` can be done in slices, and keeps what was seen last of whatever is broken today."""

import json

import pytest
from hack.conformance import mutations, slices


def row(case, breaks, *failed):
    return {"case": case, "breaks": breaks, "failed": list(failed), "judged": 9}


OLD = row("ms.reachability.models", "answers 404", "ms.reachability.models", "ms.reachability.health")
NEW = row("ms.reachability.models", "answers 404", "ms.reachability.models")
OTHER = row("ms.reachability.health", "answers 503", "ms.reachability.health")
GONE = row("ms.reachability.health", "answers nothing", "ms.reachability.health")


def test_what_was_seen_replaces_what_was_kept_of_the_same_and_of_nobody_else():
    known = {mutations.named(each) for each in (OLD, OTHER)}
    assert mutations.merged([OLD, OTHER, GONE], [NEW], known) == [OTHER, NEW]


def test_who_has_failed_last_is_asked_again():
    ended = [("a", True), ("b", False), ("c", True), ("b", True), ("c", False)]
    assert slices.passed({"test": test, "passed": well} for test, well in ended) == {"a", "b"}


def test_half_a_line_of_a_killed_writer_is_no_line(tmp_path):
    file = tmp_path / "seen.ndjson"
    assert slices.read(file) == []
    file.write_text(json.dumps(NEW) + "\n" + json.dumps(OTHER)[:20])
    assert slices.read(file) == [NEW]


def test_each_job_has_a_share_of_those_that_have_not_passed():
    shares = [slices.Slice("", frozenset("b"), share, 2).left(tests) for share, tests in enumerate(["abcde", "edcba"])]
    assert shares == [{"a", "d"}, {"c", "e"}]


def test_all_that_is_broken_is_kept():
    assert {mutations.named(each) for each in slices.read(mutations.KEPT)} == mutations.ALL


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Ask tests that are written for it, with the files of slices elsewhere; returns the status and which tests were run."""
    for name in ("SEEN", "ENDED"):
        monkeypatch.setattr(mutations, name, tmp_path / name)
    file, ran = tmp_path / "test_broken.py", tmp_path / "ran"

    def ask(verdicts, **options):
        ran.write_text("")
        tests = [
            f"def test_{name}():\n    open({str(ran)!r}, 'a').write({name!r})\n    assert {well}"
            for name, well in verdicts.items()
        ]
        file.write_text("\n".join(tests))
        status = mutations.ask(
            ["-p", "no:randomly", "-p", "no:asyncio", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(file)], **options
        )
        return status, "".join(sorted(ran.read_text()))

    return ask


def test_a_slice_that_is_out_of_time_has_not_failed_and_the_next_asks_who_is_left(ask):
    assert ask({"a": True, "b": True, "c": False}, minutes=0) == (0, "a")
    assert ask({"a": True, "b": True, "c": False}) == (1, "bc")
    assert ask({"a": True, "b": True, "c": True}, jobs=2) == (0, "c")
    assert ask({"a": True, "b": True, "c": True}) == (0, "")
