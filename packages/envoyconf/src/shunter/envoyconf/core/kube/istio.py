"""Target ``istio``: an intent as manifests for Istio with ``ENABLE_GATEWAY_API_INFERENCE_EXTENSION=true``.

What Istio (August 2026) does with them was tried with its own control plane and a real Envoy: picks are taken from metadata
alone, so no client can steer by the header (which model servers do see); lists are followed; a pick outside the pool and a
picker that hangs up are answered by round robin if the pool fails open, a picker that breaks off in an error by 500. One
picker is asked for each rule of a route, so a rule has one pool. A CORS or fault filter in such a rule drops the picker
without a word: rules have none.
"""

from collections.abc import Iterator

from shunter.envoyconf.core.envoy.model import body_router_filter
from shunter.envoyconf.core.intent import Intent, PickerTls, Profile
from shunter.envoyconf.core.kube.gateway import GATEWAY_API, gateway, kubernetes_object
from shunter.envoyconf.core.kube.inference_pool import full_only, inference_pools, pool_routes, service_of
from shunter.envoyconf.core.kube.install import LONGEST_NAME, installation
from shunter.envoyconf.core.kube.manifests import ISTIO
from shunter.envoyconf.core.kube.wishes import one_pool, refuse, unheeded
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.places import picker_authorities, service_host
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Support
from shunter.envoyconf.errors import IntentError

__all__ = ["CLASS", "SUPPORT", "istio"]

NAME = "Istio"

# Brought by its installation.
CLASS = "istio"

SUPPORT: dict[Profile, Support] = full_only("Istio streams requests and responses through the picker")

INSTEAD = {
    "security": "apply RequestAuthentication, AuthorizationPolicy and a local rate limit of Istio to the Gateway",
    "overflow": "take an Envoy of your own in front",
}


def istio(intent: Intent, settings: Settings) -> Output:  # noqa: ARG001 # every maker's signature
    """Return the manifests, with those of the model servers' Services and of the pickers."""
    refuse(intent, NAME, INSTEAD)
    one_pool(intent, "Istio asks one picker for each rule")
    _check_names(intent)
    documents = [gateway(intent, CLASS), *inference_pools(intent), *pool_routes(intent), *_destination_rules(intent)]
    documents += _body_routing(intent)
    warnings = tuple(unheeded(intent, NAME, {"limits.bodyBytes"}))
    return Output((Artefact("gateway", tuple(documents)), *installation(intent, by_name=False)), warnings)


def _check_names(intent: Intent) -> None:
    """Raise IntentError for names of which Istio can make no Service: ``<pool>-ip-<hash>``, ``<gateway>-<class>``."""
    names = intent.kubernetes
    service = f"{names.gateway}-{names.gateway_class or CLASS}"
    if len(service) > LONGEST_NAME:
        raise IntentError(f"kubernetes.gateway {names.gateway!r} is too long: Istio makes a Service {service}")
    for index, pool in enumerate(intent.pools):
        if "." in pool.name:
            raise IntentError(f"pools[{index}].name {pool.name!r} must have no dots: Istio makes a Service of that name")


def _destination_rules(intent: Intent) -> Iterator[Resource]:
    """Yield how each picker in TLS is spoken to; pools may have one in common, and it is spoken to in one way."""
    spoken: dict[str, tuple[int, PickerTls | None]] = {}
    for index, pool in enumerate(intent.pools):
        service, _ = service_of(intent, f"pools[{index}].picker.addresses", picker_authorities(pool, intent.kubernetes))
        other, tls = spoken.setdefault(service, (index, pool.picker.tls))
        if tls != pool.picker.tls:
            raise IntentError(
                f"pools[{index}].picker.tls is not that of pools[{other}], whose picker is the Service {service} too; give "
                "both the same",
            )
        if tls is not None and other == index:
            yield _destination_rule(intent, service, tls)


def _destination_rule(intent: Intent, service: str, tls: PickerTls) -> Resource:
    """Return how Istio's Envoys speak to a Service. Files are those of the gateway's Pods."""
    trust: Resource = {"caCertificates": tls.ca_file} if tls.ca_file else {"insecureSkipVerify": True}
    if tls.server_name:
        trust |= {"sni": tls.server_name, **({"subjectAltNames": [tls.server_name]} if tls.ca_file else {})}
    shown = {"clientCertificate": tls.cert_file, "privateKey": tls.key_file} if tls.cert_file else {}
    policy = {"tls": {"mode": "MUTUAL" if shown else "SIMPLE", **shown, **trust}}
    spec = {"host": service_host(service, intent.kubernetes), "trafficPolicy": policy}
    return kubernetes_object(f"{ISTIO}/v1", "DestinationRule", service, intent.kubernetes.namespace, spec=spec)


def _body_routing(intent: Intent) -> Iterator[Resource]:
    """Yield who names the models of requests, before everything else: the filter that our own Envoys have."""
    if (router := intent.body_router) is None:
        return
    names = intent.kubernetes
    service, port = service_of(intent, "bodyRouter.addresses", router.addresses)
    question = body_router_filter(intent.limits)
    # Istio's Envoys buffer 1 MiB of a body; streamed through, it may be of any size.
    question["typed_config"]["processing_mode"] |= {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}
    question["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = f"outbound|{port}||{service_host(service, names)}"
    manager = {"name": "envoy.filters.network.http_connection_manager"}
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "GATEWAY", "listener": {"filterChain": {"filter": manager}}},
        "patch": {"operation": "INSERT_FIRST", "value": question},
    }
    gateways = [{"group": GATEWAY_API, "kind": "Gateway", "name": names.gateway}]
    spec = {"targetRefs": gateways, "configPatches": [patch]}
    yield kubernetes_object(f"{ISTIO}/v1alpha3", "EnvoyFilter", service, names.namespace, spec=spec)
    if router.tls is not None:
        yield _destination_rule(intent, service, router.tls)
