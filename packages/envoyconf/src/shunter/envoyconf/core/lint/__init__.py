"""What goes wrong in gateways before models, as rules over anybody's Envoy bootstraps and Kubernetes manifests."""

from shunter.envoyconf.core.lint import suppress
from shunter.envoyconf.core.lint.envoy import (
    admin_rules,
    answer_rules,
    extension_rules,
    metadata_rules,
    question_rules,
    retry_rules,
    routing_rules,
    security_rules,
    server_rules,
    timing_rules,
)
from shunter.envoyconf.core.lint.kube import (
    envoy_gateway_rules,
    mesh_rules,
    picker_rules,
    pool_rules,
    route_rules,
    traffic_rules,
)
from shunter.envoyconf.core.lint.rule import Rule

__all__ = ["RULES"]

# One line for each module of rules. Its own order does not matter: findings are sorted by place.
RULES: tuple[Rule, ...] = (
    *admin_rules.RULES,
    *answer_rules.RULES,
    *extension_rules.RULES,
    *metadata_rules.RULES,
    *question_rules.RULES,
    *retry_rules.RULES,
    *routing_rules.RULES,
    *security_rules.RULES,
    *server_rules.RULES,
    *timing_rules.RULES,
    *pool_rules.RULES,
    *route_rules.RULES,
    *picker_rules.RULES,
    *envoy_gateway_rules.RULES,
    *traffic_rules.RULES,
    *mesh_rules.RULES,
    *suppress.RULES,
)
