"""What autoscalers may ask for by HTTP, in the shape of the API ``external.metrics.k8s.io/v1beta1``.

It is the gauges of the pool, under the names that Prometheus has: a HorizontalPodAutoscaler behind an adapter and KEDA's
``metrics-api`` scaler read the same numbers, the latter without a Prometheus between.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

from shunter.picker.core import families
from shunter.picker.core.families import Family
from shunter.picker.core.samples import Samples

__all__ = ["OFFERED", "External", "Item", "offer"]

OFFERED: tuple[Family, ...] = (
    families.DESIRED_REPLICAS,
    families.READY,
    families.AVERAGE_QUEUE,
    families.AVERAGE_RUNNING,
    families.AVERAGE_KV,
    families.QUEUE_SIZE,
    families.SATURATION,
)
"""What there is."""


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """An ExternalMetricValue; ``value`` is a quantity: a decimal number, in thousandths with an m behind it."""

    metric_name: str
    metric_labels: dict[str, str]
    timestamp: str  # RFC 3339
    value: str


class External(msgspec.Struct, frozen=True, rename="camel"):
    """An ExternalMetricValueList."""

    items: tuple[Item, ...]
    kind: str = "ExternalMetricValueList"
    api_version: str = "external.metrics.k8s.io/v1beta1"
    metadata: dict[str, str] = {}


def offer(
    shown: Iterable[Samples], timestamp: str, name: str | None = None, labels: Mapping[str, str] | None = None
) -> External:
    """Return those that are offered, or the one of a name, with all the given labels; without items if there is none.

    What is not known, or without bounds, is left out: there is no such quantity, and an autoscaler then keeps what it has.
    """
    items: list[Item] = []
    for samples in shown:
        family = samples.family
        if family not in OFFERED or name not in {None, family.name}:
            continue
        for values, value in samples.values.items():
            its = dict(zip(family.labels, values, strict=True))
            if isinstance(value, int | float) and math.isfinite(value) and (labels or {}).items() <= its.items():
                items.append(Item(family.name, its, timestamp, _quantity(value)))
    return External(tuple(items))


def _quantity(value: float) -> str:
    """Return a number as Kubernetes writes quantities, to the thousandth."""
    thousandths = round(value * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"
