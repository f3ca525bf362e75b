"""What the control plane tells about itself: a page for people, JSON and Prometheus text for machines."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.wire import Node

__all__ = ["Held", "Report", "Seen", "describe_trouble", "render_metrics", "render_page"]

ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Held(msgspec.Struct, frozen=True):
    """What a client has of one kind."""

    version: str  # the last that it accepted
    current: bool  # whether that is all it could have
    refused: str | None = None  # its own words


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One client: an Envoy, or a gRPC program."""

    node: Node
    peer: str
    form: str
    connected: bool
    silent_s: float  # since it said something, or went
    kinds: dict[str, Held]  # by Kind.short


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at once."""

    versions: dict[str, str] = {}  # of what is served, by Kind.short
    clients: tuple[Seen, ...] = ()
    sent: dict[str, int] = {}  # responses, by Kind.short
    accepted: dict[str, int] = {}
    refused: dict[str, int] = {}
    trouble: tuple[str, ...] = ()  # why something newer is not served


def describe_trouble(trouble: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is wrong in lines, given by whose doing."""
    return tuple(f"{whose}: {why}" for whose, why in trouble.items())


def render_page(report: Report) -> str:
    """Return lines for people."""
    refusing = sum(any(held.refused for held in seen.kinds.values()) for seen in report.clients if seen.connected)
    lines = [f"trouble: {each}" for each in report.trouble]
    lines += [f"trouble: {refusing} of the clients below refuse something"] * bool(refusing)
    lines = lines or ["all is well"]
    lines += ["serving: " + "  ".join(f"{kind} {version}" for kind, version in report.versions.items())] * bool(report.versions)
    for seen in report.clients:
        state = f"last heard of {seen.silent_s:.0f} s ago" if seen.connected else f"gone for {seen.silent_s:.0f} s"
        lines.append(f"\n{seen.node.id} ({seen.node.cluster} {seen.node.version}, {seen.peer}, {seen.form}): {state}")
        for kind, held in seen.kinds.items():
            lines.append(f"  {kind} {held.version or '-':16} {'' if held.current else 'not yet current'}".rstrip())
            if held.refused is not None:
                lines.append("      refused: " + held.refused.strip().replace("\n", "\n      "))
    return "\n".join(lines) + "\n"


def render_metrics(report: Report) -> str:
    """Return Prometheus text."""
    return "\n".join(_metrics(report)) + "\n"


def _metrics(report: Report) -> Iterator[str]:
    counters = {
        "responses": ("sent to clients", report.sent),
        "accepted": ("that clients accepted", report.accepted),
        "refused": ("that clients refused", report.refused),
    }
    for name, (meaning, values) in counters.items():
        samples = [({"kind": kind.short}, values.get(kind.short, 0)) for kind in Kind]
        yield from _family(f"shunter_xds_{name}_total", "counter", f"Responses {meaning}.", samples)
    connected = [each for each in report.clients if each.connected]
    yield from _family("shunter_xds_clients", "gauge", "Streams that are open.", [({}, len(connected))])
    current: dict[tuple[str, str, str], bool] = {}
    for each in connected:
        for kind, held in each.kinds.items():
            key = each.node.id, each.peer, kind  # a connection may have several streams of one kind
            current[key] = current.get(key, True) and held.current
    yield from _family(
        "shunter_xds_client_current",
        "gauge",
        "Whether a client has accepted the newest of a kind.",
        [({"node": node, "peer": peer, "kind": kind}, int(value)) for (node, peer, kind), value in current.items()],
    )
    yield from _family(
        "shunter_xds_trouble", "gauge", "Reasons for which something newer is not served.", [({}, len(report.trouble))]
    )


def _family(name: str, kind: str, meaning: str, samples: Iterable[tuple[dict[str, str], int]]) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        inside = ",".join(f'{key}="{text.translate(ESCAPES)}"' for key, text in labels.items())
        yield f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"
