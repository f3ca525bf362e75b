"""Names that GIE and llm-d know and this picker does not: a configuration that has one is told so instead of "unknown"."""

__all__ = ["FIELDS", "TYPES"]

TYPES = frozenset(
    {
        "always-disagg-multimodal-decider",
        "always-disagg-pd-decider",
        "data-parallel-profile-handler",
        "dcgm-metrics-data-source",
        "disagg-headers-handler",
        "disagg-profile-handler",
        "disaggregatedset-rollout-screener",
        "file-discovery",
        "k8s-notification-source",
        "models-data-extractor",
        "models-data-source",
        "pd-profile-handler",
        "prefill-header-handler",
        "prefix-based-pd-decider",
        "request-attribute-reporter",
        "vertexai-parser",
        "vllmgrpc-parser",
    }
)

SCRAPER = "the scraper says who exists (shunter scraper run --endpoints); remove it"
REPLICAS = "replicas do not tell each other their state, the workers of one picker do; remove it"

# Fields of former or other releases that cannot be honoured, and why.
FIELDS = {
    "crossReplicaPublishTimeout": REPLICAS,
    "crossReplicaSyncInterval": REPLICAS,
    "crossReplicaSyncerPluginRef": REPLICAS,
    "discovery": SCRAPER,
    "peerDiscovery": REPLICAS,
    "propagatePriority": "priorities stay in the picker; remove it",
}
