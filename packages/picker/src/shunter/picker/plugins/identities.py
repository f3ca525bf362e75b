"""Who is asking: which session a request belongs to, and which agent's."""

from collections.abc import Mapping

import msgspec

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.request import DEFAULT_FLOW, Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register

__all__ = ["ATTRIBUTES", "AgentIdentity", "SessionId"]

SESSION_HEADER = "x-session-id"

# What the reference calls that which a producer finds out, and the producer's type.
ATTRIBUTES = {"SessionID": "session-id-producer"}

# What Claude Code, OpenCode and Codex (its older form last) call a session.
AGENT_HEADERS = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")


@register("session-id-producer", Kind.PRODUCER)
class SessionId(Plugin, frozen=True):
    """The session of a request: the value of the header headerName, x-session-id by default, or of the cookie cookieName.

    Others find it by this plugin's name or type, or as SessionID: session-affinity-filter and session-affinity-scorer as an
    ``attribute`` of their sessionIdConfig. Source: llm-d's plugin of that name; cookies as RFC 6265 section 4.2.1.
    """

    header_name: str = ""
    cookie_name: str = ""

    def __post_init__(self) -> None:
        """Refuse two places at once."""
        if self.header_name and self.cookie_name:
            raise ValueError("headerName and cookieName exclude each other; keep one")

    def produce(self, request: Request, fleet: Fleet) -> str | None:  # noqa: ARG002  who may serve it does not matter
        """Return it, if the request has one."""
        if self.cookie_name:
            return read_cookie(request.headers, self.cookie_name)
        return request.headers.get(self.header_name.lower() or SESSION_HEADER) or None


@register("agent-identity", Kind.PRODUCER, Kind.HOOK, stability=Stability.BETA)
class AgentIdentity(Plugin, frozen=True):
    """The session of a coding agent, from the headers that agents send; flow control is fair between them.

    The first of additionalSessionHeaders, x-claude-code-session-id, x-session-affinity, session-id and session_id that the
    request has. It is the fairness id of a request that names none itself, and an ``attribute`` for session affinity.
    Source: llm-d's plugin of that name.
    """

    additional_session_headers: tuple[str, ...] = ()

    def identify(self, request: Request) -> Request:
        """Complete the request."""
        identity = self.produce(request)
        if identity is None or request.fairness_id != DEFAULT_FLOW:
            return request
        return msgspec.structs.replace(request, fairness_id=identity)

    def produce(self, request: Request, fleet: Fleet | None = None) -> str | None:  # noqa: ARG002  as above
        """Return it, if the request has one."""
        get = request.headers.get
        names = (*(name.lower() for name in self.additional_session_headers), *AGENT_HEADERS)
        return next((value for name in names if (value := get(name))), None)


def read_cookie(headers: Mapping[str, str], name: str) -> str | None:
    """Return the value of a cookie, if the request has it."""
    for pair in headers.get("cookie", "").split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value or None
    return None
