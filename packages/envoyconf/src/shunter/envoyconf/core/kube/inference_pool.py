"""What every gateway that knows InferencePools is told alike: the pools, and which routes lead to them.

Such a gateway asks the picker that an InferencePool names, in both directions and to the last byte (the profile full), and
has no means to ask it otherwise. It knows a pool's model servers by their Pods' labels and its picker as one port of one
Service in the pool's namespace.
"""

from collections.abc import Sequence
from typing import Any

from shunter.envoyconf.core.authority import UNIX, is_ip, split_authority
from shunter.envoyconf.core.intent import Intent, Profile
from shunter.envoyconf.core.kube.gateway import http_route, kubernetes_object, model_header
from shunter.envoyconf.core.kube.manifests import INFERENCE
from shunter.envoyconf.core.kube.precedence import check_precedence
from shunter.envoyconf.core.places import picker_authorities
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Means, Support
from shunter.envoyconf.errors import IntentError

__all__ = ["full_only", "inference_pool", "inference_pools", "pool_reference", "pool_routes", "service_of"]

ALWAYS_ASKS = "an InferencePool's picker is asked for each request"


def full_only(why: str) -> dict[Profile, Support]:
    """Return the row of a gateway that asks the picker in the profile full, and why it does so in no other."""
    row = {profile: Support(Means.IMPOSSIBLE, why, Profile.FULL) for profile in Profile}
    row[Profile.NATIVE] = Support(Means.IMPOSSIBLE, ALWAYS_ASKS, Profile.FULL)
    row[Profile.FULL] = Support(Means.NATIVE)
    return row


def inference_pools(intent: Intent) -> list[Resource]:
    """Return all of them."""
    return [inference_pool(intent, index) for index in range(len(intent.pools))]


def inference_pool(intent: Intent, index: int) -> Resource:
    """Return the InferencePool of the intent's pool with that index; raise IntentError for what it cannot say.

    The failure mode is written out always: GIE's default is to fail, and a gateway was seen to refuse a pool without it.
    """
    pool = intent.pools[index]
    if not pool.selector:
        raise IntentError(
            f"pools[{index}].selector is missing: an InferencePool knows model servers by the labels of their Pods, not by "
            "address",
        )
    if pool.inference_pool and pool.picker.addresses:
        raise IntentError(
            f"pools[{index}].inferencePool: gateways with InferencePools cannot tell a picker whose request it is asked about; "
            "give the pool a picker of its own",
        )
    service, port = service_of(intent, f"pools[{index}].picker.addresses", picker_authorities(pool, intent.kubernetes))
    spec: Resource = {
        "selector": {"matchLabels": pool.selector},
        "targetPorts": [{"number": number} for number in pool.target_ports],
        **({"appProtocol": "kubernetes.io/h2c"} if pool.http2 else {}),
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": service,
            "port": {"number": port},
            "failureMode": pool.picker.failure_mode.value,
        },
    }
    return kubernetes_object(f"{INFERENCE}/v1", "InferencePool", pool.name, intent.kubernetes.namespace, spec=spec)


def pool_reference(name: str, weight: int | None = None) -> Resource:
    """Return a backendRef to an InferencePool, with its weight if it has one."""
    weighed = {} if weight is None else {"weight": weight}
    return {"group": INFERENCE, "kind": "InferencePool", "name": name} | weighed


def pool_routes(intent: Intent, **fields: Any) -> list[Resource]:
    """Return an HTTPRoute for each of the intent's routes; ``fields`` go into each rule, such as timeouts."""
    check_precedence(intent)
    routes: list[Resource] = []
    for index, route in enumerate(intent.effective_routes):
        weighed = len(route.shares) > 1
        backends = [pool_reference(share.name, share.weight if weighed else None) for share in route.shares]
        routes.append(http_route(intent, index, backends, header=model_header(intent), **fields))
    return routes


def service_of(intent: Intent, field: str, addresses: Sequence[str]) -> tuple[str, int]:
    """Return name and port of the Service that is meant by addresses; raise IntentError if it is not one, or not here."""
    if len(addresses) != 1:
        raise IntentError(f"{field} are {len(addresses)}, but a reference names one Service and port; give that")
    if addresses[0].startswith(UNIX):
        raise IntentError(
            f"{field}[0] {addresses[0]!r} is a socket in the file system, but a reference names a Service and port; give that, "
            "or take the target envoy-static"
        )
    host, port = split_authority(addresses[0])
    names = intent.kubernetes
    service, _, rest = host.rstrip(".").partition(".")
    if is_ip(host) or rest not in (
        "",
        names.namespace,
        f"{names.namespace}.svc",
        f"{names.namespace}.svc.{names.cluster_domain}",
    ):
        raise IntentError(
            f"{field}[0] {addresses[0]!r} must be a Service in the namespace {names.namespace}, where everything else is, "
            f"such as picker.{names.namespace}.svc:{port}",
        )
    return service, port
