"""Names that the picker protocol fixes, and the names of our resources in Envoy's statistics and logs."""

__all__ = [
    "BASE_MODEL",
    "BODY_ROUTER",
    "BODY_ROUTER_FILTER",
    "CLIENT",
    "DESTINATION",
    "MODEL",
    "NAMESPACE",
    "OVERFLOW",
    "OWN_NAMESPACE",
    "PICKER_HEADERS",
    "POOL",
    "REQUEST_NAMESPACE",
    "SERVED",
    "TICKET",
    "USAGE",
    "collector_cluster_name",
    "native_cluster_name",
    "overflow_cluster_name",
    "picker_cluster_name",
    "picker_filter_name",
    "pool_cluster_name",
    "pool_of_cluster",
]

# GIE's endpoint picker protocol 1.0: the pick, as a request header and as dynamic metadata, and what became of it.
DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
NAMESPACE = "envoy.lb"

# What a body router says of a request, for routes to match.
MODEL = "x-gateway-model-name"
BASE_MODEL = "x-gateway-base-model-name"
BODY_ROUTER = "body-router"
BODY_ROUTER_FILTER = "envoy.filters.http.ext_proc/body_router"  # which no pool can be called

# Where Envoy keeps what it read out of a body itself: the model, a session's key.
REQUEST_NAMESPACE = "shunter.request"

# Who a request is from, as its key or token says: for limits, the access log and the model servers.
CLIENT = "x-client-id"

# Metadata of the call to a picker that serves several pools: whose request this is.
POOL = "x-shunter-pool"

# Metadata of the call: the cluster of the pool's overflow, and for which statuses a picker of ours is to name it in the
# request's header of the same name, instead of refusing.
OVERFLOW = "x-shunter-overflow"

# Our picker's number for a request, in the same namespace: joins the access log to the picker's decisions.
TICKET = "id"

# What Envoy tells the picker and its collector of itself.
OWN_NAMESPACE = "shunter"

# Where Envoy keeps what it read of a response's token usage.
USAGE = "shunter.usage"

# Headers by which a client could steer a request to an address of its own choosing or past the picker. The first two name
# an endpoint or a subset of them; the third pretends to be the gateway's report; the next two are set inside gateways by
# body-based routing. The others, by the names they have had, name hosts that llm-d's sidecar connects to (prefill, encode,
# data-parallel rank, KV cache): from a client that is request forgery. What a client may legitimately ask for stays:
# objective, fairness id, SLOs, model rewrite, EPP-Profile, Prefer, test-epp-endpoint-selection (a picker obeys the last only
# if configured to).
PICKER_HEADERS = (
    DESTINATION,
    "x-gateway-destination-endpoint-subset",
    SERVED,
    MODEL,
    BASE_MODEL,
    "x-prefiller-url",
    "x-llm-d-prefiller-host-port",
    "x-prefiller-host-port",
    "x-llm-d-encoder-hosts-ports",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-llm-d-kv-cache-source-host-port",
    "x-kv-cache-source-host-port",
)


def pool_cluster_name(pool: str) -> str:
    """Return the name of a pool's cluster."""
    return f"pool/{pool}"


def native_cluster_name(pool: str, *, keyed: bool) -> str:
    """Return the name of a pool's cluster that asks nobody: for requests that have a key, or for those that have none."""
    return f"native/{pool}/keyed" if keyed else f"native/{pool}"


def overflow_cluster_name(pool: str) -> str:
    """Return the name of the cluster, and of the listener inside Envoy behind it, from which a pool's overflow is reached."""
    return f"overflow/{pool}"


def picker_cluster_name(pool: str) -> str:
    """Return the name of the cluster of a pool's pickers."""
    return f"picker/{pool}"


def collector_cluster_name(pool: str) -> str:
    """Return the name of the cluster of a pool's collector."""
    return f"collector/{pool}"


def picker_filter_name(pool: str, profile: str | None = None) -> str:
    """Return the name of the HTTP filter that asks a pool's picker, in one profile if the pool has several."""
    return f"envoy.filters.http.ext_proc/{pool}/{profile}" if profile else f"envoy.filters.http.ext_proc/{pool}"


def pool_of_cluster(cluster: str) -> str | None:
    """Return whose model servers are in a cluster; None if there are others in it."""
    kind, _, rest = cluster.partition("/")
    return rest.partition("/")[0] if kind in ("pool", "native") else None
