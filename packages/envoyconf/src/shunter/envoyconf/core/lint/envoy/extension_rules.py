"""Rules for extensions and fields that the Envoy in question does not have, or not for good."""

from collections.abc import Iterator

from shunter.envoyconf.core.lint.envoy.node import Node, walk
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject

__all__ = ["RULES"]

# Marked as work in progress in Envoy 1.40.
UNFINISHED = {
    "envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager": "ai_protocol_manager",
    "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata": "sse_to_metadata",
}


def unfinished_extension(subject: Subject) -> Iterator[Finding]:
    for document in subject.documents:
        for node in walk(Node.of(document)):
            if name := UNFINISHED.get(node.type):
                yield Finding(
                    document,
                    node.path,
                    f"{name} is marked as work in progress: its fields may change or go with the next Envoy",
                    "pin Envoy's version, and lint and validate again before each upgrade",
                )


RULES = (
    Rule(
        "W63",
        "An extension is used that Envoy calls unfinished",
        "Envoy promises no stability for what is marked work in progress: sse_to_metadata (since 1.38) and "
        "ai_protocol_manager (its response_handling since 1.40).",
        unfinished_extension,
        "Envoy's extension status in source/extensions/extensions_metadata.yaml",
    ),
)
