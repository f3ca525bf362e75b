"""TLS: the reference serves nothing else by default."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]


async def http2(target: Target) -> str:
    negotiated = await target.alpn()
    if negotiated != "h2":
        raise Mismatch("h2, negotiated by ALPN", negotiated or "no protocol")
    return negotiated


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.tls.http2",
        level=Level.MUST,
        requirement="A picker behind TLS MUST negotiate HTTP/2 by ALPN.",
        why="gRPC clients give up on a server that does not, Envoy's health checks among them.",
        source="RFC 9113 section 3.2",
        run=http2,
    ),
)
