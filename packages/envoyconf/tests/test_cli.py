"""The command: artefacts on standard output, diagnostics on standard error, exit codes that scripts can use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envoyconf.cli import main
from shunter.envoyconf.core.generate import MAKERS
from shunter.envoyconf.core.intent import Profile
from shunter.envoyconf.core.manual import fields
from shunter.envoyconf.core.targets import Means, Target

INTENT = Path(__file__).parent / "golden" / "minimal.intent.yaml"
FULL = Path(__file__).parent / "golden" / "full.intent.yaml"
BOOTSTRAP = Path(__file__).parent / "golden" / "minimal.bootstrap.yaml"
SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {a: b}, ports: [{port: 80}]}}\n"


@pytest.fixture
def run():
    def invoke(*arguments, stdin=None, **more):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, **more)

    return invoke


# generate


@pytest.mark.parametrize("source", [["-f", INTENT], ["-f", "-"], ["-f", "-", "-f", "-"], []])
def test_generate_prints_nothing_but_the_bootstrap(source, run):
    result = run("generate", *source, stdin=INTENT.read_bytes())
    assert (result.exit_code, result.stdout, result.stderr) == (0, BOOTSTRAP.read_text(), "")


def test_generate_prints_json(run):
    result = run("generate", "-f", INTENT, "-o", "json")
    assert json.loads(result.stdout) == yaml.safe_load(BOOTSTRAP.read_text())


def test_generate_writes_files(run, tmp_path):
    result = run("generate", "-f", INTENT, "-o", f"dir={tmp_path}/new/one")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"wrote envoy.yaml to {tmp_path}/new/one\n"
    assert (tmp_path / "new" / "one" / "envoy.yaml").read_text() == BOOTSTRAP.read_text()


FULL_IN_KUBERNETES = [
    *("-f", FULL, "--set", "pools[0].selector={app: llama}"),
    *("--set", "pools[0].endpoints=[]", "--set", "pools[0].picker.addresses=[]"),
]


@pytest.mark.parametrize("target", MAKERS, ids=lambda target: target.value)
def test_every_target_is_generated_the_same_each_time(target, run, tmp_path):
    def files():
        result = run("generate", *FULL_IN_KUBERNETES, "--target", target.value, "-o", f"dir={tmp_path}")
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    once = files()
    assert once
    assert once == files()


def test_how_to_apply_kubernetes_objects_is_said_beside_them(run):
    result = run("generate", *FULL_IN_KUBERNETES, "--target", "istio")
    assert all(document["kind"] for document in yaml.safe_load_all(result.stdout))
    assert "apply with: kubectl apply --server-side --field-manager=shunter -f -\n" in result.stderr


def test_files_that_refer_to_each_other_are_not_one_text(run):
    result = run("generate", "-f", INTENT, "--target", "envoy-fs")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Envoy reads one at a time; use -o dir=DIR" in result.stderr


def test_kubernetes_objects_in_json_are_one_list(run):
    arguments = ["generate", *FULL_IN_KUBERNETES, "--target", "istio"]
    listed = json.loads(run(*arguments, "-o", "json").stdout)
    assert (listed["kind"], listed["items"]) == ("List", [*yaml.safe_load_all(run(*arguments).stdout)])


def test_a_kustomization_names_the_files_beside_it(run, tmp_path):
    arguments = ["generate", *FULL_IN_KUBERNETES, "--target", "istio"]
    assert run(*arguments, "-o", f"kustomize={tmp_path}").exit_code == 0
    resources = yaml.safe_load((tmp_path / "kustomization.yaml").read_text())["resources"]
    assert sorted([*resources, "kustomization.yaml"]) == sorted(path.name for path in tmp_path.iterdir())
    refused = run("generate", "-f", INTENT, "-o", f"kustomize={tmp_path}")
    assert (refused.exit_code, refused.stderr.startswith("Error: envoy is no Kubernetes object")) == (2, True)


def test_values_are_set_and_variables_replaced(run):
    text = INTENT.read_text() + "limits: {connectTimeoutSeconds: 3, idleTimeoutSeconds: 9}\nlisteners:\n- port: ${PORT}\n"
    result = run("generate", "--set", "limits.connectTimeoutSeconds=7", stdin=text, env={"PORT": "8123"})
    resources = yaml.safe_load(result.stdout)["static_resources"]
    assert {cluster["connect_timeout"] for cluster in resources["clusters"]} == {"7s"}
    assert resources["listeners"][0]["address"]["socket_address"]["port_value"] == 8123


def test_manifests_are_an_intent_too(run, tmp_path):
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(run("generate", *FULL_IN_KUBERNETES, "--target", "istio").stdout)
    bootstrap = run("generate", "-f", manifests)
    assert bootstrap.exit_code == 0
    assert "not in the intent: Deployment llama-picker" in bootstrap.stderr
    assert run("validate", stdin=bootstrap.stdout).exit_code == 0
    assert run("diff", "-f", manifests, "--target", "istio", manifests).exit_code == 0


@pytest.mark.parametrize(
    ("words", "redirection", "message"),
    [
        (["generate", "-f", INTENT], ">/dev/full", "Error: cannot write to standard output: No space left on device\n"),
        (["explain", "limits"], ">/dev/full", "Error: cannot write to standard output: No space left on device\n"),
        (["generate", "-f", INTENT], ">&-", "Error: standard output is closed\n"),
        (["generate", "-f", "-"], "<&-", "Error: <stdin> is closed; give -f FILE, or pipe something in\n"),
        (["lint"], "<&-", "Error: nothing to examine: give -f FILE, or pipe something in\n"),
    ],
)
def test_where_nothing_can_be_read_or_written_that_is_said(words, redirection, message):
    command = ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-m", "shunter.envoyconf", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.endswith(message), "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.mark.parametrize(("version", "known"), [("1.30", "1.36, the nearest to 1.30 that is known"), ("1.37", "1.37")])
def test_validate_says_whose_schema_it_asked(version, known, run):
    assert f"schema of Envoy {known}: no mistakes" in run("validate", "-f", INTENT, "--envoy-version", version).stderr


BAD = [
    (["generate"], b"pool: []", "Error: <stdin>:1: $: unknown field 'pool'; did you mean pools"),
    (["validate"], b"pool: []", "Error: <stdin>:1: $: unknown field 'pool'; did you mean pools"),
    (["validate"], b"limits: {}", "Error: <stdin>:1: $: object missing required field `pools`"),
    (["validate"], b"pools: []", "Error: <stdin>:1: $.pools: expected `array` of length >= 1"),
    (["generate"], b"pools: \xff", "Error: <stdin> is not UTF-8"),
    (["validate"], b"pools: \xff", "Error: <stdin> is not UTF-8"),
    (["validate"], b"# no more\n---\n", "Error: <stdin>: nothing is there"),
    (["generate"], b"pools: \0", "Error: <stdin>: not YAML"),
    (["generate"], b"pools:\n\t- name: a", "Error: <stdin>:2: not YAML: while scanning for the next token, found"),
    (["generate"], b"limits: {retries: ${R}}", "; a variable within { } must be in quotes, or on a line of its own"),
    (["generate"], b"pools:\n\t- name: a", "; there is a tab, and YAML is indented by blanks"),
    (["lint"], b"kind: Service\n{{- if .Values.a }}\nmetadata: {}\n", "; if it is a chart's template, render it first"),
    (["lint"], b"", "Error: <stdin>: nothing is there to examine"),
    (["lint"], b"{apiVersion: v1, kind: List, items: [null]}", "<stdin>:1: nothing where an object is expected"),
    (["lint"], b"7", "<stdin>:1: a number where a mapping is expected"),
    (["generate"], b"", "Error: <stdin>: nothing is there; an intent begins with pools"),
    (["generate", "-f", "nowhere.yaml"], b"", "Error: cannot read nowhere.yaml: No such file or directory"),
    (["generate", "-f", INTENT, "-f", FULL], b"", "full.intent.yaml: a second intent, beside "),
    (["generate", "-f", INTENT, "-f", "-"], SERVICE.encode(), "is an intent and <stdin> a Kubernetes object"),
    (["generate", "--set", "limits.retries=1"], SERVICE.encode(), "--set limits.retries=1: manifests are read as they are"),
    (["generate", "-f", INTENT, "--set", "limits.retries=x"], b"", "minimal.intent.yaml:2: $.limits.retries: expected `int`"),
    (["generate", "-f", INTENT, "--target", "istoi"], b"", "Error: there is no target 'istoi'; did you mean istio?"),
    (["generate", "-f", INTENT, "--set", "profile=lean", "--target", "istio"], b"", "istio cannot have the profile lean"),
    (["generate", "-f", INTENT, "--target", "istio"], b"", "minimal.intent.yaml:3: $.pools[0].selector is missing"),
    (["lint", "-f", INTENT, "--target", "istio"], b"", "minimal.intent.yaml:3: $.pools[0].selector is missing"),
    (["generate"], b"pools:\n- name: a\n  ports: [1]", "Error: <stdin>:3: $.pools[0]: unknown field 'ports'"),
    (
        ["generate", "--target", "gke"],
        b"profile: lean\npools: [{name: a, selector: {a: b}}]",
        "Error: <stdin>: pool a: gke cannot",
    ),
    (
        ["generate"],
        f"pools:\n- selector: {{a: b}}\n  name: {'l' * 57}".encode(),
        f"Error: <stdin>:3: $.pools[0].name '{'l' * 57}' must have no dots and at most 56 characters",
    ),
    (["generate", "-f", INTENT, "--envoy-version", "new"], b"", "Error: Envoy version 'new' must be like 1.38 or 1.38.3"),
    (["generate", "-f", INTENT, "-o", "xml"], b"", "'xml' is not yaml, json, dir=DIR or kustomize=DIR"),
    (["generate", "-f", INTENT, "-o", "dir="], b"", "'dir=' is not yaml, json"),
    (["generate", "-f", INTENT, "-o", "dir=/dev/null/a"], b"", "Error: cannot write to /dev/null/a: Not a directory"),
    (["diff", "-f", INTENT, "nowhere.yaml"], b"", "Error: cannot read nowhere.yaml"),
    (["explain", "retry"], b"", "Error: nothing is called 'retry'; did you mean retries"),
    (["run", "-f", FULL, "--target", "istio"], b"", "Error: "),
]


@pytest.mark.parametrize("target", [target.value for target in MAKERS if target is not Target.ENVOY_FS])
def test_one_intent_is_for_every_target(target, run):
    """Whoever asks for no profile gets the nearest to lean that the gateway has, and is told."""
    result = run("generate", "-f", "-", "--target", target, stdin=b"pools: [{name: llama, selector: {app: llama}}]")
    assert result.exit_code == 0, result.stderr
    lean = MAKERS[Target(target)].support[Profile.LEAN]
    assert ("Warning: profile full, since" in result.stderr) == (lean.means is Means.IMPOSSIBLE)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"), BAD, ids=lambda value: None if isinstance(value, bytes) else str(value)
)
def test_what_cannot_be_used_is_exit_code_2_with_place_and_remedy(arguments, stdin, message, run):
    result = run(*arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


# validate


def test_validate_says_what_is_wrong_with_a_bootstrap_and_where(run, tmp_path):
    path = tmp_path / "envoy.yaml"
    path.write_text(BOOTSTRAP.read_text().replace("stat_prefix:", "stat_prefx:"))
    result = run("validate", "-f", path)
    assert result.exit_code == 1
    place = next(n for n, line in enumerate(path.read_text().splitlines(), 1) if "stat_prefx" in line)
    assert f"Error: {path}:{place}: $.static_resources.listeners[0].filter_chains[0].filters[0]" in result.stderr
    assert "did you mean stat_prefix?" in result.stderr
    assert "schema of Envoy 1.40: 2 mistakes in 1 document\n" in result.stderr


def test_validate_lints(run):
    result = run("validate", stdin=BOOTSTRAP.read_text().replace("address: 127.0.0.1\n", "address: 0.0.0.0\n"))
    assert "lint: " in result.stderr


def test_validate_leaves_kubernetes_objects_to_the_api_server(run):
    result = run("validate", stdin=SERVICE)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "schema of Kubernetes: not asked; kubectl apply --dry-run=server does" in result.stderr
    assert "Envoy" not in result.stderr


PATCH = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
metadata: {name: a}
spec:
  jsonPatches:
  - type: type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: b
    operation: {op: add, path: "", value: {name: b, typ: EDS}}
  - type: type.googleapis.com/envoy.config.listener.v3.Listener
    name: c
    operation:
      op: add
      path: /default_filter_chain/filters/0/typed_config/http_filters/0
      value:
        name: router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          dynamic_stat: true
"""


def test_validate_looks_at_what_kubernetes_objects_have_for_envoy(run):
    result = run("validate", stdin=PATCH)
    assert result.exit_code == 1
    place = (
        "Error: <stdin>:9: $.spec.jsonPatches[0].operation.value.typ: unknown field 'typ' in envoy.config.cluster.v3.Cluster"
    )
    assert place in result.stderr
    place = "Error: <stdin>:19: $.spec.jsonPatches[1].operation.value.typed_config.dynamic_stat: unknown field 'dynamic_stat'"
    assert place in result.stderr
    assert "schema of Envoy 1.40: 2 mistakes in 1 document\n" in result.stderr


def test_validate_knows_what_envoy_watches(run):
    cluster = '{resources: [{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a, typo: 1}]}'
    result = run("validate", stdin=cluster)
    assert "Error: <stdin>:1: $.resources[0].typo: unknown field 'typo' in envoy.config.cluster.v3.Cluster" in result.stderr


def test_validate_without_envoy_says_so(run, monkeypatch, tmp_path):
    monkeypatch.delenv("ENVOY_PATH", raising=False)
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("validate", "-f", INTENT)
    assert result.exit_code == 0
    assert "Envoy: not asked, there is none here; shunter envoyconf fetch-envoy\n" in result.stderr


def test_no_envoy_is_exit_code_1_where_one_is_required(run, monkeypatch):
    monkeypatch.setenv("ENVOY_PATH", "nowhere")
    for arguments in (["validate", "--require-envoy", "-f", INTENT], ["fetch-envoy"], ["run", "-f", INTENT]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "ENVOY_PATH=nowhere" in result.stderr


@pytest.mark.envoy
def test_validate_asks_envoy(run, envoy_binary):
    result = run("validate", "-f", INTENT)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"Envoy: accepted by {envoy_binary}\n" in result.stderr
    refused = run("validate", stdin=INTENT.read_text() + "observability: {accessLog: /nowhere/at/all}")
    assert refused.exit_code == 1
    assert "Error: <stdin> → envoy-static/envoy.yaml: /nowhere/at/all: unable to open file" in refused.stderr


@pytest.mark.envoy
@pytest.mark.usefixtures("envoy_binary")
def test_validate_asks_envoy_about_what_is_written(run):
    cluster = "{name: a, connect_timeout: 1s, per_connection_buffer_limit_bytes: 1_000}"
    result = run("validate", stdin=f"static_resources: {{clusters: [{cluster}]}}")
    assert (result.exit_code, "Envoy: refused by" in result.stderr) == (1, True)


@pytest.mark.envoy
@pytest.mark.parametrize("target", [Target.ENVOY_FS, Target.XDS], ids=lambda target: target.value)
@pytest.mark.usefixtures("envoy_binary")
def test_validate_asks_envoy_about_what_it_is_to_watch(target, run):
    result = run("validate", "-f", FULL, "--target", target.value)
    assert (result.exit_code, "Envoy: accepted by" in result.stderr) == (0, True), result.stderr


def test_what_is_let_be_for_a_reason_does_not_fail(run, tmp_path):
    public = BOOTSTRAP.read_text() + "admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}"
    assert "W26" in run("validate", stdin=public).stderr
    result = run("validate", stdin=public + "  # shunter-lint: ignore=W26 nobody else is on this network\n")
    assert "W26" not in result.stderr
    assert "1 let be for a reason" in result.stderr


@pytest.mark.envoy
def test_fetch_envoy_prints_the_path(run, envoy_binary):
    assert run("fetch-envoy").stdout == f"{envoy_binary}\n"


def test_an_envoy_is_known_by_its_minor_version_too(run, monkeypatch, tmp_path):
    monkeypatch.delenv("ENVOY_PATH", raising=False)
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path))
    binary = tmp_path / "envoy" / "1.38.3" / "envoy"
    binary.parent.mkdir(parents=True)
    binary.touch(0o755)
    for version in ("1.38", "v1.38", "1.38.3"):
        assert run("fetch-envoy", "--version", version).stdout == f"{binary}\n"


# diff


def test_diff_of_what_says_the_same_is_empty(run, tmp_path):
    path = tmp_path / "envoy.json"
    bootstrap = yaml.safe_load(BOOTSTRAP.read_text())
    bootstrap["static_resources"]["clusters"][0]["respect_dns_ttl"] = False
    path.write_text(json.dumps(bootstrap, sort_keys=True))
    result = run("diff", "-f", INTENT, path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_diff_shows_what_would_change(run):
    result = run("diff", "-f", INTENT, "--set", "limits.retries=5", BOOTSTRAP)
    assert result.exit_code == 1
    assert result.stdout.startswith("--- old bootstrap\n+++ new bootstrap\n@@ ")
    changed = [line for line in result.stdout.splitlines()[2:] if line[0] in "+-"]
    assert [line.split() for line in changed] == [["-", "num_retries:", "2"], ["+", "num_retries:", "5"]]


def test_diff_is_coloured_for_people(run):
    changed = ["diff", "-f", INTENT, "--set", "limits.retries=5", BOOTSTRAP]
    assert "\x1b[31m-" in run(*changed, color=True).stdout
    assert "\x1b" not in run(*changed, color=True, env={"NO_COLOR": "1"}).stdout


def test_diff_overlooks_what_the_api_server_adds(run, tmp_path):
    arguments = [*FULL_IN_KUBERNETES, "--target", "istio"]
    objects = [*yaml.safe_load_all(run("generate", *arguments).stdout)]
    for each in objects:
        each["metadata"] |= {"uid": "1", "creationTimestamp": "now", "managedFields": []}
        each["status"] = {"conditions": []}
    live = tmp_path / "live.yaml"
    live.write_text(yaml.safe_dump_all(reversed(objects)))
    assert run("diff", *arguments, live).exit_code == 0
    live.write_text(yaml.safe_dump_all(objects[1:]))
    result = run("diff", *arguments, live)
    assert (result.exit_code, result.stdout.startswith("--- /dev/null\n+++ new ")) == (1, True)


def test_diff_compares_files_that_envoy_watches_each_with_its_own(run, tmp_path):
    arguments = ["-f", INTENT, "--target", "envoy-fs"]
    assert run("generate", *arguments, "-o", f"dir={tmp_path}").exit_code == 0
    result = run("diff", *arguments, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    result = run("diff", *arguments, "--set", "limits.retries=5", tmp_path)
    heads = [line for line in result.stdout.splitlines() if line.startswith(("---", "+++"))]
    assert heads == ["--- old rds.routes.yaml", "+++ new rds.routes.yaml"]


def test_diff_says_that_an_address_is_no_admin_interface(run):
    result = run("diff", "-f", INTENT, "http://127.0.0.1:99x1")
    assert result.exit_code == 2
    assert "nonnumeric port: '99x1'; is it the address of Envoy's admin interface?" in result.stderr


# explain, targets, schema, init


def test_every_field_profile_and_target_is_explained(run):
    for word in (*fields(), *(each.value for each in Target if each in MAKERS), "lean", "native", "E02"):
        result = run("explain", word)
        assert (result.exit_code, bool(result.stdout)) == (0, True), word


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("limits.retries", "limits.retries (integer 0 to 10, 2 if left out)\n    How often a request that no model server"),
        ("$.pools[0].picker.failureMode", 'pools[].picker.failureMode (FailClose or FailOpen, "FailOpen" if left out)'),
        ("servedHeader", "observability.servedHeader (boolean, false if left out)"),
        ("tls", "    caFile: PEM file of the CAs"),
        ("strict", "profile strict: as lean, but no request goes anywhere without a pick"),
        ("istio", "  lean                 no: Istio streams requests and responses through the picker; nearest is full"),
        ("e02", "E02 (error): "),
    ],
)
def test_explain_says_what_it_is(word, text, run):
    assert text in run("explain", word).stdout


def test_targets_are_a_table(run):
    head, *rows = (line.split("  ")[0] for line in run("targets").stdout.splitlines())
    assert [head, *rows] == ["target", *(target.value for target in MAKERS)]


def test_schema_is_json_schema(run):
    assert json.loads(run("schema").stdout)["$ref"] == "#/$defs/Intent"


def test_what_init_prints_is_an_intent_that_an_editor_completes(run):
    starter = run("init").stdout
    assert starter.startswith("# yaml-language-server: $schema=./intent.schema.json\n")
    assert run("validate", stdin=starter).exit_code == 0


# whatever it is given

TEXTS = [path.read_text() for path in (INTENT, FULL, BOOTSTRAP)] + [PATCH, SERVICE]
SNIPPETS = st.text(max_size=4) | st.sampled_from(
    ["{", "[", ": ", "- ", "null", "\n", "&a ", "*a", "7", "${A}", "---\n", "@type"]
)


@settings(max_examples=40)
@given(st.sampled_from(["validate", "generate", "lint", "import", "migrate"]), st.sampled_from(TEXTS), st.data())
def test_no_text_makes_a_traceback(command, text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    broken = text[:start] + data.draw(SNIPPETS) + text[end:]
    result = CliRunner().invoke(main, [command, "-f", "-"], input=broken, env={"SHUNTER_TOOLS_DIR": "/nowhere", "PATH": ""})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in {0, 1, 2}
