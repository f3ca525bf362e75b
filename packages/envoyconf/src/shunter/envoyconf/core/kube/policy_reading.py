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
        # In both directions and to the last byte, as GIE's picker protocol demands (proposal 004).
        if pool := next(pools(manifests), None):
            note(pool.root["kind"], "profile full, as gateways with InferencePools ask; Shunter's pickers do with lean")
        return {"profile": "full"} if pool else {}
    mode = extensions[0]["processingMode"]
    for other in extensions[1:]:
        if other["processingMode"].value != mode.value:
            note(other["processingMode"] or other, "another picker is asked otherwise; the profile is that of the first")
    request, response = mode.at("request", "body").text, mode.at("response", "body").text
    if response == DUPLEX:
        return {"profile": "full"}
    if request == DUPLEX:
        note(mode, "the picker is sent the request's body as it comes; the nearest profile that needs no records is full")
        return {"profile": "full"}
    if response or mode["response"]:
        note(mode["response"], "in the profile lean the picker is sent nothing of responses")
    return {"profile": "lean"}


def limits(manifests: Manifests, note: Callable[[Cursor, str], None]) -> dict[str, Any]:
    """Return the limits that policies of the Gateway and of the routes set; where they differ, the largest."""
    read: dict[str, dict[Any, Cursor]] = {}
    for policy in manifests.of("BackendTrafficPolicy", "ClientTrafficPolicy"):
        for field, value, at in _limits(policy.spec):
            read.setdefault(field, {}).setdefault(value, at)
        answer = policy.spec.at("timeout", "http", "requestTimeout")
        if answer and read_seconds(answer) != 0:
            note(answer, f"requestTimeout {answer.text} is left out: answers take as long as they take")
    for policy in manifests.of("EnvoyExtensionPolicy"):
        for at in (each["messageTimeout"] for each in policy.spec["extProc"]):
            if seconds := read_seconds(at):
                read.setdefault("pickTimeoutSeconds", {}).setdefault(seconds, at)
    for route in manifests.of("AIGatewayRoute"):
        for at in (rule["streamIdleTimeout"] for rule in route.spec["rules"]):
            if seconds := read_seconds(at):
                read.setdefault("idleTimeoutSeconds", {}).setdefault(seconds, at)
    for field, values in read.items():
        if len(values) > 1:
            several = ", ".join(f"{each:.15g}" for each in sorted(values))
            note(values[max(values)], f"limits.{field} is the largest of {several}")
    return {field: max(values) for field, values in read.items()}


def _limits(spec: Cursor) -> Iterator[tuple[str, Any, Cursor]]:
    buffer, retries = spec.at("connection", "bufferLimit"), spec.at("retry", "numRetries")
    if size := read_bytes(buffer):
        yield "bodyBytes", size, buffer
    http, tcp = spec.at("timeout", "http", "streamIdleTimeout"), spec.at("timeout", "tcp", "connectTimeout")
    for field, at in (("idleTimeoutSeconds", http), ("connectTimeoutSeconds", tcp)):
        if seconds := read_seconds(at):
            yield field, seconds, at
    if retries.number is not None:
        yield "retries", retries.number, retries
