"""The Kubernetes API that other tests stand on: it keeps what is right, refuses what is not, and leaves nothing behind."""

import copy
import json
from types import SimpleNamespace

import pytest

from shunter.envoyconf.errors import KubernetesRefusedError, ToolMissingError
from shunter.envoyconf.testing_kube import _all_established, find_crds, find_tool, running_kube

POOL = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "checked", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"app": "vllm"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "checked-picker", "port": {"number": 9002}},
    },
}


def pool(**spec):
    changed = copy.deepcopy(POOL)
    changed["spec"] |= spec
    return changed


def test_a_dry_run_keeps_nothing(kube):
    assert "inferencepool.inference.networking.k8s.io/checked" in kube.apply([POOL], dry_run=True)
    with pytest.raises(KubernetesRefusedError, match="not found"):
        kube.kubectl("get", "inferencepool", "checked")


def test_what_is_applied_is_kept_with_defaults(kube):
    named = copy.deepcopy(POOL)
    named["metadata"]["name"] = "kept"
    kube.apply([named])
    kept = kube.kubectl("get", "inferencepool", "kept", "-o", "jsonpath={.spec.endpointPickerRef.failureMode}")
    kube.kubectl("delete", "inferencepool", "kept")
    assert kept == "FailClose"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"targetPorts": [{"number": 99999}]}, "less than or equal to 65535"),
        ({"targetPorts": [{"number": 1}, {"number": 1}]}, "must be unique"),
        ({"endpointPickerRef": {"name": "picker"}}, "port is required"),
        ({"targetPortNumber": 8000}, 'unknown field "targetPortNumber"'),
    ],
    ids=["type", "rule", "rule of a reference", "unknown field"],
)
def test_what_is_wrong_is_refused(kube, spec, words):
    with pytest.raises(KubernetesRefusedError, match=words):
        kube.apply([pool(**spec)], dry_run=True)


def test_what_is_missing_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="no etcd: put it into"):
        find_tool("etcd")
    with pytest.raises(ToolMissingError, match="no CRDs: put gie_"):
        find_crds("gie_")


def test_a_server_that_ends_is_reported_with_its_words(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / "bin" / name).write_text('#!/bin/sh\necho "no, not today"\nexit 3\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path))
    with pytest.raises(KubernetesRefusedError, match=r"exit code 3:\n(.*\n)*no, not today"), running_kube(()):
        pass


@pytest.mark.parametrize(
    ("status", "established"),
    [({}, False), ({"conditions": None}, False), ({"conditions": [{"type": "Established", "status": "True"}]}, True)],
    ids=["no status", "null, as for some milliseconds", "established"],
)
def test_a_definition_of_which_nothing_is_said_yet_is_waited_for(status, established):
    listed = json.dumps({"items": [{"status": status}]})
    assert _all_established(SimpleNamespace(kubectl=lambda *_: listed)) is established
