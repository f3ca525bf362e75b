"""The rules for Envoy's own configuration, and the view of it that they share.

::

    node              a value, and where it stands          reads anybody's JSON form of protobuf, and never raises
    resources         documents → what one Envoy has        bootstraps, config dumps, discovery responses, single resources
    cluster, view     → what Envoy makes of it              which filters and pickers count on a route
    headers, models   → what becomes of a request           whose headers are removed, who finds out its model
    findings          how a rule is written
    …_rules           the rules, each with its check; discovery_rules are for control planes alone
"""

__all__: list[str] = []
