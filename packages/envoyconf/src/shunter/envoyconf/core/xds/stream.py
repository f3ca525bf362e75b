"""One client's stream: requests in, responses out, each kind in its turn so that no request is lost to a change.

The order is make before break. Clusters and their endpoints go first; listeners and routes wait until the clusters were
accepted, which Envoy says only when they are warm (measured: it takes a route to a cluster it does not have, and answers 503).
What is gone is taken away last, when no listener or route that was accepted leads there.

Rules that were learnt from real Envoys:

1. A cluster that is new or changed waits for its endpoints even if Envoy has them, and in the delta form does not ask
   again: they are sent again behind it.
2. A cluster that is gone again while it is warming needs its endpoints all the same: Envoy accepts nothing before.
3. One response of a kind is on its way at a time. States that a slow client misses meanwhile it never sees: what is owed
   to a client is bounded by one state.
4. What was refused is not sent again until its content changes. While clusters are refused, nothing that may lead to them
   goes to a client that has listeners and routes, nor routes while listeners are: a route relies on its listener's filters,
   and requests would go without a pick. Endpoints go.
5. A client that comes back after clusters have gone asks for clusters first and for the rest at once: nothing is taken away
   before it has answered, for by then it has said all.
"""

from collections.abc import Mapping
from enum import Enum

from shunter.envoyconf.core.xds import delta, sotw
from shunter.envoyconf.core.xds.channel import Channel, Request, Response
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.state import Item, State

__all__ = ["Form", "Stream"]

# What leads to clusters.
LEADING = (Kind.LISTENER, Kind.ROUTES)

# In which order what is gone is taken away. Listeners are not among them: theirs is the first step, not the last.
REMOVED = (Kind.CLUSTER, Kind.ENDPOINTS, Kind.ROUTES, Kind.SECRET)


class Form(Enum):
    """The two forms of the protocol."""

    STATE_OF_THE_WORLD = "sotw"
    DELTA = "delta"


class Stream:
    """What a client is owed. Feed it requests and states; ask it for responses until there are none."""

    def __init__(self, form: Form, goal: State) -> None:
        self.channels: dict[Kind, Channel] = {}
        self._form = sotw if form is Form.STATE_OF_THE_WORLD else delta
        self._goal = goal
        self._again: set[str] = set()  # endpoints to be sent behind their clusters, asked for or not yet
        self._late: dict[str, Item] = {}  # endpoints that are gone, of clusters that are not yet
        self._nonces = 0

    def receive(self, request: Request) -> bool | None:
        """Take a request, and say whether it accepts or refuses a response, if it answers one.

        Raises SubscriptionError if it asks for too much.
        """
        first = request.kind not in self.channels
        channel = self.channels.setdefault(request.kind, Channel(request.kind))
        answers = channel.waiting is not None and channel.waiting.nonce == request.nonce
        self._form.subscribe(channel, request, first=first)
        if first and request.kind is Kind.ENDPOINTS:
            channel.due |= self._again
        return request.error is None if answers else None

    def aim(self, goal: State) -> None:
        """From now on bring the client to this state."""
        before, after = self._goal.of(Kind.ENDPOINTS), goal.of(Kind.ENDPOINTS)
        if gone := before.keys() - after.keys():
            self._late |= {name: before[name] for name in gone}
        self._goal = goal

    def next(self) -> Response | None:
        """Return what is to be sent now, if anything."""
        for kind in Kind:
            if (channel := self._free(kind)) and (kind not in LEADING or self._open(channel)):
                response = self._form.difference(channel, self._wanted(channel), hold=kind in REMOVED)
                if response:
                    return self._put(channel, response)
        if not self._settled:
            return None
        for kind in REMOVED:
            if channel := self._free(kind):
                response = self._form.difference(channel, self._wanted(channel), hold=False)
                if response:
                    return self._put(channel, response)
            elif kind in self.channels:  # one kind after the other
                return None
        return None

    def current(self, kind: Kind) -> bool:
        """Whether the client has accepted all that it asked for of a kind."""
        channel = self.channels[kind]
        wanted = self._wanted(channel)
        return not (channel.waiting or channel.refuses(wanted) or channel.changed(wanted))

    def refused(self, kind: Kind) -> str | None:
        """Return why the client does not take what it should have of a kind, in its own words; None if it does."""
        channel = self.channels[kind]
        return channel.error if channel.refuses(self._wanted(channel)) else None

    def _free(self, kind: Kind) -> Channel | None:
        """Return the channel of a kind, if it was asked for and no response is on its way."""
        channel = self.channels.get(kind)
        return channel if channel and channel.waiting is None else None

    def _wanted(self, channel: Channel) -> Mapping[str, Item]:
        if channel.kind is Kind.ENDPOINTS and self._late:
            clusters = self.channels.get(Kind.CLUSTER)
            needed = {name for item in clusters.sent.values() for name in item.refers} if clusters else set[str]()
            self._late = {name: item for name, item in self._late.items() if name in needed}
            return channel.wanted({**self._late, **self._goal.of(Kind.ENDPOINTS)})
        return channel.wanted(self._goal.of(channel.kind))

    def _open(self, channel: Channel) -> bool:
        """Whether what leads to clusters may go: when they, and for routes the listeners, were accepted or never asked for."""
        fresh = not (channel.sent or channel.accepted)
        before = (Kind.CLUSTER, Kind.LISTENER)[: 1 + (channel.kind is Kind.ROUTES)]
        others = [other for kind in before if (other := self.channels.get(kind))]
        return not any(other.waiting or (not fresh and other.refuses(self._wanted(other))) for other in others)

    @property
    def _settled(self) -> bool:
        """Whether all that leads to clusters was accepted; called when nothing but removals is left to be sent."""
        clusters = self.channels.get(Kind.CLUSTER)
        if clusters is not None and (clusters.waiting or clusters.silent or clusters.refuses(self._wanted(clusters))):
            return False
        leading = [channel for kind in LEADING if (channel := self.channels.get(kind))]
        return not any(channel.waiting or channel.refuses(self._wanted(channel)) for channel in leading)

    def _put(self, channel: Channel, response: Response) -> Response:
        if channel.kind is Kind.CLUSTER:
            known = {name: item.version for name, item in channel.sent.items() if name not in channel.due}
            again = {name for item in response.items if known.get(item.name) != item.version for name in item.refers}
            endpoints = self.channels.get(Kind.ENDPOINTS)
            (self._again if endpoints is None else endpoints.due).update(again)
        self._nonces += 1
        return channel.put(response, str(self._nonces))
