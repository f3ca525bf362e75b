"""Rollouts of disaggregated sets: prefill and decode of one request are of the same revision."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import DropReason, Refusal, ResponseHeader
from shunter.picker.core.kinds import Dice, Header, Setting, Verdict
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Part, Plugin, Stability, register
from shunter.picker.plugins.filters import Requirement

__all__ = ["RolloutScreener", "read_selector"]

Name = Annotated[str, Meta(min_length=1)]

INCOMPLETE = Refusal(503, "ServiceUnavailable", "no revision has an endpoint of every role", DropReason.NO_ENDPOINTS)
UNKNOWN = Refusal(503, "ServiceUnavailable", "no endpoint is what a header of the request asks for", DropReason.NO_ENDPOINTS)

# Kubernetes' selector syntax: one requirement, up to the comma that is not in parentheses.
REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<no>[\w./-]+)|(?P<key>[\w./-]+)\s*"
    r"(?:(?P<equal>==?|!=)\s*(?P<value>[\w.-]*)|(?P<set>in|notin)\s*\(\s*(?P<values>[\w.,\s-]*)\))?)\s*(?:,|$)",
)


class Scope(Part, frozen=True):
    """Whose roles and revisions are counted."""

    label_selector: Name


class HeaderSelector(Part, frozen=True):
    """A header that asks for a label's value, and tells it in the response."""

    name: Name
    header_name: Name
    label_key: Name
    mode: Literal["strict", "prefer"]


class RequiredRoles(Part, frozen=True):
    """The former place of requiredRoles."""

    values: Annotated[tuple[str, ...], Meta(min_length=1)]


class Gating(Part, frozen=True):
    """How a revision is chosen."""

    mode: Literal["sum", "max-role", "disabled"]
    required_roles: tuple[Name, ...] = ()
    require_roles: RequiredRoles | None = None  # as the first releases had it
    revision_header_name: Name = "x-llm-d-disagg-revision"
    revision_label_key: Name = "disaggregatedset.x-k8s.io/revision"
    role_label_key: Name = "disaggregatedset.x-k8s.io/role"

    def __post_init__(self) -> None:
        """Refuse a choice between revisions that need nothing."""
        if self.mode != "disabled" and not self.roles:
            raise ValueError(f"mode {self.mode} needs requiredRoles")

    @property
    def roles(self) -> tuple[str, ...]:
        """Each of them must have a ready endpoint in a revision that gets traffic; none if any may."""
        return self.required_roles or (self.require_roles.values if self.require_roles else ())


@register("disaggregatedset-rollout-screener", Kind.HOOK, stability=Stability.ALPHA)
class RolloutScreener(Plugin, frozen=True):
    """Chooses one revision of a DisaggregatedSet for all profiles of a request, in proportion to what is ready of each.

    A revision without an endpoint of every required role gets nothing. Of the others the weight is, by revisionGating.mode,
    the number of ready endpoints of all required roles (``sum``) or of the one role that has most of them over all revisions
    (``max-role``; of equals the first required one). With ``disabled`` none is chosen.

    The header revisionHeaderName keeps those of the revision that it says, and then none is drawn: it must name a complete
    one. Nobody left is a 503. The response tells in the same header the revision of whoever served, which needs a profile that
    shows the picker responses' headers. The first releases had ``requireRoles.values`` and, instead of the one header,
    ``headerSelectors``: those that are ``strict`` do this with any label, others only tell it.

    Source: llm-d's plugin of that name.
    """

    scope: Scope
    revision_gating: Gating
    header_selectors: tuple[HeaderSelector, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no selector."""
        read_selector(self.scope.label_selector)

    @property
    def selectors(self) -> tuple[HeaderSelector, ...]:
        """Which headers count."""
        gating = self.revision_gating
        if self.header_selectors or gating.require_roles:
            return self.header_selectors
        return (HeaderSelector("revision", gating.revision_header_name, gating.revision_label_key, "strict"),)

    @property
    def needs(self) -> Sequence[str]:
        """Labels go with the response."""
        return ("headers",) if self.selectors else ()

    def start(self, setting: Setting) -> "Screen":
        """Return the screener at work."""
        return Screen(self, setting.dice)


class Screen:
    """A RolloutScreener with dice."""

    def __init__(self, parameters: RolloutScreener, dice: Dice) -> None:
        """Keep nothing but these."""
        self._gating = parameters.revision_gating
        self._scope = read_selector(parameters.scope.label_selector)
        self._selectors = parameters.selectors
        self._dice = dice

    def screen(self, request: Request, fleet: Fleet) -> Sequence[int] | Refusal:
        """Return the positions that any profile may choose from, or why there are none."""
        kept: Sequence[int] = range(len(fleet))
        asked: str | None = None
        for selector in self._selectors:
            wanted = request.headers.get(selector.header_name.lower())
            if wanted and selector.mode == "strict":
                kept = [at for at in kept if fleet.endpoints[at].labels.get(selector.label_key) == wanted]
                if selector.label_key == self._gating.revision_label_key:
                    asked = wanted
        if not kept:
            return UNKNOWN
        if self._gating.mode == "disabled":
            return kept
        weights = self._weights(fleet)
        revision = asked if asked is not None else self._draw(weights)
        if revision not in weights:
            return INCOMPLETE
        label = self._gating.revision_label_key
        return [at for at in kept if fleet.endpoints[at].labels.get(label) == revision] or UNKNOWN

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[ResponseHeader]]:  # noqa: ARG002
        """Tell the labels of who serves."""
        decision = verdict.decision
        chosen = [decision.candidates[at] for at in decision.chosen]
        told: list[ResponseHeader] = []
        for selector in self._selectors:
            labels = {each.authority: label for each in chosen if (label := each.labels.get(selector.label_key))}
            told.append((selector.header_name.lower(), labels))
        return (), told

    def _weights(self, fleet: Fleet) -> Mapping[str, int]:
        """Return the weight of each complete revision."""
        gating = self._gating
        roles = gating.roles
        counts: dict[str, Counter[str]] = {}
        for endpoint in fleet.endpoints:
            labels = endpoint.labels
            revision, role = labels.get(gating.revision_label_key), labels.get(gating.role_label_key)
            if revision and role in roles and all(requirement.met_by(labels) for requirement in self._scope):
                counts.setdefault(revision, Counter())[role] += 1
        complete = {revision: count for revision, count in counts.items() if len(count) == len({*roles})}
        if gating.mode == "sum":
            return {revision: count.total() for revision, count in complete.items()}
        largest = max(roles, key=lambda role: sum(count[role] for count in complete.values()))
        return {revision: count[largest] for revision, count in complete.items()}

    def _draw(self, weights: Mapping[str, int]) -> str:
        left = self._dice.randrange(sum(weights.values())) if weights else 0
        for revision, weight in sorted(weights.items()):
            left -= weight
            if left < 0:
                return revision
        return ""


def read_selector(text: str) -> Sequence[Requirement]:
    """Return the requirements of a selector such as ``app=a,tier in (x, y),!old``; raise ValueError if it is none."""
    found: list[Requirement] = []
    at = 0
    while at < len(text):
        match = REQUIREMENT.match(text, at)
        if match is None or match.end() == at:
            raise ValueError(f"{text!r} is not a label selector such as app=a,tier in (x, y)")
        found.append(_requirement(match))
        at = match.end()
    return found


def _requirement(match: re.Match[str]) -> Requirement:
    part = match.groupdict()
    if part["absent"]:
        return Requirement(part["no"], "DoesNotExist")
    if part["equal"]:
        return Requirement(part["key"], "NotIn" if part["equal"] == "!=" else "In", (part["value"],))
    if part["set"]:
        values = _split(part["values"])
        return Requirement(part["key"], "In" if part["set"] == "in" else "NotIn", tuple(values))
    return Requirement(part["key"], "Exists")


def _split(values: str) -> Iterable[str]:
    return (value.strip() for value in values.split(","))
