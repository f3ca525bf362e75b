"""What the scraper must be allowed to read, as manifests: no more than it follows."""

from collections.abc import Iterator, Sequence

from shunter.scraper.core.conditions import JUDGED
from shunter.scraper.core.resources import RESOURCES, Resource

__all__ = ["rbac"]

API_VERSION = "rbac.authorization.k8s.io/v1"
# To list, to watch from there, and nothing else.
VERBS = ("list", "watch")
# To hold a lease. (Who may create cannot be told by name.)
LEASES: dict[str, object] = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "verbs": ["get", "create", "update"],
}


def rbac(
    name: str,
    account: str,
    home: str,
    namespaces: Sequence[str] | None,
    resources: Sequence[Resource] = RESOURCES,
    *,
    write_status: bool = False,
) -> Iterator[dict[str, object]]:
    """Yield a Role and its RoleBinding for each namespace, or a ClusterRole and its ClusterRoleBinding if there are none.

    ``account`` is the service account, in the namespace ``home``, that the scraper runs as. ``write_status`` adds what is
    needed to write statuses, and for the lease in that namespace.
    """
    rules = _rules(resources, "", VERBS)
    if write_status:
        rules += _rules([each for each in resources if each.shape in JUDGED], "/status", ["patch"])
    for namespace in (None,) if namespaces is None else namespaces:
        yield from _role(name, account, home, namespace, rules)
    if write_status:
        yield from _role(f"{name}-lease", account, home, home, [LEASES])


def _rules(resources: Sequence[Resource], subresource: str, verbs: Sequence[str]) -> list[dict[str, object]]:
    by_group: dict[str, set[str]] = {}
    for each in resources:
        by_group.setdefault(each.group, set()).add(each.plural + subresource)
    return [{"apiGroups": [group], "resources": sorted(plurals), "verbs": [*verbs]} for group, plurals in by_group.items()]


def _role(
    name: str, account: str, home: str, namespace: str | None, rules: list[dict[str, object]]
) -> Iterator[dict[str, object]]:
    meta = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    role = "ClusterRole" if namespace is None else "Role"
    yield {"apiVersion": API_VERSION, "kind": role, "metadata": meta, "rules": rules}
    yield {
        "apiVersion": API_VERSION,
        "kind": f"{role}Binding",
        "metadata": meta,
        "roleRef": {"apiGroup": API_VERSION.partition("/")[0], "kind": role, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": home}],
    }
