"""Filters by labels, and what conformance tests need."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import ResponseHeader
from shunter.picker.core.kinds import Header, Verdict
from shunter.picker.core.request import Request
from shunter.picker.core.saturation import DECODE, PREFILL, ROLE_LABEL
from shunter.picker.plugins.catalogue import Kind, Part, Plugin, Stability, register

__all__ = [
    "ByLabel", "ByLabelSelector", "Decode", "Encode", "LabelSelector", "NamedByHeader", "Prefill", "Requirement",
    "ServedVerifier",
]  # fmt: skip

ENCODE = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})


@register("decode-filter", Kind.FILTER)
class Decode(Plugin, frozen=True):
    """Keeps those that decode: role decode, prefill-decode, encode-prefill-decode or both, or without a role."""

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  labels alone decide
        """Return the positions that stay."""
        return _with_role(fleet, DECODE)


@register("prefill-filter", Kind.FILTER)
class Prefill(Plugin, frozen=True):
    """Keeps those that prefill: role prefill, encode-prefill, prefill-decode, encode-prefill-decode or both."""

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  labels alone decide
        """Return the positions that stay."""
        return _with_role(fleet, PREFILL)


@register("encode-filter", Kind.FILTER)
class Encode(Plugin, frozen=True):
    """Keeps those that encode: role encode, encode-prefill or encode-prefill-decode."""

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  labels alone decide
        """Return the positions that stay."""
        return _with_role(fleet, ENCODE)


def _with_role(fleet: Fleet, roles: frozenset[str | None]) -> list[int]:
    return [at for at, endpoint in enumerate(fleet.endpoints) if endpoint.labels.get(ROLE_LABEL) in roles]


class Requirement(Part, frozen=True):
    """One ``matchExpressions`` entry of a Kubernetes label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what Kubernetes refuses."""
        if bool(self.values) != (self.operator in ("In", "NotIn")):
            raise ValueError(f"operator {self.operator} {'has no' if self.values else 'needs'} values")

    def met_by(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes: a missing label satisfies NotIn."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None


@register("label-selector-filter", Kind.FILTER)
class LabelSelector(Plugin, frozen=True):
    """Keeps those whose labels a Kubernetes label selector matches; an empty selector matches all."""

    match_labels: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    match_expressions: tuple[Requirement, ...] = ()

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  labels alone decide
        """Return the positions that stay."""
        return [at for at, endpoint in enumerate(fleet.endpoints) if self._matches(endpoint.labels)]

    def _matches(self, labels: Mapping[str, str]) -> bool:
        return self.match_labels.items() <= labels.items() and all(
            requirement.met_by(labels) for requirement in self.match_expressions
        )


@register("by-label-selector", Kind.FILTER, replacement="label-selector-filter")
class ByLabelSelector(LabelSelector, frozen=True):
    """The former name of label-selector-filter."""


@register("by-label", Kind.FILTER, replacement="label-selector-filter")
class ByLabel(Plugin, frozen=True):
    """Keeps those whose label has one of validValues; with allowsNoLabel also those without it.

    Source: llm-d's plugin of that name.
    """

    label: str
    valid_values: tuple[str, ...] = ()
    allows_no_label: bool = False

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  labels alone decide
        """Return the positions that stay."""
        valid = {*self.valid_values, None} if self.allows_no_label else set(self.valid_values)
        return [at for at, endpoint in enumerate(fleet.endpoints) if endpoint.labels.get(self.label) in valid]


@register("header-based-testing-filter", Kind.FILTER, stability=Stability.ALPHA)
class NamedByHeader(Plugin, frozen=True):
    """Keeps those that the header test-epp-endpoint-selection names, ``ip`` or ``ip:port`` each; without it, nobody.

    For conformance tests only: with it any client chooses its endpoint.
    """

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        return fleet.among(request.headers.get("test-epp-endpoint-selection", "").split(","))


@register("destination-endpoint-served-verifier", Kind.HOOK, stability=Stability.ALPHA)
class ServedVerifier(Plugin, frozen=True):
    """Tells in the response's header x-conformance-test-served-endpoint who the gateway says has served it.

    For conformance tests only, beside header-based-testing-filter. Source: llm-d's plugin of that name.
    """

    @property
    def needs(self) -> Sequence[str]:
        """It goes with the response."""
        return ("headers",)

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[ResponseHeader]]:  # noqa: ARG002
        """Tell it, whoever it is going to be."""
        served = {each.authority: each.authority for each in verdict.decision.candidates}
        return (), (("x-conformance-test-served-endpoint", {"": "fail: missing envoy lb metadata"} | served),)
