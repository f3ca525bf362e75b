"""What every gateway that knows InferencePools is told alike: the pools, and which routes lead to them.

Such a gateway asks the picker that an InferencePool names, in both directions and to the last byte (the profile full), and
has no means to ask it otherwise. It knows a pool's model servers by their Pods' labels and its picker as one port of one
Service in the pool's namespace.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shunter.envoyconf.core.authority import split_authority
from shunter.envoyconf.core.intent import Intent, Limits, Observability, Profile, Security
from shunter.envoyconf.core.kube.gateway import http_route, kubernetes_object, model_header
from shunter.envoyconf.core.places import picker_authorities
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Means, Support
from shunter.envoyconf.errors import IntentError

__all__ = [
    "INFERENCE",
    "full_only",
    "inference_pool",
    "inference_pools",
    "one_pool",
    "pool_reference",
    "pool_routes",
    "refuse",
    "service_of",
    "unheeded",
    "untold",
]

INFERENCE = "inference.networking.k8s.io"

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
    routes: list[Resource] = []
    for index, route in enumerate(intent.effective_routes):
        weighed = len(route.shares) > 1
        backends = [pool_reference(share.name, share.weight if weighed else None) for share in route.shares]
        routes.append(http_route(intent, index, backends, header=model_header(intent), **fields))
    return routes


def refuse(intent: Intent, gateway: str, instead: Mapping[str, str]) -> None:
    """Raise IntentError for wishes that must not be left out silently; ``instead`` says of each how else it comes true."""
    overflowing = [index for index, pool in enumerate(intent.pools) if pool.overflow]
    wanted = {
        "security": "security" if intent.security != Security() else None,
        "bodyRouter": "bodyRouter" if intent.body_router else None,
        "overflow": f"pools[{overflowing[0]}].overflow" if overflowing else None,
    }
    for field, remedy in instead.items():
        if place := wanted[field]:
            raise IntentError(f"{place}: {gateway} would not be told of it by what is generated here. Leave it out; {remedy}")


def unheeded(intent: Intent, gateway: str, heeded: Collection[str] = ()) -> Iterator[str]:
    """Yield a warning for each limit and each thing to watch that has no place in a gateway's API, except those that have."""
    for part, given, plain in (
        ("limits", intent.limits, Limits()),
        ("observability", intent.observability, Observability()),
    ):
        usual: dict[str, object] = msgspec.to_builtins(plain)
        for field, value in msgspec.to_builtins(given).items():
            if value != usual[field] and f"{part}.{field}" not in heeded:
                yield f"{part}.{field}: {gateway} has no place for it; what it does by itself holds"
    for index, pool in enumerate(intent.pools):
        if pool.picker.collector is not None:
            yield f"pools[{index}].picker.collector: {gateway} sends no records, and need not: the picker sees the responses"


def untold(intent: Intent, gateway: str, *, always_tls: bool = False, one_choice: bool = False) -> Iterator[str]:
    """Yield what a gateway expects of pickers, for those that are installed by others and can only be told by a person."""
    for index, pool in enumerate(intent.pools):
        picker, field = pool.picker, f"pools[{index}].picker"
        if always_tls and picker.tls is not None and (picker.tls.ca_file or picker.tls.cert_file):
            yield f"{field}.tls: {gateway} trusts any certificate of a picker's and shows none"
        if picker.addresses and always_tls and picker.tls is None:
            yield f"{field}: {gateway} speaks TLS to it; start it with --tls-cert-file and --tls-key-file"
        if picker.addresses and one_choice:
            yield f"{field}: {gateway} takes one address, no list; give its max-score-picker maxNumOfEndpoints: 1"


def one_pool(intent: Intent, why: str) -> None:
    """Raise IntentError if a route divides its requests among pools."""
    for index, route in enumerate(intent.effective_routes):
        if len(route.shares) > 1:
            raise IntentError(
                f"routes[{index}].pools: {why}, and these are {len(route.shares)}; give it one, or divide by models or paths",
            )


def service_of(intent: Intent, field: str, addresses: Sequence[str]) -> tuple[str, int]:
    """Return name and port of the Service that is meant by addresses; raise IntentError if it is not one, or not here."""
    if len(addresses) != 1:
        raise IntentError(f"{field} are {len(addresses)}, but a reference names one Service and port; give that")
    host, port = split_authority(addresses[0])
    names = intent.kubernetes
    service, _, rest = host.rstrip(".").partition(".")
    if rest not in ("", names.namespace, f"{names.namespace}.svc", f"{names.namespace}.svc.{names.cluster_domain}"):
        raise IntentError(
            f"{field}[0] {addresses[0]!r} must be a Service in the namespace {names.namespace}, where everything else is, "
            f"such as {service}.{names.namespace}.svc:{port}",
        )
    return service, port
