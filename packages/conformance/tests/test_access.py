"""What an examiner's headers say gets to the server and nowhere else, and only whom he trusts is asked."""

import pytest

from shunter.conformance.errors import UsageError
from shunter.conformance.shell.access import Access, parse_headers, trust


def test_headers_are_read_and_variables_looked_up():
    texts = ["Authorization: Bearer ${KEY}", "x-team:rails"]
    assert parse_headers(texts, {"KEY": "s3cr3t-s3cr3t"}) == {"authorization": "Bearer s3cr3t-s3cr3t", "x-team": "rails"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Authorization", "--header: want 'NAME: VALUE'"),
        ("a b: c", "'a b'"),
        (": c", "want 'NAME: VALUE'"),
        ("a: ${MISSING}", "--header a: the environment has no MISSING"),
        ("a: b\r\nc: d", "characters that no header may have"),
        ("a: ü", "characters that no header may have"),
    ],
)
def test_a_header_that_is_none_is_refused_without_telling_its_value(text, problem):
    with pytest.raises(UsageError, match=problem) as refused:
        parse_headers([text], {})
    assert "c: d" not in str(refused.value)


def test_a_value_is_taken_out_of_what_a_server_says_with_its_scheme_and_without():
    access = Access({"Authorization": "Bearer s3cr3t-s3cr3t", "x-short": "1"})
    assert access.redact("no such key: s3cr3t-s3cr3t, 1") == "no such key: ***, 1"
    assert access.redact_bytes(b"got Bearer s3cr3t-s3cr3t") == b"got ***"


def test_whom_to_trust_is_a_file_of_certificates_or_anybody(tmp_path):
    assert trust(None, insecure=False) is None
    (empty := tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(UsageError, match="no certificate in it"):
        trust(empty, insecure=False)
    with pytest.raises(UsageError, match="No such file"):
        trust(tmp_path / "missing.pem", insecure=False)
    with pytest.raises(UsageError, match="trusts anybody"):
        trust(empty, insecure=True)
