"""Rules for extensions and fields that the Envoy in question does not have, or not for good."""

from collections.abc import Iterator

from shunter.envoyconf.core.lint.envoy.findings import found
from shunter.envoyconf.core.lint.envoy.node import Node, walk
from shunter.envoyconf.core.lint.envoy.resources import pieces
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject
from shunter.envoyconf.core.schema import envoy_schema, problems
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Feature

__all__ = ["RULES"]

# Marked as work in progress in Envoy 1.40.
UNFINISHED = {
    "envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager": "ai_protocol_manager",
    "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata": "sse_to_metadata",
}

# A point in time that access logs may name, which no schema knows of.
FIRST_BODY_BYTE = "US_RX_BODY_BEG"


def unknown_there(subject: Subject) -> Iterator[Finding]:
    version = subject.envoy_version
    if version >= DEFAULT_VERSION:
        return
    schema = envoy_schema()
    for kind, node in pieces(subject.documents):
        if kind not in schema.names:  # somebody's own, or later than all that are known
            continue
        # What is wrong in any version is not this rule's; what has a rule of its own neither.
        wrong = set(problems(schema, node.value, kind))
        for problem in problems(schema, node.value, kind, version):
            if problem not in wrong and problem.path[-1:] not in (("selected_host_key",), ("selectedHostKey",)):
                place = Node(node.document, (*node.path, *problem.path))
                yield found(place, f"{problem.text}: refused in a file, ignored from a control plane", problem.remedy)
        if not Feature.FIRST_BODY_BYTE.in_version(version):
            for each in walk(node):
                if FIRST_BODY_BYTE in each.text:
                    since = Feature.FIRST_BODY_BYTE.since
                    yield found(
                        each,
                        f"{FIRST_BODY_BYTE} is known since Envoy {since}; this is for {version}, which refuses it",
                        "leave it out, or use a newer Envoy",
                    )


def unfinished_extension(subject: Subject) -> Iterator[Finding]:
    for document in subject.documents:
        for node in walk(Node.of(document)):
            if name := UNFINISHED.get(node.type):
                yield found(
                    node,
                    f"{name} is marked as work in progress: its fields may change or go with the next Envoy",
                    "pin Envoy's version, and lint and validate again before each upgrade",
                )


RULES = (
    Rule(
        "E62",
        "A field that this Envoy does not know",
        "Since when each field and extension is there was read out of the binaries of 1.36.2, 1.37.0, 1.38.3, 1.39.3 and "
        "1.40.0. What is not known is fatal in a file, and from a control plane ignored with a count in "
        "server.dynamic_unknown_fields.",
        unknown_there,
        "Envoy documentation, command line, --reject-unknown-dynamic-fields",
    ),
    Rule(
        "W63",
        "An extension is used that Envoy calls unfinished",
        "Envoy promises no stability for what is marked work in progress: sse_to_metadata (since 1.38) and "
        "ai_protocol_manager (its response_handling since 1.40).",
        unfinished_extension,
        "Envoy's extension status in source/extensions/extensions_metadata.yaml",
    ),
)
