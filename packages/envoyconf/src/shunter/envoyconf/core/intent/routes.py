"""Which requests go where: by host, path and model, to one pool or to several by weight."""

import re
from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.intent.hosts import ANY_HOST
from shunter.envoyconf.core.intent.parts import CookieName, HeaderName, HostPattern, Name, Part, Profile, Text, check_unique
from shunter.envoyconf.errors import IntentError

__all__ = ["Affinity", "Rewrite", "Route", "Share"]

# Segments as RFC 3986, section 3.3 has them. None is . or .., nor has it an escaped slash: Envoy resolves those before it
# compares, and Gateway API refuses them.
PATH_PREFIX = re.compile(r"/|(/(?!\.{1,2}(/|\Z))([-A-Za-z0-9._~!$&'()*+,;=:@]|%(?!2[Ff])[0-9A-Fa-f]{2})+)+")

Weight = Annotated[int, Meta(ge=0, le=1_000_000)]


class Share(Part, frozen=True):
    """A pool and how much of a route's traffic it gets."""

    name: Annotated[Name, Meta(description="Name of the pool.")]
    weight: Annotated[Weight, Meta(description="Its part, of the sum of all weights.")] = 1


class Rewrite(Part, frozen=True):
    """A model name that the pool knows, and how much of a route's traffic gets it."""

    model: Annotated[Text, Meta(description="Name of the model or adapter as the model servers know it.")]
    weight: Annotated[Weight, Meta(description="Its part, of the sum of all weights.")] = 1


class Affinity(Part, frozen=True):
    """Where the key is that requests of one session share. The first that is there counts: header, cookie, then body."""

    header: Annotated[HeaderName | None, Meta(description="Name of a header with the key, such as x-session-id.")] = None
    cookie: Annotated[CookieName | None, Meta(description="Name of a cookie with the key.")] = None
    body: Annotated[
        tuple[Text, ...],
        Meta(
            description="Fields at the top of a JSON body, the first that is there counts. None: bodies are not read, which is "
            "cheaper.",
        ),
    ] = ("prompt_cache_key", "user")


class Route(Part, frozen=True):
    """Which requests go to which pool."""

    pool: Annotated[Name | None, Meta(description="Name of the pool, if it is one.")] = None
    pools: Annotated[
        tuple[Share, ...],
        Meta(description="Pools among which requests are divided by weight, each with its own picker; instead of pool."),
    ] = ()
    hosts: Annotated[
        tuple[HostPattern, ...],
        Meta(description="Host names whose requests go here; those of all listeners if there are none."),
    ] = ()
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

    rewrites: Annotated[
        tuple[Rewrite, ...],
        Meta(
            description="Under which names the pool serves the models of this route, by weight: how an adapter's next version "
            "is rolled out. The picker puts the name into the body; it is told by an InferenceModelRewrite, which is among "
            "what is generated.",
        ),
    ] = ()
    profile: Annotated[
        Profile | None,
        Meta(description="How picker and Envoy share the work for these requests; as the intent's profile says if left out."),
    ] = None
    affinity: Annotated[
        Affinity,
        Meta(description="In the profile native: which requests belong together and go to one model server."),
    ] = Affinity()

    def __post_init__(self) -> None:
        if (self.pool is None) == (not self.pools):
            raise IntentError("pool is missing" if self.pool is None else "pool and pools are both given; keep one")
        check_unique("pools", (share.name for share in self.pools))
        if self.pools and not any(share.weight for share in self.pools):
            raise IntentError("pools have no weight at all: at least one must be above 0")
        if self.rewrites and not self.models:
            raise IntentError("rewrites need models: say which names of the clients' are rewritten")
        if self.rewrites and not any(each.weight for each in self.rewrites):
            raise IntentError("rewrites have no weight at all: at least one must be above 0")
        if not PATH_PREFIX.fullmatch(self.prefix):
            raise IntentError(
                f"prefix {self.prefix!r} must be / or begin with / and not end with it, such as /v1; in the characters of a "
                "path (others as %XX), and no segment empty, . or .."
            )

    @property
    def by_model(self) -> bool:
        """Whether it is for some models only."""
        return bool(self.models or self.base_models)

    @property
    def shares(self) -> tuple[Share, ...]:
        """The pools it leads to, with their weights; the only one weighs 1."""
        return self.pools or (Share(name=self.pool or ""),)

    def covers(self, other: "Route") -> bool:
        """Say whether this route matches whatever the other one does."""
        if not {*(other.hosts or (ANY_HOST,))} <= {*(self.hosts or (ANY_HOST,))}:  # else the more exact host goes first
            return False
        if not (self.prefix == "/" or f"{other.prefix}/".startswith(f"{self.prefix}/")):
            return False
        if not self.by_model:
            return True
        return other.by_model and {*other.models} <= {*self.models} and {*other.base_models} <= {*self.base_models}
