"""A kustomization over generated files, as the base of one with somebody's own patches, labels or images."""

from shunter.envoyconf.core.output import Output
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import IntentError

__all__ = ["FILE", "kustomization"]

# What kustomize looks for in a directory.
FILE = "kustomization.yaml"


def kustomization(output: Output) -> Resource:
    """Return the kustomization of a directory where each artefact is a file ``<name>.yaml``; the objects keep their order.

    Raises IntentError if there is anything that is no Kubernetes object.
    """
    if foreign := [artefact.name for artefact in output.artefacts if any("kind" not in each for each in artefact.documents)]:
        raise IntentError(f"{foreign[0]} is no Kubernetes object, so kustomize can do nothing with it; choose another form")
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "sortOptions": {"order": "fifo"},
        "resources": [f"{artefact.name}.yaml" for artefact in output.artefacts],
    }
