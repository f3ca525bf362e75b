"""What a rollout is to do: the file that ``shunter rollout start -f`` reads.

::

    kind: Rollout
    name: food-review-v2
    model: food-review                 # what clients ask for
    from: {model: food-review-v1}
    to: {model: food-review-v2, source: /adapters/food-review-v2}
    pool: llama                        # whose endpoints need it; by default all
    traffic: {rewriteFile: cluster/food-review.yaml}
    pickers: [http://127.0.0.1:9090]
    steps: [1, 10, {percent: 50, pause: 5m}, 100]
    pause: 60s
    analysis: {minRequests: 100, errorRate: 2%, latency: 1.5}

A side with a ``source`` is an adapter: it is loaded where it is missing, and the one that loses its traffic is unloaded at the
end, unless ``keep`` says otherwise. Without a source it is a model that is there.

Traffic is moved by one of these: ``rewriteFile``, a file with an InferenceModelRewrite that a scraper reads; ``rewrite``, such
a resource in Kubernetes; ``httpRoute``, the weights of two InferencePools in an HTTPRoute in Kubernetes (then both sides say
their ``pool``, and perhaps their ``pickers``).

Two steps are enough for a canary that waits for a person (``[5, 100]`` and ``shunter rollout pause``); one, ``[100]``, is
blue-green.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from shunter.rollout.core.desired import Adapter, Id
from shunter.rollout.core.documents import read_document
from shunter.rollout.errors import ConfigError

__all__ = ["Analysis", "Rollout", "Side", "Stage", "Traffic", "check_url", "fraction_of", "read_rollout", "seconds_of"]

# A DNS label, since it names objects in Kubernetes, and files.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")]
Url = Annotated[str, Meta(pattern=r"^https?://[^/\s]+/?$")]
Percent = Annotated[int, Meta(ge=1, le=100)]
Duration = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)?$")]
Fraction = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?%?$")]

UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of everything in the file."""


class Side(Part, frozen=True):
    """The version that had the traffic, or the one that is to have it.

    ``model`` is what engines are asked for; ``adapter`` is what they load and list, if they call that something else (SGLang:
    ``llama:food-review-v2`` is asked for, ``food-review-v2`` is loaded).
    """

    model: str = ""
    adapter: Id | Literal[""] = ""
    source: str = ""
    base_model: str = ""
    pool: str = ""
    pickers: tuple[Url, ...] = ()
    keep: bool = False

    @property
    def listed(self) -> str:
        """What engines list it as; empty for one that is told apart by its pool."""
        return self.adapter or self.model

    @property
    def load(self) -> Adapter | None:
        """What is to be loaded, if it can be."""
        return Adapter(self.listed, self.source, self.base_model) if self.source else None

    @property
    def title(self) -> str:
        """What people call it."""
        return self.model or self.pool


class Stage(Part, frozen=True):
    """A step: the new side's share, and how long it stays so at least (empty: ``pause``)."""

    percent: Percent
    pause: Duration | Literal[""] = ""


class Analysis(Part, frozen=True):
    """When the new side is worse, judged on ``minRequests`` or more of a step.

    That is: a rate of errors higher than the old one's by ``errorRate``, or a time to first token, at ``quantile``, of more
    than ``latency`` times the old one's, or of whole answers of more than ``duration`` times.
    """

    min_requests: Annotated[int, Meta(ge=1)] = 100
    error_rate: Fraction = "2%"
    latency: Annotated[float, Meta(gt=1)] | None = 1.5
    duration: Annotated[float, Meta(gt=1)] | None = 3.0
    quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    on_failure: Literal["rollback", "halt"] = "rollback"


class Traffic(Part, frozen=True):
    """Where the weights are. ``api_version`` is the group of the InferenceModelRewrite that is installed.

    Who says the same in the header ``sticky`` gets the same version, and stays with the new one once it was there.
    """

    rewrite_file: str = ""
    rewrite: Name | Literal[""] = ""
    http_route: Name | Literal[""] = ""
    sticky: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]*$")] = ""
    namespace: Name = "default"
    api_version: Literal["llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2"] = "llm-d.ai/v1alpha2"


class Rollout(Part, frozen=True, kw_only=True):
    """The whole file."""

    kind: Literal["Rollout"]
    name: Name
    model: Id | Literal[""] = ""
    from_: Side = msgspec.field(name="from")
    to: Side
    pool: str = ""
    traffic: Traffic
    pickers: tuple[Url, ...] = ()
    steps: tuple[Percent | Stage, ...] = (1, 10, 50, 100)
    pause: Duration = "60s"
    deadline: Duration = "10m"
    analysis: Analysis | None = Analysis()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The steps, each as a Stage."""
        return tuple(Stage(each) if isinstance(each, int) else each for each in self.steps)

    def pickers_of(self, side: Side) -> tuple[str, ...]:
        """Who counts the requests of a side."""
        return side.pickers or self.pickers

    def pool_of(self, side: Side) -> str:
        """Whose endpoints serve a side; empty: everybody."""
        return side.pool or self.pool


def read_rollout(name: str, text: bytes) -> Rollout:
    """Return what the file called ``name`` asks for; raises ConfigError."""
    rollout = read_document(name, text, Rollout)
    try:
        check(rollout)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return rollout


def check(rollout: Rollout) -> None:
    """Raise ConfigError for what each field allows and all together do not."""
    traffic, sides = rollout.traffic, {"from": rollout.from_, "to": rollout.to}
    places = {"rewriteFile": traffic.rewrite_file, "rewrite": traffic.rewrite, "httpRoute": traffic.http_route}
    given = [field for field, value in places.items() if value]
    if len(given) != 1:
        raise ConfigError(f"$.traffic: give one of rewriteFile, rewrite and httpRoute, found {', '.join(given) or 'none'}")
    if traffic.sticky and traffic.http_route:
        raise ConfigError(
            "$.traffic.sticky: a header that keeps clients together is for a rewrite; the gateway splits an httpRoute"
        )
    needed = "pool" if traffic.http_route else "model"
    for field, side in sides.items():
        if not getattr(side, needed):
            raise ConfigError(f"$.{field}.{needed}: $.traffic.{given[0]} moves traffic between {needed}s: say which")
        if side.source and not side.model:
            raise ConfigError(f"$.{field}.model: say what the adapter from {side.source} is called")
        for url in rollout.pickers_of(side):
            check_url("$.pickers", url)
        if not rollout.pickers_of(side):
            raise ConfigError(f"$.pickers: they tell where {side.title} is and how it does, such as http://127.0.0.1:9090")
    if getattr(rollout.from_, needed) == getattr(rollout.to, needed):
        raise ConfigError(f"$.to.{needed}: it is {getattr(rollout.to, needed)!r}, which $.from.{needed} is too")
    if traffic.http_route:
        _check_counts(rollout)
    else:
        _check_rewrite(rollout)
    if rollout.model and rollout.model in (rollout.from_.model, rollout.to.model) and rollout.to.source:
        raise ConfigError(f"$.model: {rollout.model!r} names a version; clients need a name that stays, such as food-review")
    percents = [stage.percent for stage in rollout.stages]
    if not percents or percents != sorted(set(percents)) or percents[-1] != 100:
        raise ConfigError(f"$.steps: percents rise and end at 100, found {percents}")


def check_url(place: str, url: str) -> None:
    """Raise ConfigError, which begins with the place, unless it is a URL that can be asked."""
    try:
        parts = urlsplit(url)
        why = "" if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 else "no URL of a server"
    except ValueError as error:
        why = str(error)
    if why:
        raise ConfigError(f"{place}: {url}: {why}; it is such as http://127.0.0.1:9090")


def _check_rewrite(rollout: Rollout) -> None:
    """Raise ConfigError for a rewrite that nobody would go by; its pool is one of its own namespace."""
    namespace, _, pool = rollout.pool.rpartition("/")
    if not rollout.model:
        raise ConfigError("$.model: say what clients ask for")
    if rollout.traffic.rewrite and not pool:
        raise ConfigError("$.pool: an InferenceModelRewrite is of one InferencePool: say which")
    if namespace not in ("", rollout.traffic.namespace):
        raise ConfigError(
            f"$.traffic.namespace: it is {rollout.traffic.namespace!r}, but a rewrite has to be where its pool is: {namespace}"
        )


def _check_counts(rollout: Rollout) -> None:
    """Raise ConfigError if what pickers count of two pools cannot be told apart."""
    both = set(rollout.pickers_of(rollout.from_)) & set(rollout.pickers_of(rollout.to))
    if rollout.analysis and both and rollout.from_.model == rollout.to.model:
        raise ConfigError(
            f"$.pickers: {min(both)} counts the requests of both pools together: "
            "give each side pickers of its own, or a model, or go by the clock alone with analysis: null"
        )


def seconds_of(duration: str) -> float:
    """Return a Duration such as 500ms, 60s, 5m or 1h in seconds."""
    number = duration.rstrip("smh")
    return float(number) * UNITS_S[duration[len(number) :]]


def fraction_of(text: str) -> float:
    """Return a Fraction such as 2% or 0.02 as a number."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
