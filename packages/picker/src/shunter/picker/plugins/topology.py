"""Near to where another part of the request is served: on the same host, in the same rack, zone or region, or as a header says.

Where an endpoint is stands in its labels. Kubernetes copies those of zone and region from the node since 1.35; host and rack
are somebody's own to set.
"""

from collections.abc import Sequence
from typing import Literal

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import ResponseHeader
from shunter.picker.core.kinds import Header, Verdict
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import PEER
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register
from shunter.snapshot import Endpoint

__all__ = ["HeaderLabelAffinity", "TopologyFilter", "TopologyScorer"]

Level = Literal["host", "rack", "zone", "region"]

# From near to far, with the label that says it and what being there together is worth (GIE digest §5.3).
LEVELS: tuple[tuple[Level, str, float], ...] = (
    ("host", "kubernetes.io/hostname", 1.0),
    ("rack", "topology.kubernetes.io/rack", 0.2),
    ("zone", "topology.kubernetes.io/zone", 0.05),
    ("region", "topology.kubernetes.io/region", 0.02),
)


@register("topology-affinity-filter", Kind.FILTER)
class TopologyFilter(Plugin, frozen=True):
    """Keeps those that are as near to the peer as minAffinity says, or nearer; everybody if nobody is, or there is no peer.

    The peer is the endpoint that the first profile of the same request chose: prefill near to decode, or back. Near is by
    the labels kubernetes.io/hostname and topology.kubernetes.io/rack, /zone and /region; a missing one is near to nothing.
    Source: GIE digest §5.3.
    """

    min_affinity: Level = "host"

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        enough = next(worth for level, _, worth in LEVELS if level == self.min_affinity)
        near = [at for at, worth in enumerate(_nearness(request, fleet)) if worth >= enough]
        return near or range(len(fleet))


@register("topology-affinity-scorer", Kind.SCORER)
class TopologyScorer(Plugin, frozen=True):
    """Nearer to the peer is better: 1 on its host, 0.2 in its rack, 0.05 in its zone, 0.02 in its region, else 0.

    See topology-affinity-filter for what is near. Source: GIE digest §5.3.
    """

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        return _nearness(request, fleet)


@register("header-label-affinity-scorer", Kind.SCORER, stability=Stability.ALPHA)
class HeaderLabelAffinity(Plugin, frozen=True):
    """1 for those whose label labelKey is what the request's header headerName says, 0 for the others.

    With stampResponseHeader the response tells in that header the label of whoever served, for a later request to be sent
    near to it; that needs a profile that shows the picker responses' headers. Source: GIE digest §5.3.
    """

    header_name: str
    label_key: str
    stamp_response_header: bool = False

    @property
    def needs(self) -> Sequence[str]:
        """A stamp goes with the response."""
        return ("headers",) if self.stamp_response_header else ()

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        wanted = request.headers.get(self.header_name.lower())
        if not wanted:
            return [0.0] * len(fleet)
        return [float(endpoint.labels.get(self.label_key) == wanted) for endpoint in fleet.endpoints]

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[ResponseHeader]]:  # noqa: ARG002
        """Tell the client where it was served."""
        if not self.stamp_response_header:
            return (), ()
        decision = verdict.decision
        chosen = [decision.candidates[at] for at in decision.chosen]
        labels = {each.authority: label for each in chosen if (label := each.labels.get(self.label_key))}
        return (), ((self.header_name.lower(), labels),)


def _nearness(request: Request, fleet: Fleet) -> list[float]:
    """Return what each candidate's distance from the peer is worth."""
    peer = request.facts.get(PEER)
    if not isinstance(peer, Endpoint):
        return [0.0] * len(fleet)
    places = [(label, place, worth) for _, label, worth in LEVELS if (place := peer.labels.get(label))]
    return [
        next((worth for label, place, worth in places if endpoint.labels.get(label) == place), 0.0)
        for endpoint in fleet.endpoints
    ]
