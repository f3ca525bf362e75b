"""Pods as members of pools: one for each live target port of each pod that is ready and not leaving.

As in llm-d-router 0.10: for pod P and target port number i there is an endpoint ``P-rank-i`` at the pod's address; the
annotation ``llm-d.ai/active-ports`` (formerly ``inference.networking.k8s.io/active-ports``), a comma-separated list, says which
ports are live. A pod is used if its condition Ready is True, it has no deletion timestamp, and its labels match the selector.
"""

from collections.abc import Iterable, Mapping

from msgspec import field

from shunter.scraper.core.cluster import Member, as_address
from shunter.scraper.core.dialect import DIALECTS, Dialect
from shunter.scraper.core.manifests import DEFAULT_NAMESPACE, Glimpse, Name
from shunter.snapshot import Pool

__all__ = ["ENGINE_LABELS", "Pod", "dialect_of", "engine_label", "members_of"]

DEFAULT_ENGINE = "vllm"
ENGINE_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
ACTIVE_PORTS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")

# No port has more, and Python reads no number of some thousands: whoever may annotate a pod could end the scraper.
PORT_DIGITS = 5


class PodMeta(Glimpse, frozen=True, kw_only=True):
    """What is of interest in a pod's metadata."""

    name: Name
    namespace: Name = DEFAULT_NAMESPACE
    labels: dict[str, str] = field(default_factory=dict[str, str])
    annotations: dict[str, str] = field(default_factory=dict[str, str])
    deletion_timestamp: str = ""


class PodCondition(Glimpse, frozen=True):
    """One condition."""

    type: str
    status: str


class PodStatus(Glimpse, frozen=True, kw_only=True):
    """What is of interest in a pod's status."""

    pod_ip: str = field(name="podIP", default="")
    conditions: list[PodCondition] = field(default_factory=list[PodCondition])


class Pod(Glimpse, frozen=True, kw_only=True):
    """A pod, as far as it is of interest."""

    metadata: PodMeta
    status: PodStatus = PodStatus()

    @property
    def serves(self) -> bool:
        """Whether requests may be sent to it."""
        ready = any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)
        return ready and not self.metadata.deletion_timestamp and as_address(self.status.pod_ip) is not None


def engine_label(labels: Mapping[str, str]) -> str | None:
    """Return the label that names an engine, the newer one first; None if there is none."""
    return next((label for label in ENGINE_LABELS if label in labels), None)


def dialect_of(labels: Mapping[str, str]) -> tuple[Dialect, str]:
    """Return the dialect that an API's labels name, by default vLLM's; of an unknown engine that one too, and what is wrong."""
    label = engine_label(labels)
    engine = labels[label] if label else DEFAULT_ENGINE
    if engine in DIALECTS:
        return DIALECTS[engine], ""
    return DIALECTS[DEFAULT_ENGINE], f"metadata.labels[{label}]: {engine} is no engine; taken for {DEFAULT_ENGINE}"


def members_of(pod: Pod, pools: Iterable[tuple[int, Pool]], dialect: Dialect) -> tuple[Member, ...]:
    """Return a pod's members; ``pools`` are those of its namespace, with their indices in the cluster.

    A port that several pools have is one member of them all, and its rank is that in the first.
    """
    if not pod.serves:
        return ()
    meta, address = pod.metadata, as_address(pod.status.pod_ip)
    labels = meta.labels.items()
    active = _active_ports(meta.annotations)
    ranks: dict[int, int] = {}
    joined: dict[int, list[int]] = {}
    for index, pool in pools:
        if pool.selector.items() <= labels:
            for rank, port in enumerate(pool.target_ports):
                if active is None or port in active:
                    ranks.setdefault(port, rank)
                    joined.setdefault(port, []).append(index)
    return tuple(
        Member(
            name=f"{meta.name}-rank-{rank}",
            namespace=meta.namespace,
            host=str(address),
            port=port,
            rank=rank,
            metrics_port=port,
            metrics_path=dialect.metrics_path,
            dialect=dialect,
            labels=meta.labels,
            pools=tuple(joined[port]),
        )
        for port, rank in ranks.items()
    )


def _active_ports(annotations: Mapping[str, str]) -> frozenset[int] | None:
    """Return the ports that are live; None if the pod does not say. What is no number is no port."""
    name = next((name for name in ACTIVE_PORTS if name in annotations), None)
    if name is None:
        return None
    words = (part.strip() for part in annotations[name].split(","))
    return frozenset(int(word) for word in words if word.isdecimal() and word.isascii() and len(word) <= PORT_DIGITS)
