"""Names that GIE and llm-d know and this picker does not: a configuration that has one is told so, and why."""

__all__ = ["FIELDS", "TYPES"]

SCRAPER = "the scraper says who exists (shunter scraper run --endpoints); remove it"
REPLICAS = "replicas tell each other their state by shunter picker run --share; remove it"

ENGINES = "the scraper reads the engines' own metrics; remove it"
TREE = "it was part of a tree of filters; use legacy-v0.3 with random-picker"
CLUSTERS = "endpoints are those of one cluster; use the plugin of that name without multicluster"
COORDINATOR = "one picker chooses who prefills and who decodes, and no coordinator asks two; use disagg-profile-handler"
OBSERVED = "expected-delay-scorer expects delays at speeds that it learns; use that"
PREDICTED = "use predicted-latency-producer, slo-headroom-tier-filter and latency-scorer"

# Plugin types, and why they cannot be honoured or what to write instead.
TYPES = {
    "always-encode-decider": "use always-disagg-multimodal-decider",
    "dcgm-data-source": ENGINES,
    "dcgm-extractor": ENGINES,
    "dcgm-metrics-data-source": ENGINES,
    "decision-tree-filter": TREE,
    "ed-profile-handler": "use disagg-profile-handler with deciders.encode",
    "encoder-header-handler": "disagg-profile-handler sets the headers; remove it",
    "file-discovery": SCRAPER,
    "k8s-notification-source": "the scraper watches what there is to watch; remove it",
    "k8s-peer-discovery": REPLICAS,
    "latency-observation-scorer": OBSERVED,
    "latency-observation-scorer-hub": OBSERVED,
    "latency-observer-producer": OBSERVED,
    "latency-observer-producer-hub": OBSERVED,
    "least-kv-cache-filter": TREE,
    "least-queue-filter": TREE,
    "local-syncer": REPLICAS,
    "lora-affinity-filter": TREE,
    "low-queue-filter": TREE,
    "models-responder": "start the picker with --serve-models, and use adapter-ready-filter; remove it",
    "multicluster-approx-prefix-cache-producer": CLUSTERS,
    "multicluster-file-discovery": SCRAPER,
    "multicluster-kv-cache-utilization-scorer": CLUSTERS,
    "multicluster-metrics-data-source": CLUSTERS,
    "multicluster-metrics-extractor": CLUSTERS,
    "multicluster-prefix-cache-scorer": CLUSTERS,
    "multicluster-queue-scorer": CLUSTERS,
    "multicluster-session-affinity-filter": CLUSTERS,
    "multicluster-topology-scorer": "use endpoint-attribute-weight-scorer, and a label-producer for the label that says where",
    "outlen-bucket": "how long answers are is learnt; remove it",
    "request-attribute-reporter": "expressions in CEL are not evaluated; remove it",
    "reserve-endpoint": COORDINATOR,
    "selective-kv-policy": "bodies stay as they are, and engines decide themselves what they load and offload; remove it",
    "session-manager": "session-affinity-scorer tells sessions apart itself, by its sessionIdConfig; remove it",
    "session-state-producer": "nobody here asks how a session went so far; remove it",
    "sheddable-capacity-filter": TREE,
    "slo-aware-profile-handler": PREDICTED,
    "slo-aware-routing": PREDICTED,
    "thunder-agent": "room is not kept for sessions between their turns; remove it, and name concurrency-detector, "
    "program-aware-fairness and session-affinity-scorer where it was named",
    "topology-stamp-handler": COORDINATOR,
    "vertexai-parser": "it has no reader for these bodies; remove it, and passthrough-parser passes them on",
    "vllmgrpc-parser": "requests come as HTTP with JSON; remove it, and passthrough-parser passes the others on",
}

# Fields of former or other releases that cannot be honoured, and why.
FIELDS = {
    "crossReplica": REPLICAS,
    "crossReplicaPublishTimeout": REPLICAS,
    "crossReplicaSyncInterval": REPLICAS,
    "crossReplicaSyncerPluginRef": REPLICAS,
    "discovery": SCRAPER,
    "peerDiscovery": REPLICAS,
    "propagatePriority": "priorities stay in the picker; remove it",
}
