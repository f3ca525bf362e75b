"""What routes lead to becomes the pools of an intent: InferencePools, and Services or Backends with a picker beside them."""

from collections.abc import Callable
from typing import Any

from shunter.envoyconf.core.authority import join_authority
from shunter.envoyconf.core.cursor import Cursor, place, refuse
from shunter.envoyconf.core.intent import Kubernetes
from shunter.envoyconf.core.kube.manifests import ENVOY_GATEWAY, INFERENCE_OLD, Manifest, Manifests, Reference, refer
from shunter.envoyconf.core.kube.pickers import (
    Speech,
    is_told_of_tls,
    picker_of,
    selector_of,
    service_of,
    speech_by_service,
    target_ports,
)
from shunter.envoyconf.core.kube.platforms import RoutedRule, attached
from shunter.envoyconf.core.places import PICKER_PORT, service_host
from shunter.envoyconf.errors import IntentError

__all__ = ["Note", "Pools"]

Note = Callable[[Cursor, str], None]


class Pools:
    """The pools that routes were found to lead to, in the order in which they were."""

    def __init__(self, manifests: Manifests, namespace: str, note: Note) -> None:
        self.plain: list[dict[str, Any]] = []
        self._manifests = manifests
        self._namespace = namespace
        self._note = note
        self._names: dict[tuple[str, str, str], str] = {}

    def name_of(self, backend: Reference, routed: RoutedRule) -> str:
        """Return the name of the pool that a backend is, which is made if this is the first route that leads there."""
        if backend.place not in self._names:
            plain = self._pool(backend) if backend.is_pool else self._endpoints(backend, routed)
            if any(plain["name"] == other["name"] for other in self.plain):
                refuse(backend.at, f"{backend} is called as another pool is; an intent knows pools by their names alone")
            self.plain.append(plain)
            self._names[backend.place] = plain["name"]
        elif not backend.is_pool:  # perhaps another port of the same Service
            plain = next(each for each in self.plain if each["name"] == self._names[backend.place])
            more = self._servers(backend)
            for field in {"endpoints", "targetPorts"} & {*more}:
                plain[field] += [each for each in more[field] if each not in plain[field]]
        return self._names[backend.place]

    def _pool(self, backend: Reference) -> dict[str, Any]:
        pool = next((each for each in self._manifests.of("InferencePool") if each.place == backend.place), None)
        if pool is None:
            refuse(backend.at, f"{backend} is not among these manifests; give its file, too")
        if pool.group == INFERENCE_OLD:
            self._note(pool.root["apiVersion"], "v1alpha2 is read as v1; `shunter envoyconf migrate` writes it so")
        if not selector_of(pool):
            refuse(pool.spec["selector"] or pool.root["kind"], f"{pool} has no selector: nothing says which Pods it is")
        plain: dict[str, Any] = {"name": pool.name, "selector": selector_of(pool), "targetPorts": target_ports(pool)}
        if pool.spec["appProtocol"].text == "kubernetes.io/h2c":
            plain["http2"] = True
        if pool.namespace != self._namespace:
            self._note(
                pool.metadata["namespace"], f"an intent has one namespace: {pool} is reached by the address of a Service there"
            )
            plain["endpoints"] = [_host(pool.name, pool.namespace, port) for port in target_ports(pool)]
        plain["picker"] = self._picker(pool)
        return plain

    def _picker(self, pool: Manifest) -> dict[str, Any]:
        reference = picker_of(pool)
        if reference is None:
            return {}
        if reference.kind != "Service":
            refuse(
                reference.at,
                f"the picker is a {reference.kind}; an intent knows pickers by host:port, such as those of a Service",
            )
        # What v1alpha2 infers, and GIE's default of the failure mode.
        port = (reference.at["port"]["number"] or reference.at["portNumber"]).number or PICKER_PORT
        picker: dict[str, Any] = {"failureMode": reference.at["failureMode"].text or "FailClose"}
        if (reference.name, reference.namespace, port) != (f"{pool.name}-picker", self._namespace, PICKER_PORT):
            picker["addresses"] = [_host(reference.name, reference.namespace, port)]
        if self._speaks_tls(reference):
            picker["tls"] = {}
        return picker

    def _speaks_tls(self, service: Reference) -> bool:
        if speech_by_service(self._manifests).get(service.place) is Speech.TLS:
            return True
        target = self._manifests.find(service)
        if target and is_told_of_tls(self._manifests, target):
            return True
        for rule in self._manifests.of("DestinationRule"):
            named = service_of(self._manifests, rule.spec["host"], rule.namespace)
            means = named.name if named else rule.spec["host"].text.partition(".")[0]
            if means == service.name and rule.spec.at("trafficPolicy", "tls", "mode").text in ("SIMPLE", "MUTUAL"):
                return True
        return False

    def _endpoints(self, backend: Reference, routed: RoutedRule) -> dict[str, Any]:
        """Return the pool that a Service or an Envoy Gateway Backend is, with the picker that a policy names for its route."""
        return {"name": backend.name} | self._servers(backend) | self._asked(routed)

    def _servers(self, backend: Reference) -> dict[str, Any]:
        """Return the model servers behind a reference: by the labels of a headless Service's Pods, else by address."""
        service = self._manifests.find(backend) if backend.kind == "Service" else None
        port = backend.at["port"].number
        found = self._manifests.find(backend)
        if found and found.kind == "Backend" and (tls := found.spec["tls"]):
            self._note(tls, f"TLS to the model servers of {backend} is left out: an intent speaks to them in the clear")
        if service is None or port is None:
            return {"endpoints": self._authorities(backend)}
        if service.spec["clusterIP"].text != "None":
            self._note(backend.at, f"{backend} is not headless: Envoy sees one address, and none that a picker could name")
            return {"endpoints": self._authorities(backend)}
        ports = [each["targetPort"].number for each in service.spec["ports"] if each["port"].number == port]
        if service.namespace != self._namespace or not service.spec["selector"].labels:
            return {"endpoints": self._authorities(backend)}
        return {"selector": service.spec["selector"].labels, "targetPorts": [ports[0] if ports and ports[0] else port]}

    def _authorities(self, backend: Reference) -> list[str]:
        port = backend.at["port"].number
        if backend.kind == "Service" and port is not None:
            return [_host(backend.name, backend.namespace, port)]
        found = self._manifests.find(backend)
        if found is None or found.group != ENVOY_GATEWAY or found.kind != "Backend":
            refuse(backend.at, f"{backend} cannot be read as host:port; give a Service with a port, or the Backend's file, too")
        return [_endpoint(each) for each in found.spec["endpoints"]]

    def _asked(self, routed: RoutedRule) -> dict[str, Any]:
        """Return the picker of the policy that is attached to a rule, its route or its Gateway."""
        for policy in attached(self._manifests, "EnvoyExtensionPolicy", routed):
            extensions = list(policy.spec["extProc"])
            for each in extensions[1:]:
                self._note(each, "a second ext_proc server is left out")
            if extensions:
                return {"picker": self._picker_of_policy(policy, extensions[0])}
        self._note(
            routed.rule, f"nothing says which picker is asked about {routed.route}: give picker.addresses, or profile native"
        )
        return {}

    def _picker_of_policy(self, policy: Manifest, extension: Cursor) -> dict[str, Any]:
        addresses: list[str] = []
        picker: dict[str, Any] = {"failureMode": "FailOpen" if extension["failOpen"].value is True else "FailClose"}
        for at in extension["backendRefs"]:
            reference = refer(at, policy.namespace)
            addresses += self._authorities(reference)
            target = self._manifests.find(reference)
            if target and target.kind == "Backend" and (tls := target.spec["tls"]):
                picker["tls"] = {"serverName": tls["sni"].text} if tls["caCertificateRefs"] and tls["sni"].text else {}
                if tls["caCertificateRefs"]:
                    self._note(
                        tls["caCertificateRefs"],
                        "CAs are in a ConfigMap here, in a file in an intent: say it in picker.tls.caFile",
                    )
        picker["addresses"] = addresses
        return picker


def _endpoint(at: Cursor) -> str:
    """Return host:port of one of a Backend's endpoints."""
    for kind, field in (("fqdn", "hostname"), ("ip", "address")):
        host, port = at.at(kind, field).text, at.at(kind, "port").number
        if host and port is not None:
            return join_authority(host, port)
    raise IntentError(f"{place(at)}: neither fqdn nor ip; an intent knows model servers and pickers by host:port")


def _host(name: str, namespace: str, port: int) -> str:
    return f"{service_host(name, Kubernetes(namespace=namespace))}:{port}"
