"""What kustomize builds of our files are our documents."""

import subprocess

import pytest
import yaml

from shunter.envoyconf import IntentError, Pool, Profile, render
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.kube.kustomize import FILE, kustomization
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_kube import find_tool

INTENT = Intent(pools=(Pool(name="llama", selector={"app": "vllm"}),), profile=Profile.FULL)


@pytest.fixture
def build(tmp_path):
    """Write artefacts and their kustomization, and return what kubectl makes of them."""
    try:
        kubectl = find_tool("kubectl")
    except ToolMissingError as error:
        pytest.skip(str(error))

    def run(output, patches=()):
        for artefact in output.artefacts:
            (tmp_path / f"{artefact.name}.yaml").write_text("---\n".join(map(render, artefact.documents)))
        (tmp_path / FILE).write_text(render(kustomization(output) | {"patches": list(patches)}))
        command = ["kubectl", "kustomize", str(tmp_path)]
        built = subprocess.run(
            command, executable=kubectl, capture_output=True, text=True, check=True, env={"HOME": str(tmp_path)}
        )
        return list(yaml.safe_load_all(built.stdout))

    return run


@pytest.mark.parametrize("target", [Target.ISTIO, Target.GKE])
def test_kustomize_builds_the_same_documents_in_the_same_order(target, build):
    output = generate(INTENT, target)
    assert build(output) == list(output.documents)


def test_a_patch_finds_its_object(build):
    patch = {"target": {"kind": "Deployment", "name": "llama-picker"}}
    patch["patch"] = '[{"op": "replace", "path": "/spec/replicas", "value": 5}]'
    (deployment,) = [each for each in build(generate(INTENT, Target.GKE), [patch]) if each["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 5


def test_an_envoys_bootstrap_is_nothing_for_kustomize():
    pool = {"name": "llama", "endpoints": ("10.0.0.1:8000",)}
    with pytest.raises(IntentError, match="envoy is no Kubernetes object"):
        kustomization(generate(Intent(pools=(Pool(**pool),), profile=Profile.NATIVE), Target.ENVOY_STATIC))
