"""What is different between two sets of documents, and nothing that only looks different.

Order of keys, comments and written-out defaults are no differences. Kubernetes objects are compared by kind, namespace and
name, without what the API server adds; what Envoy watches by the name of its file.
"""

import json
from collections import Counter
from collections.abc import Iterable
from difflib import unified_diff
from pathlib import PurePath
from typing import Any, cast

import yaml
from google.protobuf import json_format

from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import envoy_schema, problems
from shunter.envoyconf.core.validation import BOOTSTRAP, is_bootstrap

__all__ = ["compare", "loaded_bootstrap"]

# libyaml's, where PyYAML has it: five times as fast.
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

# What the API server and kubectl write into objects, in metadata and beside it.
SERVERS_METADATA = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

# What Envoy adds to the node of a bootstrap that it was given.
ENVOYS_NODE = (
    "user_agent_name",
    "user_agent_build_version",
    "user_agent_version",
    "extensions",
    "hidden_envoy_deprecated_build_version",
)


def compare(old: Iterable[Document], new: Iterable[Document], namespace: str = "default") -> list[str]:
    """Return a unified diff from the old documents to the new ones, without line ends; empty if they say the same."""
    before, after = _named(old, namespace), _named(new, namespace)
    lines: list[str] = []
    for name in dict.fromkeys((*before, *after)):
        left, right = before.get(name, ""), after.get(name, "")
        names = (f"old {name}" if left else "/dev/null", f"new {name}" if right else "/dev/null")
        lines += unified_diff(left.splitlines(), right.splitlines(), *names, lineterm="")
    return lines


def loaded_bootstrap(dump: object) -> Resource | None:
    """Return the bootstrap that is in an answer of Envoy's admin interface to /config_dump, None if none is."""
    configs = _part(dump, "configs")
    for each in cast("list[object]", configs) if isinstance(configs, list) else []:
        if str(_part(each, "@type")).endswith("BootstrapConfigDump"):
            return _fields(_part(each, "bootstrap"))
    return None


def _named(documents: Iterable[Document], namespace: str) -> dict[str, str]:
    """Return the canonical text of each document by a name that the other set has, too."""
    seen: Counter[str] = Counter()
    named: dict[str, str] = {}
    for document in documents:
        if document.kind:
            metadata = _fields(document.body.get("metadata"))
            name = f"{document.kind} {metadata.get('namespace', namespace)}/{metadata.get('name', '')}"
        else:
            name = "bootstrap" if is_bootstrap(document) else PurePath(document.file).name
        seen[name] += 1
        named[f"{name} {seen[name]}" if seen[name] > 1 else name] = _text(document)
    return named


def _text(document: Document) -> str:
    body = _without_servers(document.body) if document.kind else _without_defaults(document)
    plain = json.loads(json.dumps(body, default=str))  # no aliases, no dates: equal values give equal text
    return yaml.dump(plain, Dumper=DUMPER, width=120, sort_keys=True)


def _without_servers(body: Resource) -> Resource:
    kept = {key: value for key, value in body.items() if key != "status"}
    metadata = {key: value for key, value in _fields(body.get("metadata")).items() if key not in SERVERS_METADATA}
    annotations = {key: value for key, value in _fields(metadata.pop("annotations", None)).items() if key != APPLIED}
    return kept | {"metadata": metadata | ({"annotations": annotations} if annotations else {})}


def _without_defaults(document: Document) -> Resource:
    """Return a bootstrap as Envoy itself would write it, without what Envoy adds; what it cannot read, as it stands."""
    if not is_bootstrap(document) or problems(envoy_schema(), document.body, BOOTSTRAP):
        return document.body
    schema = envoy_schema()
    try:
        message = schema.encode(document.body, BOOTSTRAP)
    except json_format.Error:  # one of the habits that Envoy's parser has and Python's has not
        return document.body
    body = schema.decode(message.SerializeToString(deterministic=True), BOOTSTRAP)
    node = {key: value for key, value in _fields(body.pop("node", None)).items() if key not in ENVOYS_NODE}
    return body | ({"node": node} if node else {})


def _fields(value: object) -> Resource:
    return cast("Resource", value) if isinstance(value, dict) else {}


def _part(value: object, name: str) -> object:
    return _fields(value).get(name)
