"""What the scraper must be allowed to read, as manifests: no more than it follows."""

from collections.abc import Iterator, Sequence

from shunter.scraper.core.resources import RESOURCES, Resource

__all__ = ["rbac"]

API_VERSION = "rbac.authorization.k8s.io/v1"
# To list, to watch from there, and nothing else.
VERBS = ("list", "watch")


def rbac(
    name: str, account: str, home: str, namespaces: Sequence[str] | None, resources: Sequence[Resource] = RESOURCES
) -> Iterator[dict[str, object]]:
    """Yield a Role and its RoleBinding for each namespace, or a ClusterRole and its ClusterRoleBinding if there are none.

    ``account`` is the service account, in the namespace ``home``, that the scraper runs as.
    """
    by_group: dict[str, set[str]] = {}
    for each in resources:
        by_group.setdefault(each.group, set()).add(each.plural)
    rules = [{"apiGroups": [group], "resources": sorted(plurals), "verbs": list(VERBS)} for group, plurals in by_group.items()]
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": home}]
    for namespace in (None,) if namespaces is None else namespaces:
        meta = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
        role = "ClusterRole" if namespace is None else "Role"
        yield {"apiVersion": API_VERSION, "kind": role, "metadata": meta, "rules": rules}
        yield {
            "apiVersion": API_VERSION,
            "kind": f"{role}Binding",
            "metadata": meta,
            "roleRef": {"apiGroup": API_VERSION.partition("/")[0], "kind": role, "name": name},
            "subjects": subjects,
        }
