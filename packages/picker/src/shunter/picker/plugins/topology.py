"""Near to where another part of the request is served: on the same host, in the same rack, zone or region, or as a header says.

Where an endpoint is stands in its labels. Kubernetes copies those of zone and region from the node since 1.35; host and rack
are somebody's own to set.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import ResponseHeader
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import PEER
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, Stability, register
from shunter.snapshot import Endpoint

__all__ = ["HeaderLabelAffinity", "Places", "TopologyFilter", "TopologyScorer"]

Level = Literal["host", "rack", "zone", "region"]
Labels = tuple[str, str, str, str]

# From near to far: what being there together is worth in llm-d, and the label that says it.
WORTH: dict[Level, float] = {"host": 1.0, "rack": 0.2, "zone": 0.05, "region": 0.02}
LABELS: Labels = (
    "kubernetes.io/hostname",
    "topology.kubernetes.io/rack",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)

EXTRACTOR = "topology-extractor"
PLACES = Reference("topologyProducerName", Kind.PRODUCER, implied=EXTRACTOR)


@register(EXTRACTOR, Kind.PRODUCER, stability=Stability.ALPHA)
class Places(Plugin, frozen=True):
    """Says in which labels it stands where an endpoint is.

    Empty ones are kubernetes.io/hostname and topology.kubernetes.io/rack, /zone and /region. In place of a missing label for
    the host the reference takes the pod's ``spec.hostname``, which the scraper does not know.

    Source: llm-d's plugin of that name.
    """

    hostname: str = ""
    rack: str = ""
    zone: str = ""
    region: str = ""

    @property
    def labels(self) -> Labels:
        """From near to far."""
        host, rack, zone, region = LABELS
        return (self.hostname or host, self.rack or rack, self.zone or zone, self.region or region)


@register("topology-affinity-filter", Kind.FILTER)
class TopologyFilter(Plugin, frozen=True):
    """Keeps those that are as near to the peer as minAffinity says, or nearer; everybody if nobody is, or there is no peer.

    The peer is the endpoint that the first profile of the same request chose: prefill near to decode, or back. Near is by
    the labels that topology-extractor names; a missing one is near to nothing. Source: llm-d's plugin of that name.
    """

    min_affinity: Level = "host"
    topology_producer_name: str = ""  # empty: the one there is

    references: ClassVar[tuple[Reference, ...]] = (PLACES,)

    def start(self, setting: Setting) -> "Near":
        """Return the filter at work."""
        return Near(setting, self.topology_producer_name, WORTH[self.min_affinity])


@register("topology-affinity-scorer", Kind.SCORER)
class TopologyScorer(Plugin, frozen=True):
    """Nearer to the peer is better: 1 on its host, 0.2 in its rack, 0.05 in its zone, 0.02 in its region, else 0.

    See topology-affinity-filter for what is near. Source: llm-d's plugin of that name.
    """

    topology_producer_name: str = ""  # empty: the one there is

    references: ClassVar[tuple[Reference, ...]] = (PLACES,)

    def start(self, setting: Setting) -> "Near":
        """Return the scorer at work."""
        return Near(setting, self.topology_producer_name)


class Near:
    """Either of both, knowing the labels."""

    def __init__(self, setting: Setting, places: str, enough: float = 0.0) -> None:
        """``places`` is the name of a topology-extractor, ``enough`` the least worth of those who are near."""
        found = setting.find(places) if places else None
        self._labels = found.labels if isinstance(found, Places) else LABELS
        self._enough = enough

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        near = [at for at, worth in enumerate(self.score(request, fleet)) if worth >= self._enough]
        return near or range(len(fleet))

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Return what each candidate's distance from the peer is worth."""
        peer = request.facts.get(PEER)
        if not isinstance(peer, Endpoint):
            return [0.0] * len(fleet)
        levels = zip(self._labels, WORTH.values(), strict=True)
        places = [(label, place, worth) for label, worth in levels if (place := peer.labels.get(label))]
        return [
            next((worth for label, place, worth in places if endpoint.labels.get(label) == place), 0.0)
            for endpoint in fleet.endpoints
        ]


@register("header-label-affinity-scorer", Kind.SCORER, stability=Stability.ALPHA)
class HeaderLabelAffinity(Plugin, frozen=True):
    """1 for those whose label labelKey is what the request's header headerName says, 0 for the others.

    With stampResponseHeader the response tells in that header the label of whoever served, for a later request to be sent
    near to it; that needs a profile that shows the picker responses' headers. Source: llm-d's plugin of that name.
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
