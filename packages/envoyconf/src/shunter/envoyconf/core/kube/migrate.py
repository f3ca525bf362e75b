"""Objects of old API versions become those of today, in the text as it stands: comments and order stay.

=========================================================  ================================================================
InferencePool inference.networking.x-k8s.io/v1alpha2       inference.networking.k8s.io/v1
InferenceModel inference.networking.x-k8s.io/v1alpha2      InferenceObjective, and InferenceModelRewrite if it has targets
InferenceObjective, InferenceModelRewrite of x-k8s.io      the same of llm-d.ai, or as asked for
references to an InferencePool of x-k8s.io                 of inference.networking.k8s.io
Gateway API, Istio: versions before v1                     v1; of a ReferenceGrant v1beta1, which is what clusters store
=========================================================  ================================================================

Their fields are those of the CustomResourceDefinitions of GIE 0.3 to 1.6 and of llm-d-router 0.10.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import yaml
from msgspec import UNSET

from shunter.envoyconf.core.cursor import Cursor, place
from shunter.envoyconf.core.documents import Path, load_documents
from shunter.envoyconf.core.edit import change, rename
from shunter.envoyconf.core.kube.manifests import GATEWAY_API, INFERENCE, INFERENCE_OLD, ISTIO, LLM_D
from shunter.envoyconf.core.places import PICKER_PORT

__all__ = ["OBJECTIVE_GROUPS", "Migration", "migrate"]

# Where InferenceObjective and InferenceModelRewrite live: llm-d's pickers read both, GIE's of 1.0 to 1.5 the second.
OBJECTIVE_GROUPS = (LLM_D, INFERENCE_OLD)
OBJECTIVE_KINDS = ("InferenceObjective", "InferenceModelRewrite")
OBJECTIVE_VERSION = "v1alpha2"

# Versions whose fields are those of the new one.
SAME_FIELDS = {
    **{
        (f"{GATEWAY_API}/{old}", kind): f"{GATEWAY_API}/v1"
        for old in ("v1alpha2", "v1beta1")
        for kind in ("GatewayClass", "Gateway", "HTTPRoute")
    },
    (f"{GATEWAY_API}/v1alpha2", "GRPCRoute"): f"{GATEWAY_API}/v1",
    (f"{GATEWAY_API}/v1alpha2", "ReferenceGrant"): f"{GATEWAY_API}/v1beta1",
    (f"{GATEWAY_API}/v1alpha3", "BackendTLSPolicy"): f"{GATEWAY_API}/v1",
    **{(f"{ISTIO}/{old}", "DestinationRule"): f"{ISTIO}/v1" for old in ("v1alpha3", "v1beta1")},
}

# Versions whose fields are others, and what they are called today.
OTHER_FIELDS = {
    (f"{GATEWAY_API}/v1alpha2", "BackendTLSPolicy"): "v1 has targetRefs for targetRef, and validation for tls",
    (f"{GATEWAY_API}/v1alpha2", "ReferencePolicy"): "it is called ReferenceGrant today, of v1beta1",
}

# Criticality was a word, priority is a number: higher ones first, and below zero what is shed first.
PRIORITIES = {"Critical": 10, "Standard": 0, "Sheddable": -10}


class Migration(msgspec.Struct, frozen=True):
    """The text as it is to be, and what a person should know."""

    text: str
    notes: tuple[str, ...]


def migrate(text: str, file: str, objective_group: str = LLM_D) -> Migration:
    """Return a text with its objects in the versions of today; raise IntentError if it cannot be read."""
    migrator = _Migrator(text, file, objective_group)
    for index in range(len(load_documents(text, file))):
        migrator.migrate(index)
    return Migration(migrator.text + "".join(migrator.appended), tuple(migrator.notes))


class _Migrator:
    def __init__(self, text: str, file: str, objective_group: str) -> None:
        self.text = text
        self.file = file
        self.group = objective_group
        self.notes: list[str] = []
        self.appended: list[str] = []

    def root(self, index: int) -> Cursor:
        """Return the document with that number, as it stands by now."""
        return Cursor.root(load_documents(self.text, self.file)[index])

    def change(self, index: int, path: Path, value: object) -> None:
        """Put a value into the text, or tell that it has to be done by hand."""
        self._take(change(self.text, index, path, value), index, path)

    def rename(self, index: int, path: Path, name: str) -> None:
        """Call a field otherwise if it is there, or tell that it has to be done by hand."""
        if self.root(index).at(*path):
            self._take(rename(self.text, index, path, name), index, path)

    def _take(self, text: str | None, index: int, path: Path) -> None:
        if text is None:
            self.notes.append(
                f"{place(self.root(index).at(*path))}: cannot be changed where it stands (an alias?): do it by hand"
            )
        else:
            self.text = text

    def migrate(self, index: int) -> None:
        """Bring one document to the version of today."""
        root = self.root(index)
        api_version, kind = root["apiVersion"].text, root["kind"].text
        if (new := SAME_FIELDS.get((api_version, kind))) is not None:
            self.change(index, ("apiVersion",), new)
        elif (api_version, kind) in OTHER_FIELDS:
            self.notes.append(f"{place(root['apiVersion'])}: {OTHER_FIELDS[api_version, kind]}: write it by hand")
        elif kind == "InferencePool":
            self._pool(index, old=api_version.startswith(f"{INFERENCE_OLD}/"))
        elif kind == "InferenceModel" and api_version.startswith(f"{INFERENCE_OLD}/"):
            self._model(index)
        elif kind in OBJECTIVE_KINDS and api_version.rpartition("/")[0] in {INFERENCE, *OBJECTIVE_GROUPS} - {self.group}:
            self.change(index, ("apiVersion",), f"{self.group}/{OBJECTIVE_VERSION}")
        for at in [*_old_references(self.root(index))]:
            self.change(index, at.path, INFERENCE)

    def _pool(self, index: int, *, old: bool) -> None:
        if old:
            self.change(index, ("apiVersion",), f"{INFERENCE}/v1")
        selector = self.root(index).at("spec", "selector")
        if selector and not isinstance(selector["matchLabels"].value, dict):
            self.change(index, selector.path, {"matchLabels": selector.value})
        if (port := self.root(index).at("spec", "targetPortNumber")).number is not None:
            self.rename(index, port.path, "targetPorts")
            self.change(index, ("spec", "targetPorts"), [{"number": port.number}])
        reference = self.root(index).at("spec", "extensionRef")
        if reference:
            number = reference["portNumber"].number
            self.rename(index, (*reference.path, "portNumber"), "port")
            self.change(index, (*reference.path, "port"), {"number": number or PICKER_PORT})
            if number is None:
                self.notes.append(f"{place(reference)}: v1 wants the picker's port; {PICKER_PORT} is what v1alpha2 inferred")
            self.rename(index, reference.path, "endpointPickerRef")
        if old and self.root(index)["status"]:
            self.change(index, ("status",), UNSET)

    def _model(self, index: int) -> None:
        root = self.root(index)
        spec, name = root["spec"], root.at("metadata", "name").text
        pool = {"group": INFERENCE, "kind": "InferencePool", "name": spec.at("poolRef", "name").text}
        model, criticality = spec["modelName"].text, spec["criticality"].text or "Standard"
        where = place(root["kind"])
        if spec["targetModels"]:
            self._rewrite(root, pool, model)
        self.change(index, ("spec",), {"priority": PRIORITIES.get(criticality, 0), "poolRef": pool})
        self.change(index, ("kind",), "InferenceObjective")
        self.change(index, ("apiVersion",), f"{self.group}/{OBJECTIVE_VERSION}")
        if root["status"]:
            self.change(index, ("status",), UNSET)
        self.notes.append(
            f"{where}: an InferenceObjective holds for requests that name it, not for a model: clients (or a filter of the "
            f"route) send x-llm-d-inference-objective: {name} where {criticality} of {model} is to count"
        )
        self.notes.append(
            f"{where}: a model that no InferenceModel names was answered 404; this does Shunter's plugin known-model-admitter, "
            "and other pickers do not"
        )

    def _rewrite(self, root: Cursor, pool: dict[str, str], model: str) -> None:
        targets: list[dict[str, Any]] = [
            {"modelRewrite": each["name"].text} | ({} if (weight := each["weight"].number) is None else {"weight": weight})
            for each in root.at("spec", "targetModels")
        ]
        metadata = cast("dict[str, Any]", root["metadata"].value)
        document: dict[str, Any] = {
            "apiVersion": f"{self.group}/{OBJECTIVE_VERSION}",
            "kind": "InferenceModelRewrite",
            "metadata": {field: metadata[field] for field in ("name", "namespace") if field in metadata},
            "spec": {
                "poolRef": pool,
                "rules": [{"matches": [{"model": {"type": "Exact", "value": model}}], "targets": targets}],
            },
        }
        if self.text.lstrip().startswith("{"):  # a file of JSON has no room for a second document
            self.notes.append(f"{place(root['kind'])}: targetModels are an object of their own; add {json.dumps(document)}")
            return
        start = "" if self.text.endswith("\n") or self.appended else "\n"
        self.appended.append(f"{start}---\n{yaml.safe_dump(document, sort_keys=False)}")


def _old_references(at: Cursor, kind: str = "") -> Iterator[Cursor]:
    """Yield the groups of all references to an InferencePool of the old group, wherever they are; a poolRef names no other."""
    if (at["kind"].text or kind) == "InferencePool" and at["group"].text == INFERENCE_OLD:
        yield at["group"]
    for name, field in at.fields():
        yield from _old_references(field, "InferencePool" if name == "poolRef" else "")
    for item in at:
        yield from _old_references(item)
