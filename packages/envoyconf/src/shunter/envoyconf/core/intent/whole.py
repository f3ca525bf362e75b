"""All that a gateway in front of model servers needs to be told, checked as a whole."""

from collections.abc import Iterator
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.intent.control_plane import ControlPlane
from shunter.envoyconf.core.intent.hosts import meet
from shunter.envoyconf.core.intent.kubernetes import Kubernetes
from shunter.envoyconf.core.intent.limits import Limits
from shunter.envoyconf.core.intent.listening import Admin, Listener
from shunter.envoyconf.core.intent.parts import FailureMode, HeaderName, Part, Profile, check_unique
from shunter.envoyconf.core.intent.pools import BodyRouter, Pool
from shunter.envoyconf.core.intent.routes import Affinity, Route
from shunter.envoyconf.core.intent.security import Security
from shunter.envoyconf.core.intent.watching import Observability
from shunter.envoyconf.core.names import CLIENT, MODEL, OVERFLOW, PICKER_HEADERS
from shunter.envoyconf.errors import IntentError

__all__ = ["Intent"]

COLLECTOR_NEEDED = {
    Profile.USAGE: "token counts are told to the collector only",
    Profile.STRICT: "only the collector learns when a request ends",
    Profile.HEADERS: "only the collector learns when a request ends",
}


class Intent(Part, frozen=True, dict=True):  # with a place for what is computed once
    """All that a gateway in front of model servers needs to be told."""

    pools: Annotated[tuple[Pool, ...], Meta(min_length=1, description="Groups of interchangeable model servers.")]
    routes: Annotated[
        tuple[Route, ...],
        Meta(description="The first route that matches decides. May be left out if there is one pool: it takes everything."),
    ] = ()
    listeners: Annotated[
        tuple[Listener, ...],
        Meta(min_length=1, description="Where clients are served; one listener on 127.0.0.1:8080 if left out."),
    ] = (Listener(),)
    body_router: Annotated[
        BodyRouter | None,
        Meta(
            description="Who names each request's model, for routes with models or baseModels, in headers that engines see "
            "too. If left out, Envoy reads the model itself where a route asks for one.",
        ),
    ] = None
    model_header: Annotated[
        HeaderName | None,
        Meta(
            description="Header in which clients name the model. Routes with models go by it, and bodies are not read for it.",
        ),
    ] = None
    profile: Annotated[
        Profile | None,
        Meta(
            description=" ".join(f"{profile.value}: {profile.about}" for profile in Profile)
            + " A route may have a profile of its own. Left out: lean, or the nearest that a gateway can have.",
        ),
    ] = None
    limits: Annotated[Limits, Meta(description="Sizes, times and counts.")] = Limits()
    security: Annotated[Security, Meta(description="Who may send requests, and how many. By default everybody may.")] = (
        Security()
    )
    observability: Annotated[Observability, Meta(description="What Envoy tells about requests.")] = Observability()
    admin: Annotated[
        Admin | None,
        Meta(description="Envoy's admin interface. There is none if left out, since it can be used to stop Envoy."),
    ] = None
    control_plane: Annotated[ControlPlane, Meta(description="Who configures Envoys while they run, for the target xds.")] = (
        ControlPlane()
    )
    kubernetes: Annotated[Kubernetes, Meta(description="Namespace, names and images, for gateways in Kubernetes.")] = (
        Kubernetes()
    )

    def __post_init__(self) -> None:
        check_unique("listeners", (listener.name for listener in self.listeners))
        check_unique("pools", (pool.name for pool in self.pools))
        self._check_places()
        known = [pool.name for pool in self.pools]
        if not self.routes and len(known) > 1:
            raise IntentError(f"routes are missing: with several pools ({', '.join(known)}) say which requests go to which")
        for index, route in enumerate(self.routes):
            for place, share in enumerate(route.shares):
                if share.name not in known:
                    field = f"pools[{place}].name" if route.pools else "pool"
                    raise IntentError(f"routes[{index}].{field} {share.name!r} is not a pool; pools: {', '.join(known)}")
            if route.rewrites and self.profile_of(route) is Profile.NATIVE:
                raise IntentError(
                    f"routes[{index}].rewrites: only a picker puts another name into a body, and none is asked in the profile "
                    "native; choose another profile for this route"
                )
            if route.affinity != Affinity() and self.profile_of(route) is not Profile.NATIVE:
                raise IntentError(
                    f"routes[{index}].affinity counts in the profile native only, and this route has "
                    f"{self.profile_of(route).value}, in which the picker decides; leave it out, or choose native for the route"
                )
            if route.base_models and self.body_router is None:
                raise IntentError(
                    f"routes[{index}].baseModels: only a bodyRouter knows whose adapter a model is; add bodyRouter.addresses, "
                    "or list the models"
                )
            for earlier, wider in enumerate(self.routes[:index]):
                if wider.covers(route):
                    raise IntentError(
                        f"routes[{index}] ({route.prefix}) is never reached: routes[{earlier}] ({wider.prefix}) takes its "
                        "requests; put the one for fewer paths or models first",
                    )

        self._check_ways()
        self._check_hosts()
        if self.model_header and self.body_router:
            raise IntentError("modelHeader and bodyRouter both say where the model is; keep one")
        self._check_headers()

    def _check_places(self) -> None:
        """Raise IntentError if two are to listen at one place."""
        wanted: list[tuple[str, Listener | Admin]] = [
            (f"listeners[{index}]", each) for index, each in enumerate(self.listeners)
        ]
        wanted += [("admin", self.admin)] if self.admin else []
        taken: dict[tuple[IPv4Address | IPv6Address, int], str] = {}
        for field, each in wanted:
            other = taken.setdefault((ip_address(each.address), each.port), field) if each.port else field
            if other != field:
                raise IntentError(f"{field} would listen on port {each.port} of {each.address}, as {other} does already")

    def _check_headers(self) -> None:
        """Raise IntentError if something is looked for in a header that is never there when it is looked for.

        Picker headers are removed from what clients send. A route is chosen before it is known from whom a request is.
        """
        removed = {*PICKER_HEADERS, OVERFLOW}
        if self.model_header in removed - {MODEL}:
            raise IntentError(f"modelHeader {self.model_header!r} is a header that is never taken from clients; use another")
        removed -= {self.model_header}
        for index, limit in enumerate(self.security.rate_limits):
            if limit.by in removed:
                raise IntentError(
                    f"security.rateLimits[{index}].by {limit.by!r} is a header that is never taken from clients; use another"
                )
        removed |= {CLIENT, *self.security.taken} if self.security.knows_clients else set()
        for index, route in enumerate(self.routes):
            if route.affinity.header in removed:
                raise IntentError(
                    f"routes[{index}].affinity.header {route.affinity.header!r} is none that a client's request has when it "
                    "meets its route; let clients name their session in another one"
                )

    def _check_hosts(self) -> None:
        """Raise IntentError if a route is for hosts that nobody serves."""
        served = {host for listener in self.listeners for host in listener.hosts}
        for index, route in enumerate(self.routes):
            if route.hosts and not any(meet(host, other) for host in route.hosts for other in served):
                raise IntentError(
                    f"routes[{index}].hosts {list(route.hosts)}: listeners serve {', '.join(sorted(served))}, none of these; "
                    "add one to a listener's hosts"
                )

    def _check_ways(self) -> None:
        """Raise IntentError if a picker lacks what a profile stands on."""
        places = {pool.name: index for index, pool in enumerate(self.pools)}
        for pool, profile in self.ways:
            field = f"pools[{places[pool.name]}].picker"
            if profile.asks and not pool.picker.addresses and not pool.selector:
                raise IntentError(
                    f"{field}.addresses is missing: give host:port of the picker's workers, or choose the profile native, "
                    "which asks none",
                )
            if profile in COLLECTOR_NEEDED and pool.picker.collector is None:
                raise IntentError(
                    f"{field}.collector is missing: in the profile {profile.value} {COLLECTOR_NEEDED[profile]}; give host:port "
                    "of the picker's --collector-port, or choose the profile lean",
                )
            if profile is Profile.STRICT and pool.picker.failure_mode is not FailureMode.CLOSE:
                raise IntentError(
                    f"{field}.failureMode must be FailClose in the profile strict, where nothing goes without a pick; "
                    "for FailOpen choose the profile lean",
                )

        for index, fields in self._key_fields:
            if fields != self.key_fields:
                raise IntentError(
                    f"routes[{index}].affinity.body {list(fields)} is not that of an earlier route, {list(self.key_fields)}: "
                    "Envoy looks for keys in one list of fields; give both the same, or [] where bodies need not be read"
                )

    @property
    def ways(self) -> tuple[tuple[Pool, Profile], ...]:
        """Each pool with each profile in which a route leads to it, in the order of the pools, then of the profiles."""
        return tuple((pool, profile) for pool in self.pools for profile in self._profiles[pool.name])

    def profile_of(self, route: Route) -> Profile:
        """Return how picker and Envoy share the work for a route's requests."""
        return route.profile or self.profile or Profile.LEAN

    def profiles_of(self, pool: Pool) -> tuple[Profile, ...]:
        """Return how picker and Envoy share the work for a pool's requests, one profile a way that leads there."""
        return self._profiles[pool.name]

    def pools_of(self, route: Route) -> list[Pool]:
        """Return the pools that a route leads to, in the order of its shares."""
        return [self._pools[share.name] for share in route.shares]

    @cached_property
    def _pools(self) -> dict[str, Pool]:
        return {pool.name: pool for pool in self.pools}

    @cached_property
    def _profiles(self) -> dict[str, tuple[Profile, ...]]:
        wanted = {(share.name, self.profile_of(route)) for route in self.effective_routes for share in route.shares}
        return {name: tuple(profile for profile in Profile if (name, profile) in wanted) for name in self._pools}

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The fields of a body in which routes of the profile native look for a key, all of them in the same."""
        return next((fields for _, fields in self._key_fields), ())

    @property
    def _key_fields(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        for index, route in enumerate(self.effective_routes):
            if route.affinity.body and self.profile_of(route) is Profile.NATIVE:
                yield index, route.affinity.body

    @cached_property
    def by_model(self) -> bool:
        """Whether the route depends on the model."""
        return self.body_router is not None or any(route.by_model for route in self.routes)

    @property
    def reads_model(self) -> bool:
        """Whether it does, and the model stands in the body: then no request's route is known when its headers come."""
        return self.by_model and self.model_header is None

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The routes, or the one that is meant if there are none."""
        return self.routes or (Route(pool=self.pools[0].name),)
