"""A static bootstrap comes apart: into resources that can be replaced one by one, and what an Envoy needs to find them.

What changes often is kept away from what is costly to change. Endpoints are resources of their own, so are routes: a pod
that comes or goes touches endpoints only, another weight of a route only routes. A listener that changes is drained with all
its streams; a picker's cluster that changes ends, in the profile full, the streams it carries. Clusters of collectors cannot
change: Envoy's records (fluentd) go to none that it did not have when it was started.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from shunter.envoyconf.core.envoy.bootstrap import bootstrap
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.names import collector_cluster_name, pool_cluster_name, pool_of_cluster
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.members import Member, assignment

__all__ = ["Division", "Source", "divide", "pool_load_assignment"]

# Where an Envoy gets a resource of a kind with a name: a ConfigSource.
Source = Callable[[Kind, str], Resource]

Members = Mapping[str, Sequence[Member]]

# What of a listener's TLS is a secret, in the context and as a secret of its own; how the secret is called, before the name of
# the listener; and what refers to it. Its files are read again when they are replaced, which those in a context are not.
SECRETS = {
    "tls_certificates": ("tls_certificate", "certificate/", "tls_certificate_sds_secret_configs"),
    "validation_context": ("validation_context", "clients/", "validation_context_sds_secret_config"),
}


class Division(msgspec.Struct, frozen=True):
    """What became of a bootstrap."""

    rest: Resource  # what cannot change while Envoy runs: the bootstrap without listeners and clusters, with a node
    resources: dict[Kind, dict[str, Resource]]


def divide(intent: Intent, settings: Settings, source: Source, live: Members | None = None) -> Division:
    """Return the parts of an intent's bootstrap.

    ``live`` has the endpoints of pools whose model servers are known from elsewhere; the intent's own do not count there.
    Other clusters whose endpoints are names stay with DNS.
    """
    whole = bootstrap(intent, settings)
    static = cast("Resource", whole["static_resources"])
    resources: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind}
    collectors = [each for each in static["clusters"] if each["name"].startswith(collector_cluster_name(""))]
    for cluster in static["clusters"]:
        if cluster in collectors:
            continue
        divided, endpoints = _divide_cluster(cluster, source, live or {})
        resources[Kind.CLUSTER][cluster["name"]] = divided
        if endpoints:
            resources[Kind.ENDPOINTS][endpoints["cluster_name"]] = endpoints
    for listener in static["listeners"]:
        divided, found = _divide_listener(listener, source)
        resources[Kind.LISTENER][listener["name"]] = divided
        resources[Kind.ROUTES] |= {routes["name"]: routes for routes in found}
        resources[Kind.SECRET] |= {secret["name"]: secret for secret in _secrets(listener)}
    remains = {key: value for key, value in static.items() if key not in ("clusters", "listeners")}
    remains |= {"clusters": collectors} if collectors else {}
    name = intent.control_plane.cluster
    rest = {"node": {"id": name, "cluster": name}} | {key: value for key, value in whole.items() if key != "static_resources"}
    return Division(rest | ({"static_resources": remains} if remains else {}), resources)


def pool_load_assignment(pool: str) -> str:
    """Return the name of the load assignment of a pool. All its clusters have one together: it is sent once."""
    return pool_cluster_name(pool)


def _divide_cluster(cluster: Resource, source: Source, live: Members) -> tuple[Resource, Resource | None]:
    pool = pool_of_cluster(cluster["name"])
    members = live.get(pool) if pool else None
    if members is None and cluster.get("type") == "STATIC":
        members = _members(cluster["load_assignment"])
    if members is None:
        return cluster, None
    name = pool_load_assignment(pool) if pool else cluster["name"]
    divided: Resource = {key: value for key, value in cluster.items() if key not in ("load_assignment", "dns_lookup_family")}
    divided |= {"type": "EDS", "eds_cluster_config": {"eds_config": source(Kind.ENDPOINTS, name), "service_name": name}}
    return divided, assignment(name, members)


def _members(load_assignment: Resource) -> list[Member] | None:
    """Return the endpoints, unless one is a listener of Envoy's own."""
    members: list[Member] = []
    for address in (each["endpoint"]["address"] for part in load_assignment["endpoints"] for each in part["lb_endpoints"]):
        match address:
            case {"socket_address": {"address": host, "port_value": port}}:
                members.append(Member(host, port))
            case {"pipe": {"path": path}}:
                members.append(Member(path, 0))
            case _:
                return None
    return members


def _divide_listener(listener: Resource, source: Source) -> tuple[Resource, list[Resource]]:
    """Return the listener without its routes, and these."""
    found: list[Resource] = []

    def divided(each: Resource) -> Resource:
        manager = dict(each["typed_config"])
        if routes := manager.pop("route_config", None):
            found.append(routes)
            manager["rds"] = {"config_source": source(Kind.ROUTES, routes["name"]), "route_config_name": routes["name"]}
        return {**each, "typed_config": manager}

    chains = [
        {**chain, "filters": [divided(each) for each in chain["filters"]], **_refer_to_secrets(chain, listener["name"], source)}
        for chain in listener["filter_chains"]
    ]
    return {**listener, "filter_chains": chains}, found


def _secrets(listener: Resource) -> list[Resource]:
    """Return the secrets of a listener: one certificate, and whom it trusts."""
    return [
        {"name": prefix + listener["name"], kind: found[0] if isinstance(found, list) else found}
        for chain in listener["filter_chains"]
        if "transport_socket" in chain
        for field, (kind, prefix, _) in SECRETS.items()
        if (found := chain["transport_socket"]["typed_config"]["common_tls_context"].get(field))
    ]


def _refer_to_secrets(chain: Resource, name: str, source: Source) -> Resource:
    """Return the chain's transport socket, if it has one, with names for what are secrets."""
    if "transport_socket" not in chain:
        return {}
    socket = chain["transport_socket"]
    config, context = socket["typed_config"], dict(socket["typed_config"]["common_tls_context"])
    for field, (_, prefix, reference) in SECRETS.items():
        if found := context.pop(field, None):
            named = {"name": prefix + name, "sds_config": source(Kind.SECRET, prefix + name)}
            context[reference] = [named] if isinstance(found, list) else named
    return {"transport_socket": {**socket, "typed_config": {**config, "common_tls_context": context}}}
