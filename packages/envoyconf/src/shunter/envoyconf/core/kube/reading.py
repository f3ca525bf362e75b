"""Kubernetes manifests become an Intent: Gateway, routes, InferencePools and the policies that say how their pickers are asked.

What an intent has no word for is named in a note if requests go where they went without it, and is an IntentError with file and
line if they would go elsewhere. Of routes for the same request Gateway API takes the most specific one, an intent the first; so
they are put in that order.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from shunter.envoyconf.core.cursor import Cursor, place, refuse
from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.kube.leftovers import READ, leftovers
from shunter.envoyconf.core.kube.manifests import GATEWAY_API, Manifest, Manifests, Reference, refer
from shunter.envoyconf.core.kube.platforms import RoutedRule, rules
from shunter.envoyconf.core.kube.policy_reading import limits, profile_of_policy
from shunter.envoyconf.core.kube.pool_reading import Pools
from shunter.envoyconf.core.names import BASE_MODEL, MODEL
from shunter.envoyconf.core.reading import read_intent
from shunter.envoyconf.errors import IntentError

__all__ = ["Reading", "intent_from"]

# Headers that have the model because something inside the gateway put it there; Envoy can read it out of the body itself.
MODEL_HEADERS = (MODEL, "x-ai-eg-model")


class Reading(msgspec.Struct, frozen=True):
    """What manifests say: as an intent, as the YAML that would state it, and what of them is not in it."""

    intent: Intent
    plain: dict[str, Any]
    notes: tuple[str, ...]


def intent_from(documents: Iterable[Document], namespace: str = "default") -> Reading:
    """Return the intent of manifests; raise IntentError if they state none, or one that cannot be said.

    ``namespace`` is that of objects that name none.
    """
    reader = _Reader(Manifests(documents, namespace))
    plain = reader.read()
    return Reading(read_intent(Document(plain, "", {(): 1})), plain, tuple(dict.fromkeys(reader.notes)))


class _Reader:
    def __init__(self, manifests: Manifests) -> None:
        self.manifests = manifests
        self.notes: list[str] = []
        self.model_header: str | None = None

    def note(self, at: Cursor, text: str) -> None:
        """Tell what is not in the intent."""
        self.notes.append(f"{place(at)}: {text}")

    def read(self) -> dict[str, Any]:
        """Return the intent as its YAML would state it."""
        gateway = self._gateway()
        names = self._names(gateway)
        self.pools = Pools(self.manifests, names["namespace"], self.note)
        routes = self._routes(gateway)
        if not routes:
            raise IntentError(
                "no HTTPRoute with a backend is among these manifests: nothing says which requests go to which pool"
            )
        listeners = list(self._listeners(gateway)) if gateway else []
        plain: dict[str, Any] = {"listeners": listeners} if listeners else {}
        plain["pools"] = self.pools.plain
        plain["routes"] = routes
        if self.model_header:
            plain["modelHeader"] = self.model_header
        plain |= profile_of_policy(self.manifests, self.note)
        if read := limits(self.manifests, self.note):
            plain["limits"] = read
        plain["kubernetes"] = names
        self._leftovers()
        return plain

    def _gateway(self) -> Manifest | None:
        gateways = list(self.manifests.of("Gateway", group=GATEWAY_API))
        if len(gateways) > 1:
            names = ", ".join(str(each) for each in gateways)
            refuse(gateways[1].root["kind"], f"a second Gateway ({names}); an intent is one: give the files of one at a time")
        return gateways[0] if gateways else None

    def _names(self, gateway: Manifest | None) -> dict[str, str]:
        first = gateway or next(self.manifests.of("HTTPRoute", "AIGatewayRoute"), None)
        names = {"namespace": first.namespace if first else "default"}
        if gateway:
            names |= {"gateway": gateway.name, "gatewayClass": gateway.spec["gatewayClassName"].text}
        return names

    def _listeners(self, gateway: Manifest) -> Iterator[dict[str, Any]]:
        """Yield the listeners; those of one port that differ by host name only are one."""
        together: dict[tuple[int | None, str], dict[str, Any]] = {}
        used = self._sections(gateway)
        for at in gateway.spec["listeners"]:
            protocol, tls = at["protocol"].text, at["tls"]
            if used and at["name"].text not in used:
                self.note(at, f"no route with a backend is for the listener {at['name'].text}, which is left out")
                continue
            if protocol not in ("HTTP", "HTTPS") or tls["mode"].text not in ("", "Terminate"):
                self.note(at, f"the listener {at['name'].text} is not for HTTP that ends here, and is left out")
                continue
            secret = tls["certificateRefs"][0]["name"].text
            host = at["hostname"].text or "*"
            if at["port"].number is None:
                refuse(at, "a listener without a port: give the one on which clients are served")
            key = (at["port"].number, secret)
            if key in together:
                together[key]["hosts"].append(host)
                continue
            # A Gateway serves whoever reaches its Service.
            together[key] = {"name": at["name"].text, "address": "0.0.0.0", "port": at["port"].number, "hosts": [host]}
            if protocol == "HTTPS":
                if not secret:
                    refuse(at, "an HTTPS listener without certificateRefs: name the Secret of its certificate")
                together[key]["tls"] = {"secret": secret}
        for plain in together.values():
            yield plain if plain["hosts"] != ["*"] else {field: value for field, value in plain.items() if field != "hosts"}

    def _sections(self, gateway: Manifest) -> set[str]:
        """Return for which listeners there are routes to backends; none if for all."""
        sections: set[str] = set()
        for routed in rules(self.manifests):
            for each in routed.route.spec["parentRefs"] if routed.backends else ():
                if refer(each, routed.route.namespace, GATEWAY_API, "Gateway").place == gateway.place:
                    sections.add(each["sectionName"].text)
        return set() if "" in sections else sections

    def _routes(self, gateway: Manifest | None) -> list[dict[str, Any]]:
        found: list[tuple[tuple[int, ...], dict[str, Any]]] = []
        for routed in rules(self.manifests):
            if routed.route.kind == "GRPCRoute":
                self.note(routed.rule, "a GRPCRoute; an intent is about HTTP, and leaves it out")
            elif self._is_served(routed.route, gateway):
                found += self._routes_of(routed)
        # Python's sort is stable: of two that are as specific, the first stays the first.
        return [plain for _, plain in sorted(found, key=lambda each: each[0], reverse=True)]

    def _is_served(self, route: Manifest, gateway: Manifest | None) -> bool:
        references = [refer(each, route.namespace, GATEWAY_API, "Gateway") for each in route.spec["parentRefs"]]
        if gateway is None or any(each.place == gateway.place for each in references):
            return True
        self.note(route.root["kind"], f"{route} belongs to another Gateway, and is left out")
        return False

    def _routes_of(self, routed: RoutedRule) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        """Yield the routes of a rule, one for each path, each with how specific it is."""
        hosts = [each.text for each in routed.route.spec["hostnames"]]
        shares = self._shares(routed)
        self._unsaid(routed)
        if not shares:
            self.note(routed.rule, "a rule without backends that weigh anything is left out: its requests meet the next one")
            return
        models: dict[str, list[str]] = {}
        everything: set[str] = set()
        for match in (*routed.rule["matches"],) or (routed.rule["none"],):
            prefix, model = self._prefix(match), self._model(match)
            models.setdefault(prefix, [])
            if model is None:
                everything.add(prefix)
            else:
                models[prefix].append(model)
        for prefix, named in models.items():
            plain = shares | ({"hosts": hosts} if hosts else {}) | ({"prefix": prefix} if prefix != "/" else {})
            if prefix in everything:
                yield (*_specific(hosts), len(prefix), 0), plain
            if named:
                yield (*_specific(hosts), len(prefix), 1), plain | {"models": named}

    def _prefix(self, match: Cursor) -> str:
        for field, at in match.fields():
            if field not in ("path", "headers"):
                refuse(
                    at, f"an intent cannot match by {field}, and without it other requests would come here, too; take it away"
                )
        path = match["path"]
        if path["type"].text == "RegularExpression":
            refuse(path, "an intent matches paths by prefix, not by regular expression")
        if path["type"].text == "Exact":
            self.note(path, f"the path is matched as a prefix: what lies below {path['value'].text} comes here, too")
        value = path["value"].text or "/"
        return value.rstrip("/") or "/"

    def _model(self, match: Cursor) -> str | None:
        """Return the model of a match, if it goes by one."""
        headers = list(match["headers"])
        if not headers:
            return None
        name, value = headers[0]["name"].text.lower(), headers[0]["value"].text
        if len(headers) > 1 or headers[0]["type"].text not in ("", "Exact"):
            refuse(match["headers"], "an intent matches one header with the model, exactly")
        if name == BASE_MODEL:
            refuse(
                headers[0],
                f"{name} is put there by a body router, whose addresses no manifest shows: write an intent with bodyRouter",
            )
        if name in MODEL_HEADERS:
            self.note(
                headers[0],
                f"{name} is put there by something inside of the gateway; here Envoy reads the model out of the body",
            )
            return value
        if self.model_header not in (None, name):
            refuse(headers[0], f"{name}, but elsewhere {self.model_header}: an intent has one header with the model")
        self.model_header = name
        return value

    def _shares(self, routed: RoutedRule) -> dict[str, Any]:
        weights: dict[str, int] = {}
        for backend in routed.backends if any(each.at["weight"].number != 0 for each in routed.backends) else ():
            if backend.namespace != routed.route.namespace and not _is_granted(self.manifests, routed, backend):
                refuse(backend.at, f"nothing in {backend.namespace} grants {routed.route} the reference to {backend}")
            name, weight = self.pools.name_of(backend, routed), backend.at["weight"].number
            weights[name] = weights.get(name, 0) + (1 if weight is None else weight)
        if len(weights) == 1:
            return {"pool": next(iter(weights))}
        return {"pools": [{"name": name, "weight": weight} for name, weight in weights.items()]} if weights else {}

    def _unsaid(self, routed: RoutedRule) -> None:
        for each in routed.rule["filters"]:
            self.note(each, f"the filter {each['type'].text} is left out")
        for field, at in routed.rule["timeouts"].fields():
            if at.text not in ("0s", "0"):
                self.note(at, f"timeouts.{field} {at.text} is left out: answers take as long as they take")

    def _leftovers(self) -> None:
        """Name what nobody looked at: each field of what is read, and a line for each other kind."""
        for at, text in leftovers(self.manifests):
            self.note(at, text)
        by_kind: dict[str, list[Manifest]] = {}
        for each in self.manifests.all:
            if each.kind not in READ or (each.kind == "GatewayClass" and each.spec["parametersRef"]):
                by_kind.setdefault(each.kind, []).append(each)
        for kind, each in by_kind.items():
            names = ", ".join(manifest.name for manifest in each)
            self.note(each[0].root["kind"], f"not in the intent: {kind} {names}{LOST.get(kind, '')}")


LOST = {
    "SecurityPolicy": " (who may send requests: say it in security)",
    "BackendTLSPolicy": " (TLS to a picker: say it in picker.tls; to model servers there is none in an intent)",
    "EnvoyPatchPolicy": " (patches change what the rest says)",
    "EnvoyProxy": " (access log and traces: say them in observability)",
    "InferenceObjective": " (the picker's business)",
    "InferenceModelRewrite": " (the picker's business; a route's rewrites make one)",
    "InferenceModel": " (the picker's business; `shunter envoyconf migrate` makes its successors)",
}


def _specific(hosts: list[str]) -> tuple[int, int]:
    """Return how specific host names are: whole ones before wildcards, long ones before short ones."""
    if not hosts:
        return 0, 0
    return min(1 if host.startswith("*") else 2 for host in hosts), min(len(host) for host in hosts)


def _is_granted(manifests: Manifests, routed: RoutedRule, backend: Reference) -> bool:
    """Say whether a ReferenceGrant allows a reference; if the other namespace is not given at all, that cannot be seen."""
    if all(each.namespace != backend.namespace for each in manifests.all):
        return True
    return manifests.grants((routed.route.group, routed.route.kind, routed.route.namespace), backend)
