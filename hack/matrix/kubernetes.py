"""What each Kubernetes gateway is given, by the gateways' own definitions offline, and by a real API server's dry run.

No Envoy takes part: the version of it is that of whoever programs the gateway.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from hack.matrix.rows import Record

from shunter.envoyconf import IntentError, Profile, load_intent
from shunter.envoyconf.core.generate import MAKERS, PLAIN_ENVOYS, generate
from shunter.envoyconf.errors import KubernetesRefusedError, ToolMissingError
from shunter.envoyconf.testing_crds import Definitions, load_definitions
from shunter.envoyconf.testing_kube import RunningKube, find_crds, running_kube

__all__ = ["TARGETS", "suite"]

EXAMPLES = Path(__file__).parents[2] / "packages" / "envoyconf" / "tests" / "kubernetes"
TARGETS = [target for target in MAKERS if target not in PLAIN_ENVOYS]


def suite(record: Record, versions: tuple[str, ...]) -> None:  # noqa: ARG001 # every suite's signature
    """Record two rows for each target and example intent, or that it is refused, and in which words."""
    with ExitStack() as stack:
        try:
            definitions, kube = load_definitions(find_crds()), stack.enter_context(running_kube())
        except ToolMissingError as error:
            click.echo(f"not here: {error}", err=True)
            return
        for target in TARGETS:
            for path in sorted(EXAMPLES.glob("*.intent.yaml")):
                name, intent = path.name.removesuffix(".intent.yaml"), load_intent(path.read_text())
                row = {"target": target.value, "envoy_version": "-", "profile": (intent.profile or Profile.LEAN).value}
                try:
                    documents = generate(intent, target).documents
                except IntentError as error:
                    record(**row, check=f"{name}: refused with place and remedy", ok=True, detail=str(error))
                    continue
                kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": intent.kubernetes.namespace}}])
                for check, problem in (
                    ("definitions and their rules", _problems(documents, definitions)),
                    ("kubectl apply --dry-run=server", _refusal(documents, kube)),
                ):
                    record(**row, check=f"{name}: {check}", ok=not problem, detail=problem)


def _problems(documents: tuple[dict[str, Any], ...], definitions: Definitions) -> str:
    known = [each for each in documents if (each["apiVersion"], each["kind"]) in definitions]
    return "; ".join(f"{each['kind']} {problem}" for each in known for problem in definitions.examine(each).problems)


def _refusal(documents: tuple[dict[str, Any], ...], kube: RunningKube) -> str:
    try:
        kube.apply(documents, dry_run=True)
    except KubernetesRefusedError as error:
        return str(error)
    return ""
