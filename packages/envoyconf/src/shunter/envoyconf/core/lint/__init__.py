"""What goes wrong in gateways before models, as rules over anybody's Envoy bootstraps and Kubernetes manifests."""

from shunter.envoyconf.core.lint.envoy import admin_rules, extension_rules
from shunter.envoyconf.core.lint.rule import Rule

__all__ = ["RULES"]

# One line for each module of rules. Its own order does not matter: findings are sorted by place.
RULES: tuple[Rule, ...] = (
    *admin_rules.RULES,
    *extension_rules.RULES,
)
