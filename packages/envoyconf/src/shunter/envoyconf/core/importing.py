"""An Envoy's configuration becomes an intent, as far as an intent has words for it; what is lost is named.

It is read as the linter reads it: bootstraps, config dumps, and resources as a control plane sends them.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import Any

import msgspec

from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.lint.envoy.cluster import Cluster
from shunter.envoyconf.core.lint.envoy.models import picker
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Branch, Envoy, Manager, Question, Route, view
from shunter.envoyconf.errors import IntentError

__all__ = ["Imported", "import_envoy"]

FLUENTD = "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig"
DOWNSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"

# What every generated Envoy has in one form or another, or an intent's fields bring back.
REGAINED_FILTERS = ("ext_proc.v3", "router.v3", "json_to_metadata.v3", "sse_to_metadata.v3", "header_mutation.v3")

DUPLEX = "FULL_DUPLEX_STREAMED"

# An intent's names are those of Kubernetes.
NO_NAME = re.compile(r"[^a-z0-9.-]+")
LONGEST_NAME = 63


class Imported(msgspec.Struct, frozen=True):
    """An intent as its YAML would state it, which may lack what the configuration does not tell, and what is not in it."""

    plain: dict[str, Any]
    notes: tuple[str, ...]


def import_envoy(documents: Iterable[Document]) -> Imported:
    """Return what an Envoy's configuration says as an intent; raise IntentError if the documents configure none, or several."""
    envoys = view(tuple(documents))
    if len(envoys) != 1 or not envoys[0].routes:
        what = f"{len(envoys)} Envoys" if len(envoys) > 1 else "no Envoy with routes"
        raise IntentError(f"these files configure {what}; an intent is of one, with its listeners, routes and clusters")
    importer = _Importer(envoys[0])
    return Imported(importer.read(), tuple(dict.fromkeys(importer.notes)))


class _Importer:
    def __init__(self, envoy: Envoy) -> None:
        self.envoy = envoy
        self.notes: list[str] = []
        self.pools: dict[str, dict[str, Any]] = {}  # by cluster
        self.profiles: dict[str, str] = {}

    def note(self, at: Node, text: str) -> None:
        self.notes.append(f"{at.document.file}:{at.document.line(at.path)}: {text}")

    def read(self) -> dict[str, Any]:
        routes = self._routes()
        plain: dict[str, Any] = {"listeners": [*self._listeners()], "pools": [*self.pools.values()], "routes": routes}
        profiles = {*self.profiles.values()}
        if len(profiles) == 1:
            plain["profile"] = profiles.pop()
        if limits := dict(self._limits()):
            plain["limits"] = limits
        address = self.envoy.resources.bootstrap.at("admin", "address", "socket_address")
        if (port := address.at("port_value").number) is not None:
            plain["admin"] = {"address": address.at("address").text, "port": int(port)}
        for manager in self.envoy.managers:
            for each in manager.filters:
                if not any(known in each.type for known in REGAINED_FILTERS):
                    self.note(each.node, f"the filter {each.name} is left out")
        return {field: value for field, value in plain.items() if value}

    def _listeners(self) -> Iterator[dict[str, Any]]:
        names: set[str] = set()
        for manager in self.envoy.managers:
            address = manager.listener.at("address", "socket_address")
            port = address.at("port_value").number
            if port is None:
                self.note(manager.listener, "a listener that is not on a TCP port is left out")
                continue
            name = _name(manager.listener.at("name").text or f"port-{int(port)}", names)
            names.add(name)
            plain: dict[str, Any] = {"name": name, "address": address.at("address").text, "port": int(port)}
            yield plain | self._listener_tls(manager)

    def _listener_tls(self, manager: Manager) -> dict[str, Any]:
        for each in manager.listener.at("filter_chains").items():
            typed = each.at("transport_socket", "typed_config")
            if typed.type != DOWNSTREAM_TLS:
                continue
            context = typed.message.at("common_tls_context")
            certificate = context.at("tls_certificates").item(0)
            files = {
                "certFile": certificate.at("certificate_chain", "filename").text,
                "keyFile": certificate.at("private_key", "filename").text,
                "clientCaFile": context.at("validation_context", "trusted_ca", "filename").text,
            }
            if not (files["certFile"] and files["keyFile"]):
                self.note(typed, "the certificate is in no file that is named here: say it in tls.certFile and tls.keyFile")
            return {"tls": {field: file for field, file in files.items() if file}}
        return {}

    def _routes(self) -> list[dict[str, Any]]:
        routes: list[dict[str, Any]] = []
        by_listener: dict[int, list[dict[str, Any]]] = {}
        taken: set[tuple[int, str]] = set()
        # Whatever their order, Envoy looks at the host that is named first, then at wildcards, then at everybody's.
        for route in sorted(self.envoy.routes, key=_generality):
            plain = self._route(route)
            if plain is None or _is_taken(route, plain, taken):
                continue
            by_listener.setdefault(id(route.manager), []).append(plain)
            if plain in routes:
                continue
            # A route for each model of an intent's route; of several listeners, the same ones again.
            others = plain | {"models": None}
            same = next((each for each in routes if "models" in plain and each | {"models": None} == others), None)
            if same is None:
                routes.append(plain)
            else:
                same["models"] += [model for model in plain["models"] if model not in same["models"]]
        if any(each != next(iter(by_listener.values())) for each in by_listener.values()):
            self.note(
                self.envoy.routes[0].routing, "listeners have routes of their own here; an intent's are those of all of them"
            )
        return routes

    def _route(self, route: Route) -> dict[str, Any] | None:
        match = route.node.at("match")
        if not _leads_to_pools(route):
            if route.action.at("cluster_header") and route.action.at("cluster_not_found_response_code").text != "NOT_FOUND":
                self.note(route.action, "a route to the cluster that a header names is left out")
            elif route.node.at("redirect") or route.node.at("direct_response", "status").number not in (None, 404):
                self.note(route.node, "a route that Envoy answers itself is left out")
            return None
        prefix = match.at("path_separated_prefix").text or match.at("prefix").text or match.at("path").text
        if not prefix:
            self.note(match, "a route by another match than path, path_separated_prefix or prefix is left out")
            return None
        if match.at("path"):
            self.note(match, f"the path is matched as a prefix: what lies below {prefix} comes here, too")
        plain: dict[str, Any] = self._shares(route)
        hosts = [host for host in route.host.at("domains").texts if host != "*"]
        plain |= {"hosts": hosts} if hosts else {}
        plain |= {"prefix": prefix.rstrip("/")} if prefix.rstrip("/") else {}
        if models := self._models(match):
            plain["models"] = models
        return plain

    def _models(self, match: Node) -> list[str]:
        models: list[str] = []
        for matcher in match.at("dynamic_metadata").items():
            path = [step.at("key").text for step in matcher.at("path").items()]
            exact = matcher.at("value", "string_match", "exact").text
            if exact and path and "model" in path[-1]:
                models.append(exact)
            else:
                self.note(matcher, "a match by metadata that is not the model is left out")
        for matcher in match.at("headers").items():
            exact = matcher.at("string_match", "exact").text or matcher.at("exact_match").text
            if exact and "model" in matcher.at("name").text.lower():
                self.note(
                    matcher, f"{matcher.at('name').text} has the model: Envoy reads it out of the body, or say modelHeader"
                )
                models.append(exact)
            else:
                self.note(matcher, f"the match by the header {matcher.at('name').text} is left out")
        return models

    def _shares(self, route: Route) -> dict[str, Any]:
        shares: list[dict[str, Any]] = []
        for branch in route.branches:
            share: dict[str, Any] = {"name": self._pool(branch)}
            weight = branch.scopes[0].at("weight").number
            shares.append(share | ({} if weight is None else {"weight": int(weight)}))
        return {"pool": shares[0]["name"]} if len(shares) == 1 else {"pools": shares}

    def _pool(self, branch: Branch) -> str:
        cluster = branch.place.text
        if cluster not in self.pools:
            taken = {pool["name"] for pool in self.pools.values()}
            plain: dict[str, Any] = {"name": _name(cluster.removeprefix("pool/"), taken)}
            known = branch.clusters[0] if branch.clusters else None
            plain["endpoints"] = _authorities(known) if known else []
            if not plain["endpoints"]:
                why = "goes wherever the picker says" if known and known.is_original_dst else "is told its endpoints elsewhere"
                self.note(branch.place, f"the cluster {cluster} {why}: list the model servers in endpoints of {plain['name']}")
            options = known.http_options.at("explicit_http_config") if known else Node(branch.place.document)
            plain |= {"http2": True} if options.at("http2_protocol_options") else {}
            plain |= self._picker(branch, cluster)
            self.pools[cluster] = plain
        return self.pools[cluster]["name"]

    def _picker(self, branch: Branch, cluster: str) -> dict[str, Any]:
        question = picker(branch)
        if question is None:
            self.profiles[cluster] = "native"
            self.note(branch.place, f"nobody is asked about requests for {cluster}: profile native")
            return {}
        for each in branch.questions:
            if each is not question:
                self.note(
                    each.filter.node, f"the ext_proc filter {each.filter.name} is left out (a body router? say bodyRouter)"
                )
        plain: dict[str, Any] = {"addresses": _authorities(question.server) if question.server else []}
        plain["failureMode"] = "FailOpen" if question.fails_open else "FailClose"
        if question.server and question.server.tls:
            context = question.server.tls.at("common_tls_context")
            tls = {
                "caFile": context.at("validation_context", "trusted_ca", "filename").text,
                "serverName": question.server.tls.at("sni").text,
            }
            plain["tls"] = {field: value for field, value in tls.items() if value and tls["caFile"]}
        collectors = [*self._collectors(cluster)]
        plain |= {"collector": collectors[0]} if collectors else {}
        self.profiles[cluster] = self._profile(question, told=bool(collectors))
        return {"picker": plain}

    def _profile(self, question: Question, *, told: bool) -> str:
        request, response = question.mode("request_body_mode"), question.mode("response_body_mode")
        if response == DUPLEX:
            return "full"
        if request != DUPLEX:
            if request not in ("BUFFERED", "NONE") or response != "NONE":
                self.note(
                    question.filter.node, f"bodies are sent {request} and {response}; in the profile lean BUFFERED and NONE"
                )
            return "lean"
        wanted = "headers" if question.mode("response_header_mode") == "SEND" else "strict"
        if not told or (wanted == "strict" and question.fails_open):
            why = "fails closed" if told else "needs a collector"
            self.note(question.filter.node, f"what is sent is as in the profile {wanted}, which {why}; lean is written instead")
            return "lean"
        return wanted

    def _collectors(self, cluster: str) -> Iterator[str]:
        """Yield where records go: to the collector that is called after the cluster, else to anybody's."""
        named: list[str] = []
        for manager in self.envoy.managers:
            for each in manager.node.at("access_log").items():
                typed = each.at("typed_config")
                if typed.type == FLUENTD:
                    named.append(typed.message.at("cluster").text)
        for name in sorted(named, key=lambda name: name.rpartition("/")[2] != cluster.rpartition("/")[2]):
            if name in self.envoy.clusters:
                yield from _authorities(self.envoy.clusters[name])

    def _limits(self) -> Iterator[tuple[str, Any]]:
        """Yield the largest of what the routes allow, and of their clusters."""
        routed = [route for route in self.envoy.routes if _leads_to_pools(route)]
        scopes = [scope for route in routed for scope in (route.node, route.host)]
        clusters = [cluster for route in routed for branch in route.branches for cluster in branch.clusters]
        asked = [question for route in routed for question in route.questions]
        limits = {
            "bodyBytes": [scope.at("request_body_buffer_limit").number for scope in scopes],
            "idleTimeoutSeconds": [route.action.at("idle_timeout").seconds for route in routed],
            "connectTimeoutSeconds": [cluster.node.at("connect_timeout").seconds for cluster in clusters],
            "pickTimeoutSeconds": [question.field("message_timeout").seconds for question in asked],
            "retries": [route.action.at("retry_policy", "num_retries").number for route in routed],
        }
        for field, values in limits.items():
            if known := [value for value in values if value is not None]:
                yield field, int(max(known)) if max(known) == int(max(known)) else max(known)
        for route in routed:
            if route.action.at("timeout").seconds != 0:
                self.note(route.action.at("timeout"), "answers take as long as they take: the route's timeout is left out")


def _leads_to_pools(route: Route) -> bool:
    """Say whether it is told where requests go: by a header, that may be anywhere."""
    return bool(route.branches) and not route.action.at("cluster_header")


def _generality(route: Route) -> int:
    """Return how general the host names of a route are."""
    return max((2 if host == "*" else 1 if "*" in host else 0 for host in route.host.at("domains").texts), default=0)


def _is_taken(route: Route, plain: dict[str, Any], taken: set[tuple[int, str]]) -> bool:
    """Say whether an earlier route of the same host takes all requests of this one, and remember what this one takes."""
    host, prefix = id(route.host.value), plain.get("prefix", "")
    if any(place == host and f"{prefix}/".startswith(f"{earlier}/") for place, earlier in taken):
        return True
    if "models" not in plain:
        taken.add((host, prefix))
    return False


def _authorities(cluster: Cluster) -> list[str]:
    return [f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}" for host, port in cluster.authorities]


def _name(text: str, taken: Iterable[str]) -> str:
    """Return a name that an intent may have, and that nobody has."""
    name = NO_NAME.sub("-", text.lower())[:LONGEST_NAME].strip("-.") or "unnamed"
    taken = {*taken}
    others = (f"{name[: LONGEST_NAME - 4]}-{number}" for number in count(2))
    return next(each for each in chain([name], others) if each not in taken)
