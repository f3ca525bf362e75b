"""Reports for people, programs and scanners; what is let be needs a reason; exit codes."""

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf.cli import main
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.lint.report import Report, as_json, as_sarif, as_text, summary
from shunter.envoyconf.core.lint.suppress import sort_out, suppressions

POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: llama
  annotations: {}
spec:
  selector: {matchLabels: {app: vllm}}
  targetPorts:
  - number: 8000
  endpointPickerRef:
    name: llama-epp
"""
WARNS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant}
spec: {from: [], to: []}
"""

# What every reader of SARIF 2.1.0 goes by (its schema, sections 3.13 to 3.28), and nothing beside.
LOCATION = {
    "type": "object",
    "required": ["physicalLocation"],
    "properties": {
        "physicalLocation": {
            "required": ["artifactLocation", "region"],
            "properties": {
                "artifactLocation": {"required": ["uri"], "properties": {"uri": {"type": "string"}}},
                "region": {"required": ["startLine"], "properties": {"startLine": {"type": "integer", "minimum": 1}}},
            },
        }
    },
}
RESULT = {
    "type": "object",
    "required": ["ruleId", "ruleIndex", "level", "message", "locations"],
    "additionalProperties": False,
    "properties": {
        "ruleId": {"type": "string"},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": {"enum": ["none", "note", "warning", "error"]},
        "message": {"required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
        "locations": {"type": "array", "minItems": 1, "items": LOCATION},
        "suppressions": {
            "type": "array",
            "items": {"required": ["kind"], "properties": {"kind": {"enum": ["inSource", "external"]}}},
        },
    },
}
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name", "rules"],
                                "properties": {"rules": {"type": "array", "uniqueItems": True, "items": {"required": ["id"]}}},
                            }
                        },
                    },
                    "results": {"type": "array", "items": RESULT},
                },
            },
        },
    },
}


def report(text, file="pool.yaml"):
    return Report(*sort_out(examine(load_documents(text, file)), suppressions(text, file)))


def codes(text):
    return [rule.code for rule, _ in report(text).found]


def run(*arguments, text=None):
    return CliRunner().invoke(main, ["lint", *arguments], input=text)


def test_text_says_where_what_why_and_what_to_do():
    text = as_text(report(POOL))
    place, why, remedy = text.splitlines()
    assert place.startswith("pool.yaml:10: error E39: endpointPickerRef names a Service without port.number")
    assert why.strip().startswith("why: ")
    assert remedy.strip().startswith("do:  add port")


def test_why_is_told_once_for_each_rule():
    assert as_text(report(f"{POOL}---\n{POOL}")).count("why:") == 1


def test_sarif_is_what_its_readers_expect():
    silenced = POOL.replace("  endpointPickerRef:", "  endpointPickerRef:  # shunter-lint: ignore=E39 the CRD is ours")
    log = json.loads(as_sarif(report(f"{POOL}---\n{silenced}---\n{WARNS}"), "1.2.3"))
    jsonschema.validate(log, SARIF)
    results = log["runs"][0]["results"]
    assert [result["level"] for result in results] == ["error", "warning", "error"]
    assert [bool(result.get("suppressions")) for result in results] == [False, False, True]
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in results)


def test_json_has_what_is_let_be_too():
    silenced = POOL.replace("annotations: {}", "annotations: {shunter-lint/E39: the CRD is ours}")
    assert [
        (each["code"], each.get("ignored")) for each in json.loads(as_json(report(f"{POOL}---\n{silenced}")))["findings"]
    ] == [
        ("E39", None),
        ("E39", "the CRD is ours"),
    ]


def test_summary_counts():
    assert summary(report(f"{POOL}---\n{WARNS}")) == "1 error, 1 warning; 1 can be corrected by --fix"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  endpointPickerRef:", "  endpointPickerRef:  # shunter-lint: ignore=E39 inferred by our gateway"),
        ("  endpointPickerRef:", "  # shunter-lint: ignore=E39 inferred by our gateway\n  endpointPickerRef:"),
        ("  endpointPickerRef:", "  # shunter-lint: ignore=W36,E39 inferred\n  # and more\n\n  endpointPickerRef:"),
        ("spec:", "# shunter-lint: ignore=E39 all of it\nspec:"),
        ("  annotations: {}", "  annotations: {shunter-lint/E39: inferred by our gateway}"),
    ],
)
def test_what_has_a_reason_is_let_be(before, after):
    text = POOL.replace(before, after, 1)
    assert codes(text) == []
    assert [each.rule.code for each in report(text).silenced] == ["E39"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  endpointPickerRef:", "  endpointPickerRef:  # shunter-lint: ignore=E39"),
        ("  annotations: {}", "  annotations: {shunter-lint/E39: ''}"),
    ],
)
def test_what_has_no_reason_is_not_let_be_and_that_is_a_finding(before, after):
    assert sorted(codes(POOL.replace(before, after, 1))) == ["E39", "W89"]


@pytest.mark.parametrize("comment", ["ignore=", "ignore=E39;W36 both", "ignore=all I know better", "ignore=e39 lower"])
def test_comment_that_names_no_rule_is_a_finding(comment):
    text = POOL.replace("  endpointPickerRef:", f"  # shunter-lint: {comment}\n  endpointPickerRef:", 1)
    assert sorted(codes(text)) == ["E39", "W89"]


def test_reason_holds_for_its_block_and_its_rule_only():
    elsewhere = POOL.replace("  targetPorts:", "  # shunter-lint: ignore=E39 not here\n  targetPorts:")
    other = POOL.replace("  endpointPickerRef:", "  # shunter-lint: ignore=E40 another\n  endpointPickerRef:")
    assert codes(elsewhere) == codes(other) == ["E39"]


@pytest.mark.parametrize(
    ("text", "fail_on", "code"),
    [
        (POOL, "error", 1),
        (POOL, "warning", 1),
        (POOL, "never", 0),
        (WARNS, "error", 0),
        (WARNS, "warning", 1),
        ("a: 1", "warning", 0),
    ],
)
def test_exit_code_is_by_severity(text, fail_on, code):
    assert run("--fail-on", fail_on, text=text).exit_code == code


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (["--select", "E00"], POOL, "there is no rule 'E00'"),
        (["--envoy-version", "two"], POOL, "must be like 1.38"),
        (["--target", "nginx"], POOL, "known: envoy-static"),
        (["--diff"], POOL, "give both"),
        (["-f", "/nowhere.yaml"], None, "cannot read /nowhere.yaml"),
        ([], "a: [", "not YAML"),
        ([], "pools: [{name: a}]", "endpoints are missing"),
    ],
)
def test_bad_usage_is_one_message_and_exit_code_2(arguments, text, words):
    result = run(*arguments, text=text)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_rules_can_be_chosen():
    both = f"{POOL}---\n{WARNS}"
    assert "W61" not in run("--select", "E39", text=both).stdout
    assert "E39" not in run("--ignore", "E39", text=both).stdout
    assert "E39" not in run("--ignore", "E39", "--list").stdout


def test_an_intent_is_examined_by_what_is_generated_from_it(monkeypatch):
    monkeypatch.setenv("PICKER", "10.0.0.1:81")
    text = """\
pools:
- name: a
  endpoints: ["10.0.0.1:80"]
  picker: {addresses: ["${PICKER}"]}
limits: {retries: 0}
"""
    result = run(text=text)
    assert (result.exit_code, result.stdout.count("error E")) == (0, 0), result.stdout
    assert "<stdin> → envoy-static/" in result.stdout
    assert "W48" in result.stdout


def test_files_of_a_directory_are_examined_together(tmp_path):
    (tmp_path / "pool.yaml").write_text(POOL.replace("    name: llama-epp", "    name: llama-epp\n    port: {number: 9002}"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "service.yml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {}\n")
    (tmp_path / "notes.txt").write_text("nothing of ours: [")
    result = run("-f", str(tmp_path))
    assert "pool.yaml:11: error E40" in result.stdout


def test_namespace_is_that_of_objects_that_name_none():
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: llm}\nspec: {}\n"
    pool = POOL.replace("    name: llama-epp", "    name: llama-epp\n    port: {number: 9002}")
    assert "E40" in run("-n", "llm", text=f"{pool}---\n{service}").stdout
    assert "E40" not in run(text=f"{pool}---\n{service}").stdout


def test_fix_rewrites_the_file_and_nothing_else_in_it(tmp_path):
    path = tmp_path / "grant.yaml"
    path.write_text(f"# ours\n{WARNS}")
    path.chmod(0o640)
    shown = run("-f", str(path), "--fix", "--diff")
    assert "+apiVersion: gateway.networking.k8s.io/v1beta1" in shown.stdout
    assert path.read_text() == f"# ours\n{WARNS}"
    assert run("-f", str(path), "--fix").exit_code == 0
    assert path.read_text() == f"# ours\n{WARNS}".replace("io/v1\n", "io/v1beta1\n")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["grant.yaml"]


@pytest.mark.parametrize("start", ["", "---\n", "%YAML 1.1\n---\n", "# notes\n---\n# more\n---\n"])
def test_fix_finds_its_document_among_others(tmp_path, start):
    path = tmp_path / "many.yaml"
    path.write_text(f"{start}{POOL}---\n# between\n---\n{WARNS}...\n---\n{WARNS}")
    run("-f", str(path), "--fix")
    new = WARNS.replace("io/v1\n", "io/v1beta1\n")
    assert path.read_text() == f"{start}{POOL}---\n# between\n---\n{new}...\n---\n{new}"


@pytest.mark.parametrize("form", ["text", "json", "sarif"])
def test_what_was_piped_in_stays_and_the_report_is_the_only_output(form):
    result = run("--fix", "-o", form, "--fail-on", "warning", text=WARNS)
    assert (result.exit_code, "W61: would be corrected" in result.stderr) == (1, True)
    assert "+apiVersion: gateway.networking.k8s.io/v1beta1" in result.stderr
    assert "+apiVersion" not in result.stdout
    if form != "text":
        assert json.loads(result.stdout)


def test_a_scanner_is_given_an_address_and_not_a_name():
    log = json.loads(as_sarif(report(POOL, "a b/é → c.yaml"), "1"))
    (result,) = log["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/%C3%A9%20%E2%86%92%20c.yaml"


def test_codes_may_be_written_as_people_do():
    assert "E39" in run("--select", "e39, w61", text=POOL).stdout


@pytest.mark.parametrize("text", ["a: 1\n", "services: {web: {image: nginx}}\n"])
def test_what_is_nothing_of_ours_is_not_said_to_be_right(text):
    assert "nothing in <stdin> is an Envoy's configuration" in run(text=text).stderr
    assert "nothing in" not in run(text=POOL).stderr


def test_fix_lets_be_what_has_a_reason(tmp_path):
    path = tmp_path / "grant.yaml"
    text = WARNS.replace("v1\n", "v1  # shunter-lint: ignore=W61 our clusters are new\n", 1)
    path.write_text(text)
    assert run("-f", str(path), "--fix").exit_code == 0
    assert path.read_text() == text


def test_who_interrupts_a_correction_finds_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "grant.yaml"
    path.write_text(WARNS)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    assert run("-f", str(path), "--fix").exit_code == 1
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("grant.yaml", WARNS)]


@given(st.text(max_size=200))
def test_comments_of_any_text_are_read(text):
    suppressions(f"{text}\n# shunter-lint: ignore=E39 reason\n{text}", "any")
