"""What an operator wants of the gateway, as values: listeners, routes, pools with their pickers, and a few limits.

::

    listeners ── routes ──> pools ──> endpoints
                              └─────> picker

Everything has a default but the pools. A field says in its description what it is for and what happens without it;
``shunter envoyconf schema`` prints all of that as a JSON Schema. A struct refuses what its types cannot express, whether it
comes from a file or from Python.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from shunter.envoyconf.core.authority import check_address, check_authorities, check_host, split_authority
from shunter.envoyconf.errors import IntentError

__all__ = [
    "LONGEST_QUEUE_SECONDS",
    "Admin",
    "BodyRouter",
    "FailureMode",
    "Intent",
    "Limits",
    "Listener",
    "Observability",
    "Picker",
    "PickerTls",
    "Pool",
    "Profile",
    "Route",
]

# `$` alone lets a final newline through.
END = r"$(?!\n)"

# What Kubernetes allows as a name, and harmless inside Envoy's statistics.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?" + END)]
Text = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]

# Envoy counts in milliseconds and refuses to wait for an ext_proc message longer than an hour.
Seconds = Annotated[float, Meta(ge=0.001, le=3600)]

# What Envoy buffers per connection in any case; measured, it enforces no smaller limit of a route.
SMALLEST_BODY_LIMIT = 1 << 20

PATH_PREFIX = re.compile(r"/|(/[^\s/?#]+)+")


def check_unique(field: str, names: Iterable[str]) -> None:
    """Raise IntentError if a name is there twice."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            raise IntentError(f"{field}[{index}].name {name!r} is the name of {field}[{seen[name]}] already")
        seen[name] = index


class Profile(Enum):
    """How the picker and Envoy share the work."""

    LEAN = "lean"
    USAGE = "usage"
    STRICT = "strict"
    FULL = "full"


class FailureMode(Enum):
    """What becomes of a request whose picker does not answer. The words are those of GIE's InferencePool."""

    OPEN = "FailOpen"
    CLOSE = "FailClose"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Base of every part of an intent."""


class Listener(Part, frozen=True):
    """An address and port where clients are served."""

    name: Annotated[Name, Meta(description="Name of the listener and of its statistics.")] = "http"
    address: Annotated[str, Meta(description="IP address to bind, such as 127.0.0.1, 0.0.0.0 or ::.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port to bind, 1 to 65535; 0 lets the kernel choose a free one.")] = 8080

    def __post_init__(self) -> None:
        check_address(self.address)


class PickerTls(Part, frozen=True):
    """How Envoy speaks TLS to a picker. Envoy reads the files when it starts; paths are those of its machine."""

    ca_file: Annotated[
        Text | None,
        Meta(
            description="PEM file of the CAs by one of which the picker's certificate must be signed. Without it any "
            "certificate will do: nobody can listen in, but anybody could be the picker.",
        ),
    ] = None
    cert_file: Annotated[
        Text | None,
        Meta(description="PEM file of the certificate that Envoy shows to a picker which asks for one."),
    ] = None
    key_file: Annotated[Text | None, Meta(description="PEM file of its key.")] = None
    server_name: Annotated[
        Text | None,
        Meta(
            description="Name or IP address that must be in the picker's certificate, if caFile is given; a name is also what "
            "Envoy asks for (SNI). Without it any certificate of those CAs will do.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            given, missing = ("certFile", "keyFile") if self.cert_file else ("keyFile", "certFile")
            raise IntentError(f"{missing} is missing: {given} is of no use without it")
        if self.server_name is not None:
            check_host("serverName", self.server_name)


class Picker(Part, frozen=True):
    """The endpoint picker of a pool: ext_proc servers that can answer for each other."""

    addresses: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="host:port of every picker worker, such as 127.0.0.1:9002 or [::1]:9002."),
    ]
    failure_mode: Annotated[
        FailureMode,
        Meta(
            description="FailOpen: without an answer from the picker, Envoy's own load balancing chooses. FailClose: the "
            "client gets an error, and a picker that dies takes the streams it watches with it. In the profile full a picker "
            "that dies fails those in both modes, and requests of which it was sent the first part: Envoy gave them away.",
        ),
    ] = FailureMode.OPEN
    collector: Annotated[
        str | None,
        Meta(
            description="host:port of the picker's collector (its --collector-port), which is told of every request of the "
            "pool: status, first byte, duration, who served, tokens in the profile usage; and every second of those that "
            "last. Required in the profiles usage and strict; without it nobody is told.",
        ),
    ] = None

    tls: Annotated[
        PickerTls | None,
        Meta(description="TLS to the picker's workers; without it Envoy speaks to them in the clear. {} trusts anybody."),
    ] = None

    def __post_init__(self) -> None:
        check_authorities("addresses", self.addresses)
        if self.collector is not None:
            try:
                split_authority(self.collector)
            except IntentError as error:
                raise IntentError(f"collector {error}") from None


class BodyRouter(Part, frozen=True):
    """Who reads the model out of each request's body, so that routes can go by it (`shunter picker run --role body-router`)."""

    addresses: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="host:port of every worker of the body router, such as 127.0.0.1:9004."),
    ]
    tls: Annotated[
        PickerTls | None,
        Meta(description="TLS to its workers; without it Envoy speaks to them in the clear. {} trusts anybody."),
    ] = None

    def __post_init__(self) -> None:
        check_authorities("addresses", self.addresses)


class Pool(Part, frozen=True):
    """Model servers that can take each other's requests, and the picker that knows which one should."""

    name: Annotated[Name, Meta(description="Name of the pool; its cluster in Envoy is called pool/<name>.")]
    endpoints: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="host:port of every model server, such as 10.0.0.7:8000, [fd00::7]:8000 or vllm.llm.svc:8000. "
            "A host name stands for all addresses it resolves to. The picker can choose among these only.",
        ),
    ]
    picker: Annotated[Picker, Meta(description="The endpoint picker that chooses among the endpoints.")]
    inference_pool: Annotated[
        Text | None,
        Meta(
            description="Which InferencePool a picker that serves several is to choose from: its name, or namespace/name. "
            "Without it the picker is not told, and chooses among all it serves.",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_authorities("endpoints", self.endpoints)


class Route(Part, frozen=True):
    """Which requests go to which pool."""

    pool: Annotated[Name, Meta(description="Name of the pool.")]
    prefix: Annotated[
        str,
        Meta(description="Whole segments of the path: /v1 matches /v1 and /v1/models but not /v1x; / matches everything."),
    ] = "/"

    models: Annotated[
        tuple[Text, ...],
        Meta(
            description="Names of the models whose requests go here; all models if there are none. Envoy reads them out of "
            "JSON bodies itself, or leaves that to bodyRouter if there is one.",
        ),
    ] = ()
    base_models: Annotated[
        tuple[Text, ...],
        Meta(
            description="Names of base models: they and their adapters go here. Needs bodyRouter, who knows whose they are.",
        ),
    ] = ()

    def __post_init__(self) -> None:
        if not PATH_PREFIX.fullmatch(self.prefix):
            raise IntentError(f"prefix {self.prefix!r} must be / or begin with / and not end with it, such as /v1")

    @property
    def by_model(self) -> bool:
        """Whether it is for some models only."""
        return bool(self.models or self.base_models)

    def covers(self, other: "Route") -> bool:
        """Say whether this route matches whatever the other one does."""
        if not (self.prefix == "/" or f"{other.prefix}/".startswith(f"{self.prefix}/")):
            return False
        if not self.by_model:
            return True
        return other.by_model and {*other.models} <= {*self.models} and {*other.base_models} <= {*self.base_models}


# Envoy waits an hour for a message at most, and the picker asks for a second more than a request may wait.
LONGEST_QUEUE_SECONDS = 3598


class Limits(Part, frozen=True):
    """Sizes, times and counts."""

    body_bytes: Annotated[
        int,
        Meta(
            ge=SMALLEST_BODY_LIMIT,
            le=1 << 30,
            description="Largest request body that is buffered. In the profiles lean and usage a larger one is answered 413; "
            "in strict and full it passes, but cannot be tried again elsewhere. Give the picker the same number.",
        ),
    ] = 32 << 20
    connect_timeout_seconds: Annotated[Seconds, Meta(description="Longest time to connect to a model server or picker.")] = 2
    idle_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="Longest silence on a request. Must exceed the longest generation that is not streamed. In the "
            "profiles strict and full it is also what ends a request whose picker hangs, after twice this time.",
        ),
    ] = 300
    pick_timeout_seconds: Annotated[
        Seconds,
        Meta(description="Longest wait for the picker. Strict and full have no such limit: Envoy does not enforce it there."),
    ] = 1
    queue_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=LONGEST_QUEUE_SECONDS,
            description="Longest time that the picker's flow control lets a request wait, 0 without flow control: the longest "
            "of its defaultRequestTTL (each band's too) and noEndpointRequestTTL. The picker asks for all of it at once; asked "
            "for more than this Envoy grants nothing, and goes on after pickTimeoutSeconds without a pick. Must be below "
            "idleTimeoutSeconds.",
        ),
    ] = 0
    retries: Annotated[
        int,
        Meta(ge=0, le=10, description="How often a request that no model server has taken is tried again on the next choice."),
    ] = 2

    def __post_init__(self) -> None:
        if self.queue_seconds >= self.idle_timeout_seconds:
            raise IntentError(
                f"queueSeconds {self.queue_seconds:g} is not below idleTimeoutSeconds {self.idle_timeout_seconds:g}, after "
                "which Envoy gives up on a request that waits; raise the latter, or let the picker's requests wait less long",
            )


class Observability(Part, frozen=True):
    """What Envoy tells about requests."""

    access_log: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where one line of JSON per request goes: stdout, none, or the path of a file. Envoy writes a file "
            "every 10 s unless it is started with --file-flush-interval-msec.",
        ),
    ] = "stdout"
    served_header: Annotated[
        bool,
        Meta(
            description="Whether responses carry x-gateway-destination-endpoint-served, the address of the model server that "
            "answered. Off unless asked for: it shows internal addresses to clients.",
        ),
    ] = False


class Admin(Part, frozen=True):
    """Envoy's admin interface: statistics, configuration, log levels, and a switch to turn Envoy off."""

    port: Annotated[Port, Meta(description="TCP port to bind, 1 to 65535; 0 lets the kernel choose a free one.")]
    address: Annotated[
        str,
        Meta(
            description="IP address to bind. Whoever reaches it can stop Envoy; therefore beyond loopback only /ready and "
            "/stats/prometheus are served.",
        ),
    ] = "127.0.0.1"

    def __post_init__(self) -> None:
        check_address(self.address)


class Intent(Part, frozen=True):
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
    profile: Annotated[
        Profile,
        Meta(
            description="lean: the picker sees requests only; a picker that dies costs nobody anything. usage: as lean, and "
            "Envoy reads the token counts out of responses (needs Envoy 1.38). strict: as lean, but no request goes anywhere "
            "without a pick (needs failureMode FailClose). full: the picker sees every byte both ways, as GIE demands; a "
            "picker that dies cuts the streams it carries (needs Envoy 1.38).",
        ),
    ] = Profile.LEAN
    limits: Annotated[Limits, Meta(description="Sizes, times and counts.")] = Limits()
    observability: Annotated[Observability, Meta(description="What Envoy tells about requests.")] = Observability()
    admin: Annotated[
        Admin | None,
        Meta(description="Envoy's admin interface. There is none if left out, since it can be used to stop Envoy."),
    ] = None

    def __post_init__(self) -> None:
        check_unique("listeners", (listener.name for listener in self.listeners))
        check_unique("pools", (pool.name for pool in self.pools))
        self._check_places()
        self._check_profile()
        known = [pool.name for pool in self.pools]
        if not self.routes and len(known) > 1:
            raise IntentError(f"routes are missing: with several pools ({', '.join(known)}) say which requests go to which")
        for index, route in enumerate(self.routes):
            if route.pool not in known:
                raise IntentError(f"routes[{index}].pool {route.pool!r} is not a pool; pools: {', '.join(known)}")
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

    def _check_places(self) -> None:
        """Raise IntentError if two are to listen at one place."""
        wanted = [(f"listeners[{index}]", listener.address, listener.port) for index, listener in enumerate(self.listeners)]
        wanted += [("admin", self.admin.address, self.admin.port)] if self.admin else []
        taken: dict[tuple[str, int], str] = {}
        for field, address, port in wanted:
            other = taken.setdefault((address, port), field) if port else field
            if other != field:
                raise IntentError(f"{field} would listen on port {port} of {address}, as {other} does already")

    def _check_profile(self) -> None:
        """Raise IntentError if a picker lacks what the profile stands on."""
        for index, pool in enumerate(self.pools):
            field = f"pools[{index}].picker"
            if self.profile in {Profile.USAGE, Profile.STRICT} and pool.picker.collector is None:
                why = {
                    Profile.USAGE: "token counts are told to the collector only",
                    Profile.STRICT: "only the collector learns when a request ends",
                }[self.profile]
                raise IntentError(
                    f"{field}.collector is missing: in the profile {self.profile.value} {why}; give host:port of the picker's "
                    "--collector-port, or choose the profile lean",
                )
            if self.profile is Profile.STRICT and pool.picker.failure_mode is not FailureMode.CLOSE:
                raise IntentError(
                    f"{field}.failureMode must be FailClose in the profile strict, where nothing goes without a pick; "
                    "for FailOpen choose the profile lean",
                )

    @property
    def by_model(self) -> bool:
        """Whether the route depends on the model."""
        return self.body_router is not None or any(route.by_model for route in self.routes)

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The routes, or the one that is meant if there are none."""
        return self.routes or (Route(pool=self.pools[0].name),)
