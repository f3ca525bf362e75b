"""Checks of what a control plane sends, for those who write one: ours is held against them.

They are about a whole set of resources, as one answers a new Envoy, and no part of what anybody's files are linted by. What
depends on the order in time is for a server's own tests: that endpoints are sent again after a change of their cluster (of X1
only that they are left out is seen), that routes wait for their clusters (of X2, that these never come), that listeners do not
churn (X3), and that the clusters of pickers stay as they are while streams live (X4).
"""

from collections.abc import Iterator

from shunter.envoyconf.core.lint.envoy.cluster import TYPES
from shunter.envoyconf.core.lint.envoy.findings import found, of_envoys
from shunter.envoyconf.core.lint.envoy.view import Envoy
from shunter.envoyconf.core.lint.rule import Finding, Rule

__all__ = ["SELF_CHECKS"]


def without_endpoints(envoy: Envoy) -> Iterator[Finding]:
    for cluster in envoy.clusters.values():
        if cluster.node.at("type").choice(TYPES) == "EDS" and not cluster.assignment:
            yield found(
                cluster.node,
                f"no endpoints are sent for the cluster {cluster.name!r}: it warms until init_fetch_timeout (15 s), and CDS is "
                "not acknowledged before",
                "send a ClusterLoadAssignment of that name, if need be an empty one; again after each change of the cluster",
            )


def without_cluster(envoy: Envoy) -> Iterator[Finding]:
    for route in envoy.routes:
        for branch in route.branches:
            if branch.place.text and not branch.clusters:
                yield found(
                    branch.place,
                    f"the cluster {branch.place.text!r} is not sent: Envoy takes the route and answers 503 with an empty body",
                    "send clusters first, and routes when CDS is acknowledged",
                )


def without_weight(envoy: Envoy) -> Iterator[Finding]:
    for assignment in envoy.resources.assignments.values():
        for locality in assignment.at("endpoints").items():
            if not (locality.at("locality") and locality.at("load_balancing_weight").number):
                yield found(
                    locality,
                    "a locality without name or weight: Envoy does without, a gRPC client says that there are no localities",
                    "give each locality a name and a load_balancing_weight",
                )


SELF_CHECKS = (
    Rule(
        "X1",
        "A cluster whose endpoints are not sent",
        "Seen on 1.40.0: a new or changed EDS cluster waits for its endpoints, and CDS is acknowledged once it has them. In "
        "delta nobody asks for them again.",
        of_envoys(without_endpoints),
        "xDS protocol, resource warming",
    ),
    Rule(
        "X2",
        "A route whose cluster is not sent",
        "Seen on 1.40.0: a RouteConfiguration that names an unknown cluster is acknowledged, and answers 503.",
        of_envoys(without_cluster),
        "xDS protocol, eventual consistency considerations",
    ),
    Rule(
        "X5",
        "Endpoints that a gRPC client does not take",
        "Seen with grpcio as xDS client: it ignores localities that have no weight.",
        of_envoys(without_weight),
        "gRFC A27",
    ),
)
