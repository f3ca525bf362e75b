"""An Envoy's configuration becomes an intent, as far as an intent has words for it; what is lost is named.

It is read as the linter reads it: bootstraps, config dumps, and resources as a control plane sends them.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import Any

import msgspec

from shunter.envoyconf.core.authority import split_server
from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.envoy.ext_proc import GRACE_SECONDS
from shunter.envoyconf.core.envoy.retry import request_retries
from shunter.envoyconf.core.intent import Limits
from shunter.envoyconf.core.intent.parts import HostPattern
from shunter.envoyconf.core.leftovers import leftovers
from shunter.envoyconf.core.lint.envoy.cluster import Cluster
from shunter.envoyconf.core.lint.envoy.models import body_routers, picker
from shunter.envoyconf.core.lint.envoy.node import Node, snake
from shunter.envoyconf.core.lint.envoy.view import Branch, Envoy, Manager, Route, view
from shunter.envoyconf.core.names import BASE_MODEL, MODEL, POOL, SERVED, pool_of_cluster
from shunter.envoyconf.errors import IntentError

__all__ = ["Imported", "import_envoy"]

FLUENTD = "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig"
FILE_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
STDOUT_LOG = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
DOWNSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
TOKEN_COUNTS = "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata"  # noqa: S105 # of a model's tokens

# What an intent tells requests by.
MATCHES = ("prefix", "path", "path_separated_prefix", "headers", "dynamic_metadata")

DUPLEX = "FULL_DUPLEX_STREAMED"

SUBJECTS = ("validation_context", "match_typed_subject_alt_names")

# What an intent's routes try again.
OWN_TRIGGERS = request_retries(1)["retry_on"].split(",")

PORT = re.compile(r":\d{1,5}$")

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
        self.pools: dict[str, dict[str, Any]] = {}  # by name
        self.names: dict[str, str] = {}  # of pools, by cluster
        self.model_headers: set[str] = set()
        self.router: Node | None = None  # the filter of whoever tells Envoy the model
        self.managers: list[Manager] = []
        for manager in envoy.managers:
            if _port(manager) is None:  # such as inside of Envoy: what comes there has been routed before
                self.note(manager.listener, "a listener that is not on a TCP port is left out")
            else:
                self.managers.append(manager)
        self.routes = [each for each in envoy.routes if each.manager is None or each.manager in self.managers]
        self.routed = [each for each in self.routes if self._leads_to_pools(each)]

    def note(self, at: Node, text: str) -> None:
        self.notes.append(f"{at.document.file}:{at.document.line(at.path)}: {text}")

    def read(self) -> dict[str, Any]:
        body_router = self._body_router()
        routes = self._routes(has_body_router=bool(body_router))
        profiles = {route["profile"] for route in routes}
        if len(profiles) == 1:
            routes = [{field: value for field, value in route.items() if field != "profile"} for route in routes]
        plain: dict[str, Any] = {"listeners": [*self._listeners()], "pools": [*self.pools.values()], "routes": routes}
        plain |= {"bodyRouter": body_router, "modelHeader": self._model_header()}
        plain |= {"profile": profiles.pop() if len(profiles) == 1 else None, "limits": dict(self._limits())}
        plain |= {"observability": dict(self._observability()), "admin": self._admin()}
        for at, text in leftovers(self.envoy, self.managers, self.routed):
            self.note(at, text)
        return {field: value for field, value in plain.items() if value}

    def _admin(self) -> dict[str, Any]:
        admin = self.envoy.resources.bootstrap.at("admin")
        address = admin.at("address", "socket_address")
        if (port := address.at("port_value").number) is not None:
            return {"address": address.at("address").text, "port": int(port)}
        if admin.at("address"):
            self.note(admin, "an admin interface that is not on a TCP port is left out")
        return {}

    def _leads_to_pools(self, route: Route) -> bool:
        """Say whether it is told where requests go, and not to Envoy's own pages: to whom a header names may be anywhere."""
        address = self.envoy.resources.bootstrap.at("admin", "address", "socket_address")
        own = [(address.at("address").text, address.at("port_value").number)]
        clusters = [cluster for branch in route.branches for cluster in branch.clusters]
        is_own = bool(clusters) and all(cluster.authorities == own for cluster in clusters)
        return not is_own and any(branch.place.text for branch in route.branches)

    def _listeners(self) -> Iterator[dict[str, Any]]:
        names: set[str] = set()
        seen: list[object] = []
        for manager in self.managers:
            listener = manager.listener
            if manager.routing and all(route.manager is not manager for route in self.routed):
                self.note(listener, "a listener from which no route leads to model servers is left out")
                continue
            if any(each is listener.value for each in seen):
                self.note(manager.node, "a further filter chain of a listener is left out: in an intent a listener has one")
                continue
            seen.append(listener.value)
            port = _port(manager)
            name = _name(listener.at("name").text or f"port-{port}", names)
            names.add(name)
            address = listener.at("address", "socket_address", "address").text
            yield {"name": name, "address": address, "port": port} | self._listener_tls(manager)

    def _listener_tls(self, manager: Manager) -> dict[str, Any]:
        for each in manager.listener.at("filter_chains").items():
            typed = each.at("transport_socket", "typed_config")
            if typed.type != DOWNSTREAM_TLS:
                continue
            context = typed.message.at("common_tls_context")
            files = _files(context) | {"clientCaFile": context.at("validation_context", "trusted_ca", "filename").text}
            if not (files["certFile"] and files["keyFile"]):
                self.note(typed, "the certificate is in no file that is named here: say it in tls.certFile and tls.keyFile")
            return {"tls": {field: file for field, file in files.items() if file}}
        return {}

    def _body_router(self) -> dict[str, Any]:
        """Return who tells Envoy the model of each request, if it is known where."""
        for manager in self.managers:
            for each in body_routers(manager, [route for route in self.routes if route.manager is manager]):
                server = self.envoy.clusters.get(each.config.at("grpc_service", "envoy_grpc", "cluster_name").text)
                if each.asks and server:
                    self.router = each.node
                    return {"addresses": self._servers(server)} | _tls(server)
        return {}

    def _model_header(self) -> str | None:
        """Return the header in which clients name the model."""
        if len(self.model_headers) > 1:
            names = " and ".join(sorted(self.model_headers))
            self.note(self.routed[0].routing, f"the model is in several headers, {names}; an intent has one modelHeader")
        return min(self.model_headers, default=None)

    def _routes(self, *, has_body_router: bool) -> list[dict[str, Any]]:
        routes: list[dict[str, Any]] = []
        by_listener: dict[int, list[dict[str, Any]]] = {}
        taken: set[tuple[int, str]] = set()
        # Whatever their order, Envoy looks at the host that is named first, then at wildcards, then at everybody's.
        for route in sorted(self.routes, key=_generality):
            plain = self._route(route, has_body_router=has_body_router)
            if plain is None or _is_taken(route, plain, taken):
                continue
            by_listener.setdefault(id(route.manager), []).append(plain)
            if plain in routes:
                continue
            # A route for each model of an intent's route; of several listeners, the same ones again.
            field = next((each for each in ("models", "baseModels") if each in plain), "")
            same = next((each for each in routes if field in each and each | {field: None} == plain | {field: None}), None)
            if same is None:
                routes.append(plain)
            else:
                same[field] += [model for model in plain[field] if model not in same[field]]
        if any(each != next(iter(by_listener.values())) for each in by_listener.values()):
            self.note(self.routes[0].routing, "listeners have routes of their own here; an intent's are those of all of them")
        return routes

    def _route(self, route: Route, *, has_body_router: bool) -> dict[str, Any] | None:
        if not self._leads_to_pools(route):
            if what := _without_pool(route):
                self.note(route.action or route.node, f"{what} is left out")
            return None
        match = route.node.at("match")
        models: dict[str, list[str]] = {}
        for node, what in _conditions(match, models):
            self.note(node, f"a route by {what} is left out: its requests meet the next one that is for them")
            return None
        if (hosts := self._hosts(route)) is None:
            return None
        prefix = match.at("path_separated_prefix").text or match.at("prefix").text or match.at("path").text
        if match.at("path"):
            self.note(match, f"the path is matched as a prefix: what lies below {prefix} comes here, too")
        elif (start := match.at("prefix").text) and not start.endswith("/"):
            self.note(
                match, f"{start} is matched as whole segments: what begins so and goes on, such as {start}x, no longer is"
            )
        for matcher in match.at("headers").items():
            header = matcher.at("name").text.lower()
            if header not in (MODEL, BASE_MODEL):
                self.model_headers.add(header)
            elif not has_body_router:
                self.note(matcher, f"{header} has the model: Envoy reads it out of the body, or say bodyRouter")
        plain: dict[str, Any] = self._shares(route)
        plain |= {"hosts": hosts} if hosts else {}
        plain |= {"prefix": prefix.rstrip("/")} if prefix.rstrip("/") else {}
        return plain | models | {"profile": self._profile(route)}

    def _hosts(self, route: Route) -> list[str] | None:
        """Return the hosts of a route, none for all; None if an intent can name none of them."""
        domains = route.host.at("domains")
        if "*" in domains.texts:
            return []
        hosts: dict[str, None] = {}
        for each in domains.items():
            host = PORT.sub("", each.text.lower())  # an intent's hosts are served on any port
            try:
                hosts[msgspec.convert(host, HostPattern)] = None
            except msgspec.ValidationError:
                self.note(each, f"the host {each.text!r} is left out: an intent names whole hosts, or *. and what follows")
        return [*hosts] or None

    def _shares(self, route: Route) -> dict[str, Any]:
        weights: dict[str, int | None] = {}
        for branch in route.branches:
            name = self._pool(branch)
            weight = branch.scopes[0].at("weight").number
            weights[name] = None if weight is None else int(weight) + (weights.get(name) or 0)
        if len(weights) == 1:
            return {"pool": next(iter(weights))}
        return {"pools": [{"name": name} | ({} if weight is None else {"weight": weight}) for name, weight in weights.items()]}

    def _pool(self, branch: Branch) -> str:
        cluster = branch.place.text
        known = next((each for each in branch.clusters if not each.members), None)
        if known and known.name != cluster:
            self.note(branch.place, f"of {cluster} only {known.name} is read; say who takes what it refuses in overflow")
            cluster = known.name
        if cluster not in self.names:
            own = pool_of_cluster(cluster)
            self.names[cluster] = own if own in self.pools else _name(own or cluster, self.pools)
        name = self.names[cluster]
        if name not in self.pools:
            endpoints = known.addresses if known else []
            if not endpoints:
                why = "goes wherever the picker says" if known and known.is_original_dst else "is told its endpoints elsewhere"
                self.note(branch.place, f"the cluster {cluster} {why}: list the model servers in endpoints of {name}")
            elif known and len(endpoints) < len(known.endpoints):
                self.note(known.node, f"endpoints of {cluster} that are not on a TCP port are left out")
            self.pools[name] = {"name": name, "endpoints": endpoints}
            if known and known.speaks_http2:
                self.pools[name]["http2"] = True
            self.pools[name] |= self._inference_pool(branch)
        asked = self._picker(branch, cluster)
        if asked and self.pools[name].setdefault("picker", asked) != asked:
            self.note(branch.place, f"not all requests for {cluster} ask the same picker; an intent's pool has one")
        return name

    def _picker(self, branch: Branch, cluster: str) -> dict[str, Any]:
        question = picker(branch)
        if question is None:
            self.note(branch.place, f"nobody is asked about requests for {cluster}: profile native")
            return {}
        for each in branch.questions:
            if each is not question and each.filter.node != self.router:
                self.note(each.filter.node, f"the ext_proc filter {each.filter.name} is left out")
        plain: dict[str, Any] = {"addresses": self._servers(question.server) if question.server else []}
        plain["failureMode"] = "FailOpen" if question.fails_open else "FailClose"
        plain |= _tls(question.server) if question.server else {}
        collectors = [*self._collectors(cluster)]
        return plain | ({"collector": collectors[0]} if collectors else {})

    def _servers(self, server: Cluster) -> list[str]:
        """Return where the workers of a picker are, as far as an intent can say it."""
        said = server.addresses
        for socket in server.sockets:
            try:
                split_server(socket)
            except IntentError as error:
                self.note(server.node, f"{error}; it is left out")
            else:
                said.append(socket)
        return said

    def _inference_pool(self, branch: Branch) -> dict[str, str]:
        """Return what a picker that serves several pools is told, if it is."""
        question = picker(branch)
        told = question.field("grpc_service").at("initial_metadata").items() if question else ()
        values = [each.at("value").text for each in told if each.at("key").text == POOL]
        return {"inferencePool": values[0]} if values else {}

    def _profile(self, route: Route) -> str:
        profiles = [self._profile_of(route, branch) for branch in route.branches]
        if len({*profiles}) > 1:
            self.note(route.action, f"the pools of this route are asked in several profiles; {profiles[0]} is written")
        return profiles[0]

    def _profile_of(self, route: Route, branch: Branch) -> str:
        question = picker(branch)
        if question is None:
            return "native"
        is_told = any(self._collectors(branch.place.text))
        request, response = question.mode("request_body_mode"), question.mode("response_body_mode")
        if response == DUPLEX:
            return "full"
        if request != DUPLEX:
            if request not in ("BUFFERED", "NONE") or response != "NONE":
                self.note(
                    question.filter.node, f"bodies are sent {request} and {response}; in the profile lean BUFFERED and NONE"
                )
            counts = [each for each in (route.manager.filters if route.manager else ()) if each.type == TOKEN_COUNTS]
            return "usage" if is_told and any(each.is_enabled(branch.scopes) for each in counts) else "lean"
        wanted = "headers" if question.mode("response_header_mode") == "SEND" else "strict"
        if not is_told or (wanted == "strict" and question.fails_open):
            why = "fails closed" if is_told else "needs a collector"
            self.note(question.filter.node, f"what is sent is as in the profile {wanted}, which {why}; lean is written instead")
            return "lean"
        return wanted

    def _collectors(self, cluster: str) -> Iterator[str]:
        """Yield where records go: to the collector that is called after the cluster, else to anybody's."""
        named = [typed.message.at("cluster").text for typed in self._access_logs() if typed.type == FLUENTD]
        pool = pool_of_cluster(cluster) or cluster.rpartition("/")[2]
        for name in sorted(named, key=lambda name: name.rpartition("/")[2] != pool):
            if name in self.envoy.clusters:
                yield from self.envoy.clusters[name].addresses

    def _access_logs(self) -> Iterator[Node]:
        for manager in self.managers:
            for each in manager.node.at("access_log").items():
                yield each.at("typed_config")

    def _observability(self) -> Iterator[tuple[str, Any]]:
        """Yield where people read of requests, and whether clients are told who served them."""
        places: list[str] = []
        for typed in self._access_logs():
            if typed.type in (FILE_LOG, STDOUT_LOG):
                path = typed.message.at("path").text
                places.append(path if path and path != "/dev/stdout" else "stdout")
            elif typed.type != FLUENTD:
                self.note(typed, f"the access log {typed.type.rpartition('.')[2]} is left out")
        place, *others = dict.fromkeys(places) or ["none"]
        if others:
            self.note(self.managers[0].node, f"an intent has one access log: {', '.join(others)} is left out")
        if self.managers and place != "stdout":
            yield "accessLog", place
        added = [each for route in self.routed for each in route.node.at("response_headers_to_add").items()]
        if any(each.at("header", "key").text == SERVED for each in added):
            yield "servedHeader", True

    def _limits(self) -> Iterator[tuple[str, Any]]:
        """Yield the largest of what the routes allow, and of their clusters."""
        scopes = [scope for route in self.routed for scope in (route.node, route.host)]
        clusters = [cluster for route in self.routed for branch in route.branches for cluster in branch.clusters]
        asked = [question for route in self.routed for question in route.questions]
        limits = {
            "bodyBytes": [scope.at("request_body_buffer_limit") for scope in scopes],
            "idleTimeoutSeconds": [route.silence for route in self.routed],
            "connectTimeoutSeconds": [cluster.node.at("connect_timeout") for cluster in clusters],
            "pickTimeoutSeconds": [question.field("message_timeout") for question in asked],
            "queueSeconds": [question.filter.config.at("max_message_timeout") for question in asked],
        }
        for field, nodes in limits.items():
            known = {value: node for node in nodes if (value := node.seconds or node.number)}
            if not known:
                continue
            largest = max(known)
            if len(known) > 1:
                self.note(
                    known[largest], f"limits.{field} is the largest of {', '.join(f'{each:.15g}' for each in sorted(known))}"
                )
            value = max(0, largest - GRACE_SECONDS) if field == "queueSeconds" else largest
            yield field, self._within(field, int(value) if value == int(value) else value, known[largest])
        most = max(self.routed, key=_retries, default=None)
        yield "retries", 0 if most is None else self._within("retries", _retries(most), most.retry_policy)
        for route in self.routed:
            if route.action.at("timeout").seconds != 0:
                self.note(route.action.at("timeout"), "answers take as long as they take: the route's timeout is left out")
            triggers = route.retry_policy.at("retry_on")
            if others := {each.strip() for each in triggers.text.split(",")} - {*OWN_TRIGGERS, ""}:
                self.note(triggers, f"retry_on {', '.join(sorted(others))} is left out: tried again is what nobody has begun")

    def _within(self, field: str, value: float, at: Node) -> float:
        """Return a limit, or the nearest that an intent may have."""
        schema = msgspec.json.schema(Limits)["$defs"]["Limits"]["properties"][field]
        nearest = min(max(value, schema["minimum"]), schema["maximum"])
        if nearest != value:
            self.note(at, f"limits.{field} is {nearest}, the nearest to {value} that an intent may have")
        return nearest


def _port(manager: Manager) -> int | None:
    port = manager.listener.at("address", "socket_address", "port_value").number
    return None if port is None else int(port)


def _retries(route: Route) -> int:
    policy = route.retry_policy
    number = policy.at("num_retries").number
    return 0 if not policy.at("retry_on").text else 1 if number is None else int(number)


def _without_pool(route: Route) -> str:
    """Return what a route is that leads to no cluster by name; nothing if an intent says the same without it."""
    match = route.node.at("match")
    is_last = match.at("prefix").text == "/" and len([*match.entries()]) == 1
    if route.action.at("cluster_header"):
        not_found = route.action.at("cluster_not_found_response_code").text == "NOT_FOUND"
        return "" if is_last and not_found else "a route to the cluster that a header names"
    if any(branch.clusters for branch in route.branches):
        return "a route to Envoy's own admin interface"
    if route.action:
        return "a route to no cluster that is named here"
    is_404 = route.node.at("direct_response", "status").number == 404  # an HTTP status
    return "" if is_last and is_404 else "a route that Envoy answers itself"


def _conditions(match: Node, models: dict[str, list[str]]) -> Iterator[tuple[Node, str]]:
    """Yield what a route is told by that an intent cannot tell by, and note the model if it is told by that."""
    for field, node in match.entries():
        if snake(field) not in MATCHES and not (snake(field) == "case_sensitive" and node.is_true):
            yield node, snake(field)
    if not any(match.at(field).text for field in ("prefix", "path", "path_separated_prefix")):
        yield match, "another match than path, path_separated_prefix or prefix"
    for matcher in match.at("headers").items():
        header = matcher.at("name").text.lower()
        exact = _exact(matcher.at("string_match")) or matcher.at("exact_match").text
        if not exact or models or matcher.at("invert_match").is_true or "model" not in header:
            yield matcher, f"the header {header}"
        else:
            models["baseModels" if header == BASE_MODEL else "models"] = [exact]
    for matcher in match.at("dynamic_metadata").items():
        path = [step.at("key").text for step in matcher.at("path").items()]
        exact = _exact(matcher.at("value", "string_match"))
        if not exact or models or matcher.at("invert").is_true or not path or "model" not in path[-1]:
            yield matcher, f"metadata {'.'.join(path)}"
        else:
            models["models"] = [exact]


def _exact(matcher: Node) -> str:
    return "" if matcher.at("ignore_case").is_true else matcher.at("exact").text


def _files(context: Node) -> dict[str, str]:
    """Return the files of the certificate that is shown."""
    certificate = context.at("tls_certificates").item(0)
    return {
        "certFile": certificate.at("certificate_chain", "filename").text,
        "keyFile": certificate.at("private_key", "filename").text,
    }


def _tls(server: Cluster) -> dict[str, Any]:
    if not server.tls:
        return {}
    context = server.tls.at("common_tls_context")
    files = _files(context) | {"caFile": context.at("validation_context", "trusted_ca", "filename").text}
    if files["caFile"]:
        names = [each.at("matcher", "exact").text for each in context.at(*SUBJECTS).items()]
        files["serverName"] = server.tls.at("sni").text or next(iter(names), "")
    return {"tls": {field: file for field, file in files.items() if file}}


def _generality(route: Route) -> int:
    """Return how general the host names of a route are."""
    return max((2 if host == "*" else 1 if "*" in host else 0 for host in route.host.at("domains").texts), default=0)


def _is_taken(route: Route, plain: dict[str, Any], taken: set[tuple[int, str]]) -> bool:
    """Say whether an earlier route of the same host takes all requests of this one, and remember what this one takes."""
    host, prefix = id(route.host.value), plain.get("prefix", "")
    if any(place == host and f"{prefix}/".startswith(f"{earlier}/") for place, earlier in taken):
        return True
    if "models" not in plain and "baseModels" not in plain:
        taken.add((host, prefix))
    return False


def _name(text: str, taken: Iterable[str]) -> str:
    """Return a name that an intent may have, and that nobody has."""
    name = NO_NAME.sub("-", text.lower())[:LONGEST_NAME].strip("-.") or "unnamed"
    taken = {*taken}
    others = (f"{name[: LONGEST_NAME - 4]}-{number}" for number in count(2))
    return next(each for each in chain([name], others) if each not in taken)
