"""Findings come in the order of their places, each once."""

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.versions import Version

OPEN = """\
admin:
  address:
    socketAddress: {address: 0.0.0.0, port_value: 9901}
"""


def test_a_finding_has_its_line_and_its_remedy():
    ((rule, finding),) = examine(load_documents(OPEN, "a.yaml"))
    assert rule.code == "W26"
    assert finding.document.line(finding.path) == 3
    assert finding.path == ("admin", "address", "socketAddress", "address")
    assert finding.fixes[0].path == ("admin", "allow_paths")


def test_a_fix_is_one_that_the_version_has():
    ((_, finding),) = examine(load_documents(OPEN, "a.yaml"), Version(1, 36))
    assert [(fix.path, fix.value) for fix in finding.fixes] == [(finding.path, "127.0.0.1")]


def test_findings_are_sorted_by_file_and_line():
    documents = [*load_documents(OPEN, "b.yaml"), *load_documents("---\n\n" + OPEN + "---\n" + OPEN, "a.yaml")]
    found = examine(documents)
    assert [(finding.document.file, finding.document.line(finding.path)) for _, finding in found] == [
        ("a.yaml", 5),
        ("a.yaml", 9),
        ("b.yaml", 3),
    ]
