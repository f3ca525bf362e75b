"""Envoy Gateway's policies become the profile and the limits of an intent."""

from collections.abc import Callable, Iterator
from typing import Any

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import Manifests
from shunter.envoyconf.core.kube.pickers import pools
from shunter.envoyconf.core.kube.quantities import read_bytes, read_seconds

__all__ = ["limits", "profile_of_policy"]

DUPLEX = "FullDuplexStreamed"


def profile_of_policy(manifests: Manifests, note: Callable[[Cursor, str], None]) -> dict[str, str]:
    """Return the profile in which the policies ask pickers, if they say; what is asked of InferencePools is the gateway's."""
    extensions = [each for policy in manifests.of("EnvoyExtensionPolicy") for each in policy.spec["extProc"]]
    if not extensions:
        # In both directions and to the last byte, as GIE's picker protocol demands (GIE digest §2.2).
        if pool := next(pools(manifests), None):
            note(pool.root["kind"], "profile full, as gateways with InferencePools ask; Shunter's pickers do with lean")
        return {"profile": "full"} if pool else {}
    mode = extensions[0]["processingMode"]
    request, response = mode.at("request", "body").text, mode.at("response", "body").text
    if response == DUPLEX:
        return {"profile": "full"}
    if request == DUPLEX:
        note(mode, "the picker is sent the request's body as it comes; the nearest profile that needs no records is full")
        return {"profile": "full"}
    if response or mode["response"]:
        note(mode["response"], "in the profile lean the picker is sent nothing of responses")
    return {"profile": "lean"}


def limits(manifests: Manifests) -> dict[str, Any]:
    """Return the limits that policies of the Gateway and of the routes set; where they differ, the largest."""
    read: dict[str, Any] = {}
    for policy in manifests.of("BackendTrafficPolicy", "ClientTrafficPolicy"):
        for field, value in _limits(policy.spec):
            read[field] = max(value, read.get(field, value))
    return read


def _limits(spec: Cursor) -> Iterator[tuple[str, Any]]:
    sizes = (("bodyBytes", read_bytes(spec.at("connection", "bufferLimit"))),)
    times = (
        ("idleTimeoutSeconds", read_seconds(spec.at("timeout", "http", "streamIdleTimeout"))),
        ("connectTimeoutSeconds", read_seconds(spec.at("timeout", "tcp", "connectTimeout"))),
    )
    yield from ((field, value) for field, value in (*sizes, *times) if value)
    if (retries := spec.at("retry", "numRetries").number) is not None:
        yield "retries", retries
