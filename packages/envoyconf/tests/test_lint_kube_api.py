"""The examples of rules about Kubernetes are objects that a cluster takes; where a rule says that it does not, it does not."""

from pathlib import Path

import pytest

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.errors import KubernetesRefusedError

EXAMPLES = Path(__file__).parent / "lint" / "kube"

# A file that Envoy Gateway reads, in the form of an object.
NO_OBJECTS = {"EnvoyGateway"}

# Rules about what the API server itself refuses, with its words; they are for those who have only the files.
REFUSED = {
    "E39": "port is required",
    "E53": "FullDuplexStreamed",
    "E59": "USE_FIXED_PORT",
}


def objects(code, name):
    documents = load_documents((EXAMPLES / code / name).read_text(), name)
    return [document.body for document in documents if document.kind not in NO_OBJECTS]


@pytest.fixture(scope="module")
def cluster(kube):
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("llm", "web", "www", "istio-system")
    ]
    kube.apply(namespaces)
    return kube


def test_a_cluster_takes_every_good_example(cluster):
    codes = sorted(path.name for path in EXAMPLES.iterdir())
    cluster.apply([each for code in codes for each in objects(code, "good.yaml")], dry_run=True)


def test_a_cluster_takes_the_bad_examples_whose_harm_comes_later(cluster):
    refused = {*REFUSED, "E38"}  # by its second example
    paths = [path for path in sorted(EXAMPLES.glob("*/bad*.yaml")) if path.parent.name not in refused]
    cluster.apply([each for path in paths for each in objects(path.parent.name, path.name)], dry_run=True)


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_cluster_refuses_what_a_rule_says_it_refuses(cluster, code):
    with pytest.raises(KubernetesRefusedError, match=REFUSED[code]):
        cluster.apply(objects(code, "bad.yaml"), dry_run=True)
