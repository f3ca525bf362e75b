"""Session affinity: later requests of a session go where its first one went, as a filter or as a scorer.

Two ways lead there. A *token* travels with the client: the response names the endpoint, the next request shows that again, and
nobody has to remember anything. A session's *id* is remembered with its endpoint, by all workers, until it is not used for a
while.
"""

from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import xxhash
from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import ResponseHeader
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Part, Plugin, Reference, register
from shunter.picker.plugins.identities import ATTRIBUTES, SESSION_HEADER
from shunter.snapshot import Endpoint

__all__ = ["SessionAffinity", "SessionAffinityFilter", "SessionAffinityScorer"]

# A namespace has 63 characters, a pod's name 253: in Base64 423 of them. What is longer is no token.
LONGEST_TOKEN = 512

# For good, as far as anybody can tell: 30 years.
LONGEST_S = 1e9

# Of ids, which clients make up, this many are remembered: about 300 bytes each.
MOST_SESSIONS = 50_000

# Other workers are told of a session's use when this part of its time to live has gone by, not with every request.
TOLD_AFTER = 1 / 8


class TokenConfig(Part, frozen=True):
    """Where the token travels."""

    header: str = "x-session-token"


class Source(Part, frozen=True):
    """Where a session's id stands: in a header, or in what a producer found out.

    Without ``producer`` the attribute names it: by its name or its type, or by what the reference calls that which it finds.
    """

    header: str = ""
    attribute: str = ""
    producer: str = ""

    def __post_init__(self) -> None:
        """Refuse neither and both."""
        if bool(self.header) == bool(self.attribute):
            raise ValueError("a source has either a header or an attribute")

    def read(self, request: Request) -> str | None:
        """Return the id, if there is one."""
        if self.header:
            return request.headers.get(self.header.lower())
        found = request.facts.get(self.producer or self.attribute)
        return found if isinstance(found, str) else None


class IdConfig(Part, frozen=True):
    """Which ids there are and how long they are remembered without use."""

    sources: tuple[Source, ...] = (Source(header=SESSION_HEADER),)
    eviction_ttl_seconds: Annotated[float, Meta(gt=0, le=LONGEST_S)] = 300.0
    eviction_sweep_seconds: Annotated[float, Meta(gt=0)] = 10.0  # without effect: what has expired is forgotten at once


class SessionAffinity(Plugin, frozen=True):
    """The parameters of both."""

    strategy: Literal["encoded_endpoint_header", "session_id"] = "encoded_endpoint_header"
    encoded_endpoint_header_config: TokenConfig = TokenConfig()
    session_id_config: IdConfig = IdConfig()
    profile_name: str = ""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("sessionIdConfig.sources[].producer", Kind.PRODUCER, told_by="attribute", words=ATTRIBUTES),
    )

    @property
    def profile_names(self) -> Sequence[str]:
        """The one whose choice is meant, if it is told."""
        return (self.profile_name,) if self.profile_name else ()

    @property
    def needs(self) -> Sequence[str]:
        """A token goes with the response."""
        return ("headers",) if self.strategy == "encoded_endpoint_header" else ()

    def start(self, setting: Setting) -> "ByToken | ById":
        """Return the plugin at work."""
        return ById(self, setting) if self.strategy == "session_id" else ByToken(self)


@register("session-affinity-filter", Kind.FILTER)
class SessionAffinityFilter(SessionAffinity, frozen=True):
    """Keeps the endpoint of the request's session; everybody if it has none, or none that is a candidate.

    Strategy ``encoded_endpoint_header``: the token is the Base64 of ``namespace/name`` in the header that
    encodedEndpointHeaderConfig names; every response gets the one of its endpoint, the one that served if the gateway tells. It
    needs a profile that shows the picker responses' headers. Strategy ``session_id``: the first source that has an id; it is
    bound to the endpoint of its first request, and to another one only if that is not a candidate any more.

    profileName says whose choice is meant: the profile that names the endpoint, unless told otherwise.
    Source: llm-d's plugin of that name.
    """


@register("session-affinity-scorer", Kind.SCORER)
class SessionAffinityScorer(SessionAffinity, frozen=True):
    """1 for the endpoint of the request's session, 0 for the others; see session-affinity-filter for its parameters.

    Source: llm-d's plugin of that name.
    """


class Affinity:
    """What both strategies make of the endpoint that they find."""

    def find(self, request: Request, fleet: Fleet) -> int | None:
        """Return the position of the session's endpoint, if it has one that is a candidate."""
        raise NotImplementedError

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        at = self.find(request, fleet)
        return range(len(fleet)) if at is None else [at]

    def score(self, request: Request, fleet: Fleet) -> Mapping[int, float]:
        """Score the session's endpoint."""
        at = self.find(request, fleet)
        return {} if at is None else {at: 1.0}


class ByToken(Affinity):
    """The client remembers."""

    def __init__(self, parameters: SessionAffinity) -> None:
        """Keep nothing but these."""
        self._header = parameters.encoded_endpoint_header_config.header.lower()
        self._profile = parameters.profile_name

    def find(self, request: Request, fleet: Fleet) -> int | None:
        """Return the position of the endpoint that the token names, if it is a candidate."""
        place = read_token(request.headers.get(self._header, ""))
        if place is None:
            return None
        return next((at for at, each in enumerate(fleet.endpoints) if (each.namespace, each.name) == place), None)

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[ResponseHeader]]:  # noqa: ARG002
        """Tell the client who serves it."""
        decision = verdict.of(self._profile)
        if decision is None or not decision.chosen:
            return (), ()
        chosen = [decision.candidates[at] for at in decision.chosen]
        if decision is verdict.decision:
            return (), ((self._header, {each.authority: write_token(each) for each in chosen}),)
        return (), ((self._header, write_token(chosen[0])),)


class Binding(msgspec.Struct, array_like=True):
    """Where a session is; also what workers tell each other of it."""

    session: bytes
    slot: int
    incarnation: int
    used_ns: int


_binding = msgspec.msgpack.Decoder(Binding).decode


class ById(Affinity):
    """The picker remembers. Times are the requests'."""

    def __init__(self, parameters: SessionAffinity, setting: Setting) -> None:
        """Remember no session yet."""
        config = parameters.session_id_config
        self._sources = config.sources
        self._life_ns = int(config.eviction_ttl_seconds * 1e9)
        self._profile = parameters.profile_name
        self._tell = setting.tell
        self._bound: OrderedDict[bytes, Binding] = OrderedDict()  # least recently used first
        self._told_ns: dict[bytes, int] = {}

    def find(self, request: Request, fleet: Fleet) -> int | None:
        """Return the position of the endpoint that the session is bound to, if it is a candidate."""
        session = self._session(request)
        binding = self._binding(session, request.at_ns) if session is not None else None
        if binding is None:
            return None
        at = fleet.index.get(binding.slot)
        return at if at is not None and fleet.endpoints[at].incarnation == binding.incarnation else None

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[ResponseHeader]]:
        """Bind the session, or note that it is used."""
        session, decision, now_ns = self._session(request), verdict.of(self._profile), request.at_ns
        if session is None or decision is None or not decision.chosen:
            return (), ()
        self._forget(now_ns - self._life_ns)
        binding = self._binding(session, now_ns)
        told_ns = self._told_ns.get(session, 0)
        if binding is None or not any(
            (each.slot, each.incarnation) == (binding.slot, binding.incarnation) for each in decision.candidates
        ):
            first = decision.candidates[decision.chosen[0]]
            binding, told_ns = Binding(session, first.slot, first.incarnation, now_ns), 0
        binding.used_ns = now_ns
        self._put(binding)
        if now_ns - told_ns >= self._life_ns * TOLD_AFTER:
            self._told_ns[session] = now_ns
            self._tell(msgspec.msgpack.encode(binding))
        return (), ()

    def hear(self, data: bytes) -> None:
        """Follow what another worker did; of two that bound a session at once the later one wins everywhere."""
        binding = _binding(data)
        known = self._bound.get(binding.session)
        if known is None or known.used_ns <= binding.used_ns:
            self._put(binding)

    def _binding(self, session: bytes, now_ns: int) -> Binding | None:
        """Return where a session is, if it is still remembered: what others told late stands behind what is newer."""
        binding = self._bound.get(session)
        return binding if binding is not None and binding.used_ns >= now_ns - self._life_ns else None

    def _session(self, request: Request) -> bytes | None:
        """The id of the request's session, shortened: clients may choose long ones."""
        found = next((value for source in self._sources if (value := source.read(request))), None)
        return xxhash.xxh3_128_digest(found.encode("utf-8", "surrogatepass")) if found else None

    def _put(self, binding: Binding) -> None:
        self._bound[binding.session] = binding
        self._bound.move_to_end(binding.session)
        if len(self._bound) > MOST_SESSIONS:
            self._drop(next(iter(self._bound)))

    def _forget(self, before_ns: int) -> None:
        while self._bound and (oldest := next(iter(self._bound.values()))).used_ns < before_ns:
            self._drop(oldest.session)

    def _drop(self, session: bytes) -> None:
        del self._bound[session]
        self._told_ns.pop(session, None)


def write_token(endpoint: Endpoint) -> str:
    """Return the token that names an endpoint."""
    return b64encode(f"{endpoint.namespace}/{endpoint.name}".encode()).decode()


def read_token(token: str) -> tuple[str, str] | None:
    """Return the namespace and the name of the endpoint that a token names; None if it is no token."""
    if not token or len(token) > LONGEST_TOKEN:
        return None
    try:
        namespace, slash, name = b64decode(token, validate=True).decode().partition("/")
    except ValueError:  # Base64's error, and bytes that are not UTF-8
        return None
    return (namespace, name) if slash else None
